"""Which processes are one command together: those of torchrun, or the tasks of an `srun` step. All else is one process.

Every command asks here, and nothing else reads these variables. The environment of a job says how many tasks it was
given (SLURM_NTASKS), in its batch script and in a shell of `salloc` too, where there is one process; only a step says
how many it has (SLURM_STEP_NUM_TASKS), and processes that `sbatch` or `salloc` starts from within a step inherit that.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fcdm.errors import UserError
from fcdm.runs.scontrol import shown

PORTS = range(12_000, 32_000)
"""Below Linux's ephemeral ports (32768 up), one of which could be in use for anything."""
TRIED = 8
"""Ports that the tasks of a step try, one after the other."""


@dataclass(frozen=True)
class Peers:
    """This process's place among those of its command; as it stands, the only one."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Its place among those of this machine."""
    local_count: int = 1
    nodes: int = 1
    """Machines that the processes are spread over."""
    address: str = ""
    """Where the first process is: a host's name or address."""
    ports: tuple[int, ...] = ()
    """On which it may listen, in this order."""
    call: str = ""
    """What the processes of one command say alike, and those of another do not."""
    under_srun: bool = False
    agent: bool = False
    """Whether torchrun itself listens on the port."""


def peers() -> Peers:
    """Decides by the environment. Raises UserError where it contradicts itself."""
    step = _step() if _is_task() else Peers()
    if "RANK" in os.environ:
        return _as_torchrun_says(step)
    count = _number("WORLD_SIZE", step.count, 1)
    if count != step.count:
        said = f"this is one of {step.count} tasks of a step of srun" if step.under_srun else "RANK is not"
        raise UserError(f"WORLD_SIZE={count} is set, and {said}: {_MEND}")
    return step


@cache
def address_of(node: str) -> str:
    """Where others reach this node of SLURM: its name if that resolves, else the address that SLURM has of it.

    A node's name in SLURM need not be known to DNS.
    """
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        return shown("node", node, "NodeAddr") or node


_MEND = (
    "start all processes with torchrun or srun, which say who is who, or unset RANK and WORLD_SIZE to run one process"
)


def _as_torchrun_says(step: Peers) -> Peers:
    """torchrun's variables, or the same set by hand, in a step too: one task of it may be a torchrun."""
    if "WORLD_SIZE" not in os.environ:
        raise UserError(f"RANK={os.environ['RANK']} is set, and WORLD_SIZE is not: {_MEND}")
    count = _number("WORLD_SIZE", 1, 1)
    rank = _number("RANK", 0, 0)
    if rank >= count:
        raise UserError(f"RANK={rank} of WORLD_SIZE={count} cannot be: ranks go from 0 to {count - 1}: {_MEND}")
    if count == 1:
        return Peers()
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(f"RANK={rank} of WORLD_SIZE={count} is set, and {' and '.join(missing)} is not: {_MEND}")
    same = step if step.count == count else Peers()  # whoever made RANK of SLURM_PROCID need not have said the rest
    return Peers(
        rank,
        count,
        _number("LOCAL_RANK", same.local_rank, 0),
        _number("LOCAL_WORLD_SIZE", same.local_count, 1),
        _number("GROUP_WORLD_SIZE", same.nodes, 1),
        os.environ["MASTER_ADDR"],
        (_number("MASTER_PORT", 0, 1, 65_535),),
        call=os.environ.get("TORCHELASTIC_RESTART_COUNT", ""),
        agent=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _step() -> Peers:
    """By the variables that slurmd sets in each task; MASTER_ADDR and MASTER_PORT where the user says otherwise."""
    nodes = _number("SLURM_STEP_NUM_NODES", 1, 1)
    words = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
    call = " ".join([*words, *sys.orig_argv])
    first = "127.0.0.1" if nodes == 1 else address_of(_first_of(os.environ.get("SLURM_STEP_NODELIST", "")))
    if os.environ.get("MASTER_PORT"):
        ports: tuple[int, ...] = (_number("MASTER_PORT", 0, 1, 65_535),)
    else:
        ports = tuple(PORTS[zlib.crc32(f"{call} {number}".encode()) % len(PORTS)] for number in range(TRIED))
    return Peers(
        _number("SLURM_PROCID", 0, 0),
        _number("SLURM_STEP_NUM_TASKS", 1, 1),
        _number("SLURM_LOCALID", 0, 0),
        len(os.environ.get("SLURM_GTIDS", "0").split(",")),
        nodes,
        os.environ.get("MASTER_ADDR") or first,
        ports,
        call,
        under_srun=True,
    )


def _is_task() -> bool:
    """Whether this process belongs to a task of a step of several, and all of them do what it does."""
    environment = os.environ
    if _number("SLURM_STEP_NUM_TASKS", 1, 1) == 1 or not environment.get("SLURM_PROCID"):
        return False
    if not (task := environment.get("SLURM_TASK_PID")):
        return True
    try:
        status = Path(f"/proc/{task}/stat").read_text()
        parent, group, _, terminal = map(int, status[status.rindex(")") + 2 :].split()[1:5])
        title = Path(f"/proc/{parent}/cmdline").read_text()
    except (OSError, ValueError):  # its processes are not seen from here, as in a container: believe the environment
        return True
    # Typed in a shell of `srun --pty`: the other tasks see no terminal, nor do those of a step started from that shell.
    if "SLURM_PTY_PORT" in environment and terminal and group != os.getpgrp():
        return False
    # A batch script's, or a shell's of salloc, that was asked for within a step: the step's variables are old.
    of = re.match(r"slurmstepd: \[(\d+\.\w+)\]", title)
    return of is None or of[1] == f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}"


def _first_of(nodes: str) -> str:
    """The first name of a list as SLURM writes it: `rack[2,4-7]-n[01-16],login1` -> `rack2-n01`."""
    name = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", name[0] if name else "")


def _number(name: str, default: int, low: int, high: int = 2**31) -> int:
    """Of a variable that is set and not empty. Raises UserError."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise UserError(f"{name}={text} in the environment cannot be: a whole number, at least {low}: {_MEND}")
    return int(text)
