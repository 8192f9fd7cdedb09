"""What of a command's jobs is left to submit: neither done nor on its way; an evaluation apart where that is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE, Job
from fcdm.slurm.executor import RunJob
from fcdm.slurm.ledger import Queued, held_by_deleted, held_outside
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources, request_of


@dataclass
class Row:
    """What became of one job of the command."""

    job: Job
    request: Resources
    state: str
    """`submitted`, `done`, `in the queue`, `held`, `failed`."""
    text: str = ""
    """Why it was left out."""
    ids: list[str] = field(default_factory=list)
    jobs: list[RunJob] = field(default_factory=list)
    """What was submitted, to use in Python."""


@dataclass
class Planned:
    """One task to submit: a job with its work cut out."""

    row: Row
    job: Job
    request: Resources
    after: str = ""
    """Job ids that it waits for, as sbatch's afterany takes them."""
    follows: Planned | None = None
    """The training that it evaluates, or that it branches from, submitted by the same command."""
    file: Path | None = None
    id: str = ""


def refuse_passed(jobs: list[Job], on_their_way: Mapping[str, list[Queued]]) -> None:
    """Raise UserError for a budget that a job in the queue will train past, without keeping a checkpoint there."""
    for job in jobs:
        trainings = [other for other in on_their_way.get(job.name, []) if other.job.work != EVALUATE]
        theirs = {step for other in trainings for step in other.job.budgets}
        try:
            passed = [step for step in job.untrained() if step not in theirs and step < max(theirs, default=0)]
        except UserError:  # a damaged evaluation: its row says so
            continue
        if passed:
            ids = ", ".join(other.id for other in trainings)
            raise UserError(
                f"{job.name}: steps={passed[0]} could not be {_wanted(job, passed[0])}: job {ids} trains the run to "
                f"{max(theirs)} and keeps no checkpoint of step {passed[0]}; cancel it first (python -m fcdm.status "
                "--cancel), and ask for all its steps in one command. Nothing is submitted"
            )


def _wanted(job: Job, step: int) -> str:
    """What a budget is asked for."""
    return "evaluated" if any(part.evaluates and step in part.budgets for part in job.parts) else "branched from"


def is_done_already(job: Job) -> bool:
    """Whether nothing is left, as far as that can be told without making anything."""
    try:
        return not job.missing()
    except UserError:
        return False


def left_of(job: Job, options: SlurmOptions, queued: list[Queued], conf: str | None) -> tuple[Row, list[Planned]]:
    """One job of the command: its row, and what is to be submitted for it."""
    request = request_of(job.config.resources, options)
    row = Row(job, request, "submitted")
    if text := held_by_deleted(queued):
        row.state, row.text = "held", text
        return row, []
    try:
        job.open()
        if not job.missing():
            row.state, row.text = "done", job.done_words
            return row, []
        if holder := held_outside(job.folder, [other.id for other in queued]):
            row.state, row.text = "held", f"by {holder}"
            return row, []
        job.refuse_lost_budgets()
    except UserError as error:
        row.state, row.text = "failed", str(error)
        return row, []
    if job.config.evaluation.where != "job":
        tasks = _inline(row, request, queued)
    else:
        tasks = _apart(row, request, options, queued)
    names = [other.id for other in queued]
    abroad = [other.id for other in queued if other.conf != conf]
    if tasks and abroad:  # SLURM cannot wait for a job of another cluster
        row.state, row.text = "held", f"by {', '.join(abroad)} in the queue of another cluster, which does a part of it"
        return row, []
    if not tasks:
        row.state, row.text, row.ids = "in the queue", f"as {', '.join(names)}", names
    return row, tasks


def follow_parents(
    planned: Sequence[Planned], rows: Sequence[Row], on_their_way: Mapping[str, Sequence[Queued]], conf: str | None
) -> list[Planned]:
    """What of it is submitted, each training of a branch behind the job that trains what it branches from: the one that
    is submitted with it, or those in the queue. Where there will be none, its row says so, and nothing is submitted."""
    parents = {row.job.id: row for row in rows}
    trainings = {task.job.id: task for task in planned if task.job.work != EVALUATE}
    for task in trainings.values():
        parent = parents.get(task.job.parent_id or "")
        if parent is None or task.job.can_begin(parent.job):
            continue
        queued = [other for other in on_their_way.get(parent.job.name, []) if other.job.work != EVALUATE]
        task.follows = trainings.get(parent.job.id)
        if task.follows is not None:
            continue
        comes = parent.state in ("submitted", "in the queue")  # submitted: only its evaluation is new
        if comes and queued and all(other.conf == conf for other in queued):
            task.after = ":".join(filter(None, [task.after, _after(queued)]))
            continue
        why = f"in the queue of another cluster, {parent.text}" if comes else parent.text
        task.row.state = "failed" if parent.state == "failed" else "held"
        task.row.text = f"{parent.job.name}, which it branches from, comes first, and is {parent.state}: {why}"
    return [task for task in planned if task.row.state == "submitted"]


def _inline(row: Row, request: Resources, queued: list[Queued]) -> list[Planned]:
    """Training and evaluation in one job, after whatever of the run is in the queue with less."""
    job = row.job
    if not _asked(job, job.missing()) - _asked_of(queued, ("all",)):
        return []
    return [Planned(row, job, request, after=_after(queued))]


def _apart(row: Row, request: Resources, options: SlurmOptions, queued: list[Queued]) -> list[Planned]:
    """Training, and an evaluation that follows it."""
    job = row.job
    train, evaluator = (dataclasses.replace(job, work=work) for work in ("train", EVALUATE))
    evaluation = request_of(job.config.evaluation.resources, options, evaluation=True)
    trainings = [other for other in queued if other.job.work != EVALUATE]
    untrained = _asked(train, job.untrained())
    tasks = []
    if untrained - _asked_of(trainings, ("all", "train")):
        tasks.append(Planned(row, train, request, after=_after(trainings)))
        if _asked(evaluator, job.missing()):
            tasks.append(Planned(row, evaluator, evaluation, follows=tasks[0]))
        return tasks
    # An evaluation that is older than the last training in the queue may have come and gone when that ends.
    last = max((at for at, other in enumerate(queued) if other.job.work == "train"), default=-1)
    trusted = [other for other in queued[last + 1 :] if other.job.work == EVALUATE]
    trusted += [other for other in queued if other.job.work == "all"]
    if _asked(evaluator, job.missing()) - _asked_of(trusted, ("all", EVALUATE)):
        tasks.append(Planned(row, evaluator, evaluation, after=_after(queued)))
    return tasks


def _after(queued: list[Queued]) -> str:
    """What to wait for, as sbatch's afterany takes it."""
    return ":".join(other.id for other in queued)


def _asked_of(queued: list[Queued], works: tuple[str, ...]) -> set[tuple[str, int]]:
    return set().union(*(_asked(other.job) for other in queued if other.job.work in works))


def _asked(job: Job, steps: Sequence[int] | None = None) -> set[tuple[str, int]]:
    """(protocol, budget) that a job does; to train is to reach the budget, whatever the protocol."""
    found = set()
    for part in job.parts:
        if job.work == EVALUATE and not part.evaluates:
            continue
        names = [""] if job.work != EVALUATE else []
        names += [part.protocol_id] if job.work != "train" else []
        found |= {(name, step) for name in names for step in part.budgets if steps is None or step in steps}
    return found
