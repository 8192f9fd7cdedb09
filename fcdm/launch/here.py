"""Doing a job in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fcdm.engine.checkpoint import checkpoints
from fcdm.engine.progress import Progress
from fcdm.engine.ranks import Ranks
from fcdm.engine.stop import StopSignal
from fcdm.engine.train import refuse_lost_budgets, train
from fcdm.launch.jobs import Job
from fcdm.runs.folder import Run, check_frozen
from fcdm.runs.holder import claim
from fcdm.runs.identity import science


def do_job(job: Job, run: Run, ranks: Ranks, progress: Progress, stop: StopSignal) -> None:
    """Claim the run, train it to its last budget and judge every budget. Raises UserError, Stopped."""
    check_frozen(run.folder, science(job.config))
    if not ranks.is_main:
        _train(job, run, ranks, progress, stop, lambda: None)
        return
    with claim(run.folder) as holder:
        refuse_lost_budgets(run.checkpoints, job.budgets, _judged(job, run), _trained(run.checkpoints))
        _train(job, run, ranks, progress, stop, holder.beat)


def _train(job: Job, run: Run, ranks: Ranks, progress: Progress, stop: StopSignal, beat: Callable[[], None]) -> None:
    for part in job.parts:
        train(run, part, ranks, progress, stop, set(job.budgets) | _asked_before(run), beat)


def _judged(job: Job, run: Run) -> set[int]:
    return set(job.budgets) - set(job.missing(run))


def _trained(folder: Path) -> int:
    return max((step for step, _ in checkpoints(folder)), default=0)


def _asked_before(run: Run) -> set[int]:
    """Budgets that were judged before, by any protocol: their checkpoints stay, to be judged by others."""
    return {int(path.name.split("-")[1]) for path in run.evaluations.glob("step-*.json")}
