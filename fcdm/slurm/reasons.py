"""SLURM's reasons, states and exit codes in words that people know."""

from __future__ import annotations

import re
import signal

from fcdm.runs.slurm_states import HELD
from fcdm.slurm.client import JobInfo

_WAITING = {
    "": "in the queue",
    "None": "in the queue",
    "Priority": "other jobs come first",
    "Resources": "for free nodes",
    "Dependency": "for the job before it",
    "BeginTime": "requeued, starts soon",
    "Cleaning": "its last start is being cleaned up",
    "JobArrayTaskLimit": "for other tasks of its array",
    "NodeDown": "its nodes are down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is closed",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives",
    "Licenses": "for a licence",
    "Reservation": "for its reservation",
    "BadConstraints": "no node is what it asks for",
}
_HELD_FOR = frozenset({"JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "DependencyNeverSatisfied"})


def waiting_for(info: JobInfo | None, job: str) -> str:
    """Why a job waits, with what to do where it waits for ever."""
    if info is None:
        return "in the queue"
    reason = info.reason.strip("()")
    plain = reason.replace("_", " ")
    if info.state == "CONFIGURING":
        return "its nodes are being prepared"
    if reason in _HELD_FOR or "held" in plain or info.state in HELD:
        return f"held ({plain}): scontrol release {job}"
    if reason in _WAITING:
        return _WAITING[reason]
    if reason.startswith(("QOS", "Assoc", "Max")):
        return f"a limit of your account ({reason})"
    if reason.startswith(("ReqNodeNotAvail", "Nodes")):
        return f"its nodes are not available ({plain})"
    return plain


def ended(info: JobInfo | None, last_line: str) -> str:
    """Why a job of ours failed that left no word itself."""
    if info is None:
        return f"SLURM has forgotten it{_colon(last_line)}"
    limit = info.limit_minutes
    known = {
        "TIMEOUT": f"its time limit{f' of {limit:g} min' if limit else ''} was reached, and it was not requeued",
        "OUT_OF_MEMORY": "out of memory: ask for more (resources.mem_gb=)",
        "NODE_FAIL": f"its node failed{f' ({info.nodes})' if info.nodes else ''}",
        "PREEMPTED": "preempted, and SLURM did not requeue it",
        "BOOT_FAIL": "its node did not start",
    }
    if info.state in known:
        return known[info.state]
    if info.state != "FAILED":
        return f"SLURM says {info.state}{_colon(last_line)}"
    number = killed_by(info.exit_code)
    if number is None:
        return last_line or f"exit code {info.exit_code}"
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"killed by {name}{', by hand or for its memory' if number == signal.SIGKILL else ''}"


def killed_by(exit_code: str) -> int | None:
    """The signal in SLURM's `code:signal`; srun hands one on as 128 + n, submitit's tasks as n."""
    codes = re.fullmatch(r"(\d+):(\d+)", exit_code)
    if codes is None:
        return None
    code, number = int(codes[1]), int(codes[2])
    if number:
        return number
    if code > 128:
        return code - 128
    return code if code in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS) else None


def _colon(text: str) -> str:
    return f": {text}" if text else ""
