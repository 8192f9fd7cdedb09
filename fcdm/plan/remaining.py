"""What of a sweep is done or on its way already, read from disk and the queue; nothing is made or changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.config.check import budgets
from fcdm.config.schema import RUNTIME_EVALUATION, Config
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE, Job
from fcdm.jobs.make_jobs import data_is_here
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run, check_frozen
from fcdm.runs.identity import readable_name, science
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.run_paths import folders_of_runs, run_facts
from fcdm.slurm.client import Slurm
from fcdm.slurm.ledger import LAUNCHES, held_outside, in_flight

NEW, STARTED, DONE, IN_FLIGHT, REFUSED, UNKNOWN = "new", "started", "done", "in flight", "refused", "unknown"
SKIPPED = (DONE, IN_FLIGHT, REFUSED)
"""States in which a launcher has nothing to start."""

Evaluations = list[tuple[Config, int]]
"""(whose protocol, step) of each evaluation."""


@dataclass(frozen=True)
class Standing:
    """How far one job's run is, and what of it is left to do."""

    name: str
    """Its folder's name, made already or not; without the id where the data's checksum is not known."""
    state: str
    text: str = ""
    """Why it is skipped, or what is known besides."""
    evaluated: tuple[int, ...] = ()
    """Budgets that are trained and evaluated."""
    trained: int = 0
    """Step of the last checkpoint."""
    train_to: int = 0
    """Last step that is still to be trained; 0: none."""
    evaluations: tuple[tuple[Config, int], ...] = ()
    """Those still to be made."""

    @property
    def steps_left(self) -> int:
        return max(0, self.train_to - self.trained)


class Standings:
    """Looks at the runs of one folder. `note` says what could not be told."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.note = ""
        self._folders: dict[str, list[Path]] = {}
        for folder in folders_of_runs(runs_dir):
            self._folders.setdefault(folder.name[-8:], []).append(folder)
        self._queued = self._queue()

    def of(self, job: Job) -> Standing:
        if not data_is_here(job.config):
            return Standing(
                readable_name(job.config),
                UNKNOWN,
                "no data here",
                train_to=job.budgets[-1],
                evaluations=tuple(evaluations_of(job)),
            )
        run = self._find(job)
        if run is None:
            return Standing(job.name, NEW, train_to=job.budgets[-1], evaluations=tuple(evaluations_of(job)))
        try:
            return self._standing(job, run)
        except UserError as error:
            return Standing(run.name, REFUSED, str(error))

    def _find(self, job: Job) -> Run | None:
        folders = self._folders.get(job.id[:8], [])
        return next((Run(folder, job.id) for folder in folders if run_facts(folder).get("id") == job.id), None)

    def _standing(self, job: Job, run: Run) -> Standing:
        missing = job.missing(run)
        evaluated = tuple(step for step in job.budgets if step not in missing)
        trained = max(dict(checkpoints(run.checkpoints)), default=0)
        if not missing:
            return Standing(run.name, DONE, "trained and evaluated", evaluated, trained)
        check_frozen(run.folder, science(job.config))
        queued = self._queued.get(run.name, [])
        if holder := held_outside(run.folder, [name for name, _ in queued]):
            return Standing(run.name, IN_FLIGHT, f"held by {holder}", evaluated, trained)
        job.refuse_lost_budgets(run)
        reached = {step for _, other in queued if other.work != EVALUATE for step in other.budgets}
        on_its_way = {key for _, other in queued if other.work != "train" for key in _keys(evaluations_of(other))}
        untrained = [step for step in job.untrained(run) if step not in reached]
        left = [
            (part, step)
            for part, step in evaluations_of(job)
            if step in Job(job.id, [part]).missing(run) and (protocol_key(part), step) not in on_its_way
        ]
        names = ", ".join(name for name, _ in queued)
        if not untrained and not left:
            return Standing(run.name, IN_FLIGHT, f"in the queue as {names}", evaluated, trained)
        text = f"a part is in the queue as {names}" if names else ""
        state = STARTED if trained or evaluated else NEW
        train_to = max(untrained, default=0)
        # What waits or runs already will have trained to the last of its budgets.
        trained = max([trained, *(step for step in reached if step < train_to)])
        return Standing(run.name, state, text, evaluated, trained, train_to, tuple(left))

    def _queue(self) -> dict[str, list[tuple[str, Job]]]:
        """Run's folder name -> [(SLURM job id, what it does)] of all that wait or run."""
        found: dict[str, list[tuple[str, Job]]] = {}
        if not (self.runs_dir / LAUNCHES).is_dir():
            return found
        try:
            runs = {path.name for paths in self._folders.values() for path in paths}
            for name, jobs in in_flight(self.runs_dir, runs, Slurm).items():
                found[name] = [(queued.id, queued.job) for queued in jobs]
        except UserError as error:
            self.note = f"what waits in a queue cannot be told: {error}"
        return found


def evaluations_of(job: Job) -> Evaluations:
    """Every evaluation that the job asks for, once: parts may differ in runtime choices only."""
    found: dict[tuple[Any, int], tuple[Config, int]] = {}
    for part in job.parts:
        key = protocol_key(part)
        for step in budgets(part.steps):
            found.setdefault((key, step), (part, step))
    return list(found.values())


def _keys(evaluations: Evaluations) -> set[tuple[str, int]]:
    return {(protocol_key(part), step) for part, step in evaluations}


def protocol_key(part: Config) -> str:
    """Names the protocol, also where its extractor is not installed."""
    try:
        return protocol_id(protocol_of(part))
    except UserError:
        asked = dataclasses.asdict(part.evaluation)
        return repr({key: value for key, value in asked.items() if key not in RUNTIME_EVALUATION})
