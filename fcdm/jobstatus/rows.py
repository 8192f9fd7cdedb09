"""A row of the table of `fcdm.status`, and what is known of a submitted task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from fcdm.jobstatus.run_files import JobNotes
from fcdm.runs.run_lock import HolderInfo
from fcdm.slurm.client import JobInfo
from fcdm.slurm.ledger import Task

DONE, RUNNING, EVALUATING, TRAINED, WAITING = "done", "running", "evaluating", "trained", "waiting"
FAILED, CANCELLED, STOPPED = "failed", "cancelled", "stopped"
NOT_SUBMITTED, UNKNOWN, LOST, DAMAGED = "not submitted", "unknown", "lost", "damaged"
STATES = (
    *(DONE, RUNNING, EVALUATING, TRAINED, WAITING, FAILED, CANCELLED, STOPPED),
    *(NOT_SUBMITTED, UNKNOWN, LOST, DAMAGED),
)
"""In the order in which they are counted."""


@dataclass(frozen=True)
class Attempt:
    """A task that was submitted, with what is known of its SLURM job: of one on its way, else of the last."""

    task: Task
    notes: JobNotes
    job: str | None = None
    """Its id; None: it never got one."""
    info: JobInfo | None = None
    """None: SLURM does not know it, or cannot be asked."""
    queued: bool = False
    """The controller knows it; what accounting alone says may be late."""
    active: tuple[str, ...] = ()
    """All its SLURM jobs that wait or run."""
    asked: bool = True
    """SLURM answered."""
    started: bool = False
    """Its job got so far as to print."""
    last_words: str = ""
    """The cause that its log ends with, once it is over."""
    log: str | None = None
    """Where it prints: the file that ends with them, if one does."""

    @property
    def runs(self) -> bool:
        return self.queued and self.info is not None and self.info.runs

    @property
    def waits(self) -> bool:
        return bool(self.active) and not self.runs

    @property
    def requeued(self) -> int:
        """How often its job went back into the queue, for whatever reason."""
        noted = sum(item.get("job") == self.job for item in self.notes.requeues)
        if self.queued and self.info is not None and not self.info.active:
            return self.info.restarts  # SLURM has counted all there were; one that it refused is none
        return max(int(noted), self.info.restarts if self.info else 0)

    @property
    def preempted(self) -> int:
        """How often it gave way: as accounting has it, and where the job saved and requeued itself in time."""
        noted = sum(item.get("job") == self.job and bool(item.get("preempted")) for item in self.notes.requeues)
        return int(noted) + (self.info.preempted if self.info else 0)


@dataclass(frozen=True)
class StatusRow:
    """One budget of one run under one protocol. Times in seconds."""

    run: str
    budget: int
    protocol: str
    flops: float | None = None
    """Of training to this budget; None: not known."""
    state: str = NOT_SUBMITTED
    """One of STATES."""
    text: str = ""
    """What a person should know besides the state."""
    active: bool = False
    """Something waits or runs for it: the row will change by itself."""
    job: str | None = None
    """SLURM job id, or `pid 123 on host`."""
    plain_id: str = ""
    """The plain id of its SLURM job while that runs: srun takes no `123_4`."""
    step: int | None = None
    images_per_s: float | None = None
    eta: float | None = None
    """Until the budget is trained and, by the same job, evaluated."""
    age: float | None = None
    """Since the last record."""
    samples: tuple[int, int] | None = None
    """Drawn, of how many."""
    fid: float | None = None
    distance: str = ""
    """What is shown of its evaluation: `FID 12.34`."""
    space: str = ""
    """Where the run is evaluated in several spaces of features: which of them this is."""
    weights: str = ""
    """Where several of its weights are evaluated, as a branch's average and raw ones: which of them these are."""
    forecast: str = ""
    """What was foretold of it, and how that came out: `forecast FID 12.3: -2 %, held`."""
    error: str | None = None
    log: str | None = None
    requeued: int = 0
    preempted: int = 0
    retry: tuple[Task, ...] = field(default=(), repr=False)
    """What --retry-failed submits again."""
    cancel: tuple[tuple[str | None, str], ...] = field(default=(), repr=False)
    """(slurm.conf, id) of every SLURM job on its way for it."""
    local: HolderInfo | None = field(default=None, repr=False)
    """The process that works on it outside of our SLURM jobs."""

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.run, self.budget, self.protocol)


def counts(rows: Iterable[StatusRow]) -> dict[str, int]:
    """State -> how many rows, in the order of STATES, without zeros."""
    states = [row.state for row in rows]
    return {state: states.count(state) for state in STATES if state in states}


def process_name(holder: HolderInfo) -> str:
    """`pid 123 on host`, or the id of its SLURM job."""
    if holder.claim is None:
        return "a process"
    return holder.claim.job or f"pid {holder.claim.pid} on {holder.claim.host}"


def about(row: StatusRow, attempt: Attempt) -> StatusRow:
    """The row with what is known of the job that works, or will work, or worked on it."""
    return replace(
        row,
        job=attempt.job,
        plain_id=attempt.info.plain_id if attempt.runs and attempt.info else "",
        active=bool(attempt.active),
        log=attempt.log,
        requeued=attempt.requeued,
        preempted=attempt.preempted,
    )
