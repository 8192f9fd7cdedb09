"""What of a sweep is done or on its way already, read from disk and the queue; nothing is made or changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcdm.config.schema import RUNTIME_EVALUATION, Config
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE, Job
from fcdm.jobs.make_jobs import data_is_here
from fcdm.runs.branches import begins_at
from fcdm.runs.checkpoints import newest_step
from fcdm.runs.folder import check_frozen
from fcdm.runs.identity import readable_name, science
from fcdm.runs.protocol import Part
from fcdm.slurm.client import Slurm
from fcdm.slurm.ledger import LAUNCHES, Queued, held_by_deleted, held_outside, in_flight, list_tasks

NEW, STARTED, DONE, IN_FLIGHT, REFUSED, UNKNOWN = "new", "started", "done", "in flight", "refused", "unknown"
SKIPPED = (DONE, IN_FLIGHT, REFUSED)
"""States in which a launcher has nothing to start."""


@dataclass(frozen=True)
class Standing:
    """How far one job's run is, and what of it is left to do."""

    name: str
    """Its folder's name, made already or not; without the id where the data's checksum is not known."""
    state: str
    text: str = ""
    """Why it is skipped, or what is known besides."""
    evaluated: tuple[int, ...] = ()
    """Budgets that are done: trained and, but for what others branch from, evaluated."""
    trained: int = 0
    """Step of the last checkpoint."""
    train_to: int = 0
    """Last step that is still to be trained; 0: none."""
    evaluations: tuple[tuple[Config, int], ...] = ()
    """Those still to be made."""
    begins: int = 0
    """Step of its parent's checkpoint that a branch without a checkpoint of its own goes on from."""

    @property
    def steps_left(self) -> int:
        return max(0, self.train_to - max(self.trained, self.begins))


class Standings:
    """Looks at the runs of one folder. `note` says what could not be told."""

    def __init__(self, runs_dir: Path, jobs: Sequence[Job] = ()) -> None:
        """jobs: the command's."""
        self.note = ""
        self._runs_dir, self._jobs = runs_dir, {job.id: job for job in jobs}
        self._queued = self._queue(runs_dir)

    def of(self, job: Job) -> Standing:
        standing = self._of(job)
        if standing.trained or standing.state in SKIPPED:
            return standing
        try:
            return dataclasses.replace(standing, begins=self._begins(job))
        except UserError as error:
            return Standing(job.name, REFUSED, str(error))

    def _begins(self, job: Job) -> int:
        """Where a branch that has nothing yet begins: where it leaves, if the command has still to train its parent to
        there, else with what its parent has. Raises UserError where that job is refused."""
        start = branch_start(job)
        if not start:
            return 0
        parent = self._jobs.get(job.parent_id or "")
        if parent and not job.can_begin(parent):
            theirs = self._of(parent)
            if theirs.state == REFUSED:
                raise UserError(f"{parent.name}, which it branches from, is refused: {theirs.text}")
            return start
        return begins_at(self._runs_dir, science(job.config))

    def _of(self, job: Job) -> Standing:
        if not data_is_here(job.config):
            return Standing(
                readable_name(job.config),
                UNKNOWN,
                "no data here",
                train_to=job.budgets[-1],
                evaluations=tuple(evaluations_of(job)),
            )
        if text := held_by_deleted(self._queued.get(job.name, ())):
            return Standing(job.name, IN_FLIGHT, f"held {text}")
        if not job.is_begun:
            return Standing(job.name, NEW, train_to=job.budgets[-1], evaluations=tuple(evaluations_of(job)))
        try:
            return self._standing(job)
        except UserError as error:
            return Standing(job.name, REFUSED, str(error))

    def _standing(self, job: Job) -> Standing:
        missing = job.missing()
        evaluated = tuple(step for step in job.budgets if step not in missing)
        trained = newest_step(job.run.checkpoints)
        if not missing:
            return Standing(job.name, DONE, job.done_words, evaluated, trained)
        check_frozen(job.folder, science(job.config))
        queued = [(other.id, other.job) for other in self._queued.get(job.name, ())]
        if holder := held_outside(job.folder, [name for name, _ in queued]):
            return Standing(job.name, IN_FLIGHT, f"held by {holder}", evaluated, trained)
        job.refuse_lost_budgets()
        reached = {step for _, other in queued if other.work != EVALUATE for step in other.budgets}
        on_its_way = {key for _, other in queued if other.work != "train" for key in _evaluations(other)}
        untrained = [step for step in job.untrained() if step not in reached]
        left = [
            (part.config, key[1])
            for key, part in _evaluations(job).items()
            if key not in on_its_way and key[1] in job.missing_of(part)
        ]
        names = ", ".join(name for name, _ in queued)
        if not untrained and not left:
            return Standing(job.name, IN_FLIGHT, f"in the queue as {names}", evaluated, trained)
        text = f"a part is in the queue as {names}" if names else ""
        state = STARTED if trained or evaluated else NEW
        train_to = max(untrained, default=0)
        # What waits or runs already will have trained to the last of its budgets.
        trained = max([trained, *(step for step in reached if step < train_to)])
        return Standing(job.name, state, text, evaluated, trained, train_to, tuple(left))

    def _queue(self, runs_dir: Path) -> dict[str, list[Queued]]:
        """Run's folder name -> all its jobs that wait or run, of deleted folders too."""
        if not (runs_dir / LAUNCHES).is_dir():
            return {}
        try:
            return in_flight(runs_dir, {task.run.name for task in list_tasks(runs_dir)}, Slurm)
        except UserError as error:
            self.note = f"what waits in a queue cannot be told: {error}"
            return {}


def branch_start(job: Job) -> int:
    """The step at which the job's run leaves its parent; 0: it is no branch."""
    cooldown = job.config.optimiser.cooldown
    return cooldown[0] if cooldown else 0


def whole_steps(job: Job, jobs: Iterable[Job]) -> int:
    """Steps that the job trains as if nothing were done yet; of a branch behind its parent, if `jobs` have it."""
    comes_along = any(other.id == job.parent_id for other in jobs)
    return job.budgets[-1] - (branch_start(job) if comes_along else 0)


def budgets_to_evaluate(job: Job) -> list[int]:
    """The job's budgets without those that others only branch from."""
    return sorted({step for part in job.parts if part.evaluates for step in part.budgets})


def evaluations_of(job: Job) -> list[tuple[Config, int]]:
    """(whose protocol, step) of every evaluation that the job asks for, once."""
    return [(part.config, step) for (_, step), part in _evaluations(job).items()]


def _evaluations(job: Job) -> dict[tuple[str, int], Part]:
    """(protocol's key, step) -> who asks for it; parts may differ in runtime choices only."""
    found: dict[tuple[str, int], Part] = {}
    for part in (part for part in job.parts if part.evaluates):
        key = _protocol_key(part)
        for step in part.budgets:
            found.setdefault((key, step), part)
    return found


def _protocol_key(part: Part) -> str:
    """Names the protocol, also where its extractor is not installed."""
    try:
        return part.protocol_id
    except UserError:
        asked = dataclasses.asdict(part.config.evaluation)
        return repr({key: value for key, value in asked.items() if key not in RUNTIME_EVALUATION})
