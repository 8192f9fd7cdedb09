"""How the processes of one command find each other: bounded, with a word about who is missing, and ended by a signal.

torch's own way waits in C++, where no signal handler of Python's runs; so all of it is done in a thread, and the main
thread watches.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from torch.distributed import DistNetworkError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from fcdm.engine.stop import Stopped, StopSignal
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.runs.peers import Peers

LIMIT = "FCDM_RENDEZVOUS_SECONDS"
LIMIT_S = 300.0
"""How long processes look for each other: some start minutes later, where Python is read from a slow disk."""
SILENT_S = 5.0
SAY_EVERY_S = 60.0
LOOK_S = 0.1
ANSWER_S = 5.0
"""What listens on a port and says nothing for so long is something else."""

Answer = TypeVar("Answer")

_groups = itertools.count()
"""Of this process; its peers have made the same ones."""


def meet(peers: Peers, join: Callable[[Store], None], stop: StopSignal | None) -> None:
    """Finds the peers, all of which call this, and makes a group with them: `join`, by the store that they share.

    Raises UserError where they do not come in time, or cannot reach each other; at the first SIGINT or SIGTERM Stopped,
    or what Python does of itself where nobody watches signals (`stop` is None).
    """
    limit = _limit()
    meeting = _Meeting(peers, join)
    thread = threading.Thread(target=meeting.hold, name="rendezvous", daemon=True)
    began = time.monotonic()
    say_at = began + SILENT_S
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_S)
            # A user's signal (USR1, USR2) asks for a requeue: all agree on that once they are together.
            if stop is not None and stop.signum in (signal.SIGINT, signal.SIGTERM):
                print(f"stopped, while {meeting.waits}", file=sys.stderr, flush=True)
                raise Stopped(stop.signum)
            now = time.monotonic()
            if now > began + limit and thread.is_alive():
                raise UserError(
                    f"{meeting.waits}, for {limit:g} s ({LIMIT} in the environment is another limit): {meeting.mend}"
                )
            if now > say_at:
                say_at = now + SAY_EVERY_S
                if meeting.speaks:
                    print(f"{meeting.waits}: {meeting.mend}", file=sys.stderr, flush=True)
    finally:
        meeting.over = True
    if isinstance(meeting.error, UserError):
        raise meeting.error
    if meeting.error is not None:
        raise UserError(
            f"{meeting.waits}, which fails: {_first_line(meeting.error)}; {meeting.mend}"
        ) from meeting.error


class _Meeting:
    """What the thread does, and how far it is."""

    def __init__(self, peers: Peers, join: Callable[[Store], None]) -> None:
        self.peers, self.join = peers, join
        self.call = f"{next(_groups)} {peers.call}"
        self.found = False
        """The store that all share."""
        self.missing = set(range(peers.count)) - {peers.rank}
        self.listening: socket.socket | None = None
        self.lines: list[socket.socket] = []
        """Of the first process to all that came, of another one to it: it ends with its process."""
        self.tried = ""
        """How the last look for the first process ended."""
        self.over = False
        self.error: Exception | None = None

    def hold(self) -> None:
        try:
            listens = self.peers.rank == 0 and not self.peers.agent
            store = self._serve() if listens else self._find()
            while store is not None and not self.over:
                self.found = True
                self._greet()
                self.missing = self._asked(partial(self._not_there, store))
                if not self.missing:
                    self._asked(partial(self.join, PrefixStore(f"group {self.call}", store)))
                    return
                time.sleep(LOOK_S)
        except Exception as error:
            self.error = error
        finally:
            for line in [*self.lines, *([self.listening] if self.listening else [])]:
                line.close()

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        """What comes of asking the shared store. Raises UserError where that is gone with the process that has it."""
        listens = self.listening is not None
        try:
            if listens or not _has_ended(self.lines[0], 0):
                return ask()
        except DistNetworkError:  # it ends just now; what its machine says of its two connections need not come at once
            if listens or not _has_ended(self.lines[0], ANSWER_S):
                raise
        first = "torchrun" if self.peers.agent else "rank 0"
        raise UserError(f"{first}, at {self.at}, has ended before all processes were together: it says why")

    def _not_there(self, store: Store) -> set[int]:
        return {rank for rank in self.missing if not store.check([self._seat(rank)])}

    @property
    def at(self) -> str:
        return f"{self.peers.address}:{' or '.join(map(str, self.peers.ports))}"

    @property
    def waits(self) -> str:
        """What this process does at the moment."""
        peers = self.peers
        me = f"rank {peers.rank} of {peers.count} processes, on {socket.gethostname()},"
        at = self.at
        if not self.found:
            return f"{me} waits for rank 0 at {at}{f' ({self.tried})' if self.tried else ''}"
        if not self.missing:
            return f"{me} connects to the others, found at {at}"
        ranks = sorted(self.missing)
        some = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
        return f"{me} waits for {plural(len(ranks), 'other')} (rank {some}) at {at}"

    @property
    def mend(self) -> str:
        """What a person can do about it."""
        if self.found and not self.missing:
            return "where nodes have several networks, GLOO_SOCKET_IFNAME says which one (docs/slurm.md)"
        if self.peers.under_srun:
            return "all tasks of a step must run the same command; RANK=0 WORLD_SIZE=1 before it make it one process"
        return "start all of them (torchrun or srun do), or unset RANK and WORLD_SIZE to run one process"

    @property
    def speaks(self) -> bool:
        """One of those who know the same is enough."""
        return not self.found or self.peers.rank == min(set(range(self.peers.count)) - self.missing)

    @property
    def _name(self) -> str:
        """Of the command, as one word."""
        return f"fcdm-{hashlib.sha256(self.call.encode()).hexdigest()}"

    def _seat(self, rank: int) -> str:
        return f"seat {rank} {self.call}"

    def _serve(self) -> Store:
        """The first process listens, on the first port that is free, and tells whoever comes where the store is."""
        self.listening = _listen(self.peers)
        self.peers = replace(self.peers, ports=(self.listening.getsockname()[1],))
        store = TCPStore("127.0.0.1", 0, self.peers.count, is_master=True, wait_for_workers=False)
        self.greeting = f"{self._name} {store.port}\n".encode()
        store.add(self._seat(0), 1)
        return store

    def _greet(self) -> None:
        """Lets in those who are at the door."""
        with contextlib.suppress(BlockingIOError):
            while self.listening is not None:
                line, _ = self.listening.accept()
                self.lines.append(line)
                with contextlib.suppress(OSError):  # it is gone again
                    line.sendall(self.greeting)

    def _find(self) -> Store | None:
        """The store of torchrun, or of this command's first process, on the first port that has it; None: given up.

        One that ends before this process has its seat is left, as one that is full: it may be that of another command
        of the same words.
        """
        peers = self.peers
        while not self.over:
            for port in peers.ports:
                try:
                    line = socket.create_connection((peers.address, port), ANSWER_S)
                    self.lines[:] = [line]
                    if not peers.agent:
                        with line.makefile("rb") as said:
                            name, _, at = said.readline(200).decode("ascii", "replace").partition(" ")
                        if name != self._name:
                            self.tried = f"port {port} is another command's"
                            continue
                    where = port if peers.agent else int(at)
                    soon = timedelta(seconds=ANSWER_S)  # else it would wait for minutes for one that has just ended
                    store = TCPStore(peers.address, where, peers.count, timeout=soon, wait_for_workers=False)
                    store.set_timeout(timedelta(seconds=LIMIT_S))
                    if store.add(self._seat(peers.rank), 1) > 1:
                        self.tried = f"port {port} has another rank {peers.rank}"
                        continue
                    self.peers = replace(peers, ports=(port,))
                    return store
                except (OSError, RuntimeError) as error:
                    self.tried = _first_line(error)
            time.sleep(LOOK_S)
        return None


def _listen(peers: Peers) -> socket.socket:
    """On the first of the ports that is free, for IPv4 and IPv6. Raises UserError where none is."""
    where = socket.gethostname()
    dual = socket.has_dualstack_ipv6()
    for port in peers.ports:
        try:
            family = socket.AF_INET6 if dual else socket.AF_INET
            listening = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=2048)
            listening.setblocking(False)
            return listening
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"{where}:{port}: cannot listen there: {error.strerror}") from None
    raise UserError(
        f"{where}:{' or '.join(map(str, peers.ports))}, where the {peers.count} processes are to meet, is in use, by "
        "another command maybe: set MASTER_PORT to a port that is free"
    )


def _limit() -> float:
    text = os.environ.get(LIMIT) or str(LIMIT_S)
    try:
        limit = float(text)
    except ValueError:
        limit = 0
    if not limit > 0:
        raise UserError(f"{LIMIT}={text} cannot be: seconds, more than 0")
    return limit


def _has_ended(line: socket.socket, wait_s: float) -> bool:
    """Whether the process at the other end, which says nothing more, has ended, or does so within this time."""
    try:
        line.settimeout(wait_s)
        return line.recv(1) == b""
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:
        return True


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
