"""The numbered claim files of a run, `holders/000001.json` and so on: see `fcdm.runs.run_lock`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass, fields
from pathlib import Path

from fcdm.atomic import remove_unfinished
from fcdm.runs.processes import boot_id, process_namespace, start_time

_KEPT = 5
"""So many claims stay, for people to read."""


@dataclass(frozen=True)
class Claim:
    """One process's claim on a run, as its file has it. Times are Unix seconds."""

    token: str
    """Random: tells this claim from any other that comes to stand under the same number."""
    host: str
    pid: int
    start: int
    """When the process started, in clock ticks since the boot."""
    boot: str
    """The kernel's id of the boot: differs between machines and changes when one restarts."""
    namespace: str
    """Process id namespace: two containers on one machine have different process tables."""
    user: int
    job: str | None
    """Id of the SLURM job whose end is this process's end."""
    restart: int
    """How often SLURM had requeued the job."""
    cluster: str | None
    node: str | None
    """SLURM's name of the node, where that differs from the host's."""
    claimed: float
    released: float | None = None


def own_claim() -> Claim:
    """What this process writes to claim a run."""
    environment = os.environ.get
    return Claim(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        start=start_time(os.getpid()) or 0,
        boot=boot_id(),
        namespace=process_namespace(),
        user=os.geteuid(),
        job=own_job(),
        restart=own_restart(),
        cluster=environment("SLURM_CLUSTER_NAME"),
        node=environment("SLURMD_NODENAME"),
        claimed=time.time(),
    )


def own_job() -> str | None:
    """The id of the SLURM job whose end is this process's end, as `squeue` shows it."""
    if not os.environ.get("SLURMD_NODENAME"):
        # A shell of salloc has a job's id too, but slurmd did not start it and it outlives the job.
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"  # one task's plain id is also the whole array's: asking by it would mean all
    return os.environ.get("SLURM_JOB_ID")


def own_restart() -> int:
    """How often SLURM had put this process's job back into the queue when it started it."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def claim_path(holders: Path, number: int) -> Path:
    """The file of one claim."""
    return holders / f"{number:06d}.json"


def highest(holders: Path) -> int:
    """The highest claim's number, 0 without any. Raises OSError."""
    try:
        names = [path.name for path in holders.iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(name[:-5]) for name in names if re.fullmatch(r"\d+\.json", name)), default=0)


def read_claim(path: Path) -> Claim | None:
    """The claim in `path`, None if that is no claim. Raises OSError."""
    try:
        values = json.loads(path.read_bytes())
        known = {field.name for field in fields(Claim)}
        return Claim(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError, AttributeError):
        return None


def prune(holders: Path, number: int) -> None:
    """Removes claims long past and what dead claimers left; never the highest, so numbers only grow.

    For the holder, `number`: whoever else is claiming at this moment tries again (`fcdm.runs.run_lock`).
    """
    remove_unfinished(holders)
    for path in list(holders.iterdir()):
        with contextlib.suppress(OSError):
            if re.fullmatch(r"\d+\.json", path.name) and int(path.stem) <= number - _KEPT:
                path.unlink()
