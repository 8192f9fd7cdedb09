"""Doing a job in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from fcdm.engine.progress import Progress
from fcdm.engine.ranks import Ranks
from fcdm.engine.stop import StopSignal
from fcdm.engine.train import train
from fcdm.errors import UserError
from fcdm.launch.jobs import Job
from fcdm.runs.atomic import TEMPORARY
from fcdm.runs.folder import Run, check_frozen
from fcdm.runs.holder import claim
from fcdm.runs.identity import science
from fcdm.runs.reader import list_studies


def do_job(job: Job, run: Run, ranks: Ranks, progress: Progress, stop: StopSignal) -> None:
    """Claim the run, train it to its last budget and judge every budget. Raises UserError, Stopped."""
    check_frozen(run.folder, science(job.config))
    with contextlib.ExitStack() as stack:
        beat: Callable[[], None] = _no_beat
        refusal: UserError | None = None
        if ranks.is_main:
            try:
                beat = stack.enter_context(claim(run.folder)).beat
                _clean(run)
                job.refuse_lost_budgets(run)
            except UserError as error:
                refusal = error
        # All go on together, once the first holds the run, or none does.
        if ranks.any(refusal is not None):
            raise refusal or SystemExit(1)
        for part in job.parts:
            train(run, part, ranks, progress, stop, set(job.budgets) | _asked_before(run), beat)
    if ranks.is_main and (missing := job.missing(run)):
        raise UserError(f"{run.name}: budgets {', '.join(map(str, missing))} are not judged; the same command goes on")


def _no_beat() -> None:
    """Ranks other than the first hold nothing."""


def _clean(run: Run) -> None:
    """Remove what writers that were killed left unfinished; only the run's holder may."""
    for folder in (run.folder, run.evaluations, run.folder / "jobs"):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(OSError):
                leftover.unlink()


def _asked_before(run: Run) -> set[int]:
    """Budgets that any study asked of this run: their checkpoints stay, judged or not yet."""
    steps = {int(path.name.split("-")[1]) for path in run.evaluations.glob("step-*.json")}
    with contextlib.suppress(UserError):  # a study file that cannot be read asks for nothing
        for study in list_studies(run.folder.parent):
            for request in study.requests:
                if request.run == run.name:
                    steps |= set(request.budgets)
    return steps
