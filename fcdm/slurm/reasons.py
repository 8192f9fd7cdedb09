"""SLURM's reasons, states and exit codes in words that people know."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from fcdm.runs.slurm_states import HELD
from fcdm.slurm.client import JobInfo

_AGAIN = "cancel it and run the same command again"
_WAITING = {
    "": "in the queue",
    "None": "in the queue",
    "Priority": "other jobs come first",
    "Resources": "for free nodes",
    "Dependency": "for the job before it",
    "BeginTime": "for the time that it is to begin at",
    "Cleaning": "its last start is being cleaned up",
    "JobArrayTaskLimit": "for other tasks of its array",
    "NodeDown": "its nodes are down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is closed",
    "PartitionTimeLimit": f"it asks for more time than its partition gives: {_AGAIN} with less (resources.hours=)",
    "PartitionNodeLimit": f"it asks for more nodes than its partition gives: {_AGAIN} with less",
    "Licenses": "for a licence",
    "Reservation": "for its reservation",
    "BadConstraints": f"no node is what it asks for: {_AGAIN} asking for another",
}
_CRASHED = re.compile(r"terminate called|what\(\)|error|fatal|assert|abort|corrupt|free\(\)", re.I)
_NOT_STARTED = 53
"""What slurmstepd ends with (`0:53`) where it cannot open the file that the job prints into."""
_HELD_FOR = frozenset({"JobHeldUser", "JobHoldMaxRequeue"})


def waiting_for(info: JobInfo | None, job: str) -> str:
    """Why a job waits, with what to do where it waits for ever."""
    if info is None:
        return "in the queue"
    reason = info.reason.strip("()")
    plain = reason.replace("_", " ")
    if info.state == "CONFIGURING":
        return "its nodes are being prepared"
    if reason == "DependencyNeverSatisfied":
        before = info.dependency.replace("(failed)", "").strip()
        asked = f" ({before})" if before not in ("", "(null)") else ""
        return (
            f"for ever: the job that it was to follow{asked} did not end as was asked; "
            f"cancel it (python -m fcdm.status --cancel {job}), then run the same command again"
        )
    if reason == "JobHeldAdmin":
        return "held by an administrator, who alone can release it"
    if "launch failed" in plain:
        return f"held ({plain}): does its node know its user and see its folder? scontrol release {job} tries again"
    if reason in _HELD_FOR or "held" in plain or info.state in HELD:
        return f"held ({plain}): scontrol release {job}"
    if reason == "BeginTime" and info.restarts:
        return "requeued, starts soon"
    if reason in _WAITING:
        return _WAITING[reason]
    if reason.startswith(("QOS", "Assoc", "Max")):
        return f"a limit of your account ({reason})"
    if reason.startswith(("ReqNodeNotAvail", "Nodes")):
        return f"its nodes are not available ({plain})"
    return plain


def ended(info: JobInfo | None, last_words: str, launch: Path) -> str:
    """Why a job of ours failed that left no note. `last_words`: its log's; `launch`: where SLURM itself prints."""
    if info is None:
        return f"SLURM has forgotten it{_colon(last_words)}"
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
        return f"SLURM says {info.state}{_colon(last_words)}"
    number = killed_by(info.exit_code)
    if number == _NOT_STARTED or (info.reason == "JobLaunchFailure" and not number):
        where = f" on {info.nodes}" if info.nodes else ""
        return f"SLURM could not start it{where}: is {launch} there, writable and not full{where}?"
    if number is None:
        return last_words or f"exit code {info.exit_code}"
    if number == signal.SIGKILL:
        memory = "oom" in last_words
        return known["OUT_OF_MEMORY"] if memory else "killed by SIGKILL, by hand or for its memory"
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    # What crashes may say why; what is ended from outside was at something else.
    return f"killed by {name}{_colon(last_words) if _CRASHED.search(last_words) else ''}"


def names_its_cause(info: JobInfo) -> bool:
    """Whether SLURM's word for a job's end is its cause: a limit, a node, a signal; no mere exit code."""
    return info.state != "FAILED" or killed_by(info.exit_code) is not None


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
