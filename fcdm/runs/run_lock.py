"""Who may write in a run's folder: one process at a time, also when machines share the folder by NFS.

A claim is a numbered file `holders/000001.json`; the highest number is the holder. To take the run over from
a holder that released it or died, a process creates the next number. Creating is exclusive (`link` fails if
the name exists, on NFS too), so of many that try at once exactly one wins. Releasing rewrites one's own claim
with the time of release.

Whether a holder lives is decided by those who know: the process table when it ran on this machine (process id
*and* start time, for ids are used again), else the scheduler when it ran in a SLURM job. Never by a file lock
(a lock lost with a lease or a server restart would let two write), and never by the heartbeat's age alone (a
long evaluation or a suspended job is not dead). What nobody can tell is left to the user, who is told what to
remove. Linux only: elsewhere nobody can tell.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from fcdm.atomic import create_linked, file_errors, sync_folder, write_json, write_new
from fcdm.errors import UserError
from fcdm.formatting import duration_text
from fcdm.runs.lock_files import Claim, claim_path, highest, own_claim, prune, read_claim
from fcdm.runs.processes import JobAlive, ask_slurm, boot_time, process_alive

BEAT_SECONDS = 10.0
_TRIES = 100


class RunHeld(UserError):
    """Another process holds the run, or may still hold it."""


@dataclass(frozen=True)
class HolderInfo:
    """The highest claim on a run, and whether its holder lives."""

    path: Path
    number: int
    claim: Claim | None
    """None: the file cannot be read."""
    heartbeat: float
    """Unix time of its last beat."""
    alive: bool | None
    """None: cannot be told from here."""

    def __str__(self) -> str:
        age = f"last heartbeat {duration_text(max(0.0, time.time() - self.heartbeat))} ago"
        if self.claim is None:
            return f"a process whose claim {self.path} cannot be read ({age})"
        claim = self.claim
        where = claim.host if claim.node in (None, claim.host) else f"{claim.host} (node {claim.node})"
        job = f", SLURM job {claim.job} (restart {claim.restart})" if claim.job else ""
        return f"process {claim.pid} on {where}{job}, {age}"


class Holder:
    """This process's right to write in the run; leaving the `with` block gives it up."""

    def __init__(self, path: Path, number: int, claim: Claim, scheduler: JobAlive) -> None:
        self.path, self.number, self.claim = path, number, claim
        self._scheduler = scheduler
        self._beaten = time.monotonic()
        self._owner = os.getpid()

    def beat(self) -> None:
        """Says that this process still works, at most every 10 s; call it as often as you like.

        Raises RunHeld if the claim is no longer this process's: somebody removed it, or the job was requeued
        and its next incarnation has taken over. Then nothing more may be written.
        """
        now = time.monotonic()
        if now - self._beaten < BEAT_SECONDS:
            return
        self._beaten = now
        folder = self.path.parent
        try:
            held = self._still_mine()
            if held:
                os.utime(self.path)
        except FileNotFoundError:
            held = False
        except OSError:
            return  # a network file system that is away for a moment must not end the training
        if not held:
            by = current_holder(folder.parent, self._scheduler)
            raise RunHeld(
                f"{folder.parent}: this process (pid {self.claim.pid}) lost the run to "
                f"{by if by else 'nobody: its claim was removed'}; it stops and writes nothing more"
            )

    def release(self) -> None:
        """Gives the run up. A claim that is no longer this process's is left alone."""
        if os.getpid() != self._owner:
            return  # a forked child that unwinds
        with contextlib.suppress(FileNotFoundError):
            if self._still_mine():
                prune(self.path.parent, self.number)  # what claimers left that were killed during this run
                write_json(self.path, asdict(replace(self.claim, released=time.time())))

    def __enter__(self) -> Holder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A full disk must not hide the error that ends the run: an unreleased claim counts as dead anyway.
        with contextlib.suppress(OSError, UserError):
            self.release()

    def _still_mine(self) -> bool:
        if highest(self.path.parent) != self.number:
            return False
        claim = read_claim(self.path)
        return claim is not None and claim.token == self.claim.token


def claim(folder: Path, scheduler: JobAlive = ask_slurm) -> Holder:
    """Makes this process the one that writes in the run's `folder`, which is created if need be.

    Raises RunHeld, having written nothing, if a process holds it that lives, or of which nobody can tell.
    """
    holders = folder / "holders"
    with file_errors(holders, "claiming the run"):
        for _ in range(_TRIES):
            number, found = _look(holders, scheduler)
            if found is not None and found.alive is not False:
                raise _held(folder, found)
            holders.mkdir(parents=True, exist_ok=True)
            holder = _create(holders, number + 1, scheduler)
            if holder is not None:
                prune(holders, holder.number)
                return holder
            # Somebody was faster: look again who it is.
    raise UserError(f"{holders}: the claims keep changing; run the same command again")


def current_holder(folder: Path, scheduler: JobAlive = ask_slurm) -> HolderInfo | None:
    """Who holds the run's `folder`, dead or alive; None if nobody claimed it or the last one released it."""
    holders = folder / "holders"
    with file_errors(holders, "reading who holds the run"):
        return _look(holders, scheduler)[1]


def _look(holders: Path, scheduler: JobAlive) -> tuple[int, HolderInfo | None]:
    """The highest claim's number (0: there is none) and, unless it is released, the claim. Raises OSError."""
    for _ in range(_TRIES):
        number = highest(holders)
        if number == 0:
            return 0, None
        path = claim_path(holders, number)
        try:
            found = read_claim(path)
            heartbeat = path.stat().st_mtime
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                continue  # replaced or removed while we looked
            raise
        if found is not None and found.released is not None:
            return number, None
        alive = None if found is None else _is_alive(found, heartbeat, scheduler)
        return number, HolderInfo(path, number, found, heartbeat, alive)
    raise UserError(f"{holders}: the claims keep changing; run the same command again")


def _is_alive(claim: Claim, heartbeat: float, scheduler: JobAlive) -> bool | None:
    mine = own_claim()
    if claim.boot == mine.boot and claim.namespace == mine.namespace and mine.boot:
        return process_alive(claim.pid, claim.start)
    if claim.host == mine.host and claim.boot != mine.boot and claim.boot and heartbeat < boot_time() - 60:
        # This machine restarted since. (A living namesake would have beaten after our boot; 60 s of skew.)
        return False
    if claim.job is None or (mine.cluster is not None and claim.cluster != mine.cluster):
        return None
    if claim.job == mine.job and claim.restart < mine.restart:
        return False  # SLURM starts a job again only when its previous incarnation is gone
    answer = scheduler(claim.job)
    # A cluster may hide other people's jobs (PrivateData): not to see one proves nothing.
    return None if answer is False and claim.user != mine.user else answer


def _held(folder: Path, found: HolderInfo) -> RunHeld:
    if found.alive:
        return RunHeld(f"{folder} is held by {found}: wait for it, or stop it and run this command again")
    return RunHeld(
        f"{folder} may still be held by {found}, and from here nobody can tell whether it lives: if it is "
        f"surely gone, remove {found.path} and run the same command again"
    )


def _create(holders: Path, number: int, scheduler: JobAlive) -> Holder | None:
    """Stands under `number`, or None if somebody else does. Raises OSError."""
    path = claim_path(holders, number)
    mine = own_claim()
    raw = (json.dumps(asdict(mine), indent=2) + "\n").encode()
    made = create_linked(path, raw)
    if made is None:  # no hard links: exclusive creation decides as well
        try:
            write_new(path, raw)
        except FileExistsError:
            made = False
    if made is False:
        return None
    sync_folder(holders)
    if highest(holders) != number:
        # We looked at a claim long past, whose successors are pruned but for the last ones: those hold the run.
        path.unlink()
        return None
    return Holder(path, number, mine, scheduler)
