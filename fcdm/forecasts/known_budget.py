"""What is known already of the budget of a forecast: the kind that the forecast is of, and whether it is one at all."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fcdm.errors import UserError
from fcdm.forecasts.entries import CONTINUATION, INTERPOLATION, PREDICTION
from fcdm.runs.checkpoints import checkpoints, newest_step
from fcdm.runs.folder import Run
from fcdm.runs.formats import read_records
from fcdm.runs.reader import RunView
from fcdm.runs.run_paths import evaluation_files


def kind_of(run: Run, steps: int, *, parent: Run | None = None, inside: bool = False) -> str:
    """The kind of a forecast of this budget, made now: PREDICTION, CONTINUATION or INTERPOLATION.

    run: its folder may not be there yet. parent: the run that it branches from; what that has trained is its beginning.
    inside: whether the budget lies within what was fitted. Raises UserError where something of the budget, or beyond
    it, exists: an evaluation (by any protocol: one tells of another), a checkpoint or average, which anybody can
    evaluate, or a record of training.
    """
    if known := what_is_known(run, steps):
        raise UserError(
            f"{run.name} at step {steps} is no forecast any more: {known}. Ask for more steps, or another run; "
            "--hold-out=size|budget|both forecasts from the runs below it, as a hold-out"
        )
    if inside:
        return INTERPOLATION
    begun = is_begun(run) or (parent is not None and is_begun(parent))
    return CONTINUATION if begun else PREDICTION


def what_is_known(run: Run, steps: int) -> str:
    """What of the budget or beyond exists, in words; "": nothing."""
    evaluated = _first(steps, (step for step, _, _ in evaluation_files(run.evaluations)))
    if evaluated is not None:
        return f"it has been measured at step {evaluated} ({run.evaluations})"
    for folder in (run.checkpoints, run.snapshots):
        if (kept := _first(steps, (step for step, _ in checkpoints(folder)))) is not None:
            return f"weights of step {kept} are there ({folder}), and can be evaluated"
    recorded = _first(steps, (int(fields["step"]) for _, fields in read_records(run.records)))
    return "" if recorded is None else f"its training has recorded step {recorded} ({run.records})"


def known_since(view: RunView, steps: int) -> float:
    """When something of the budget or beyond was first known, in seconds since 1970, by the times that evaluations and
    records hold; inf: by none. Weights hold no time: the record of a step as late as theirs does."""
    recorded = (float(fields["time"]) for _, fields in view.records if int(fields["step"]) >= steps)
    evaluated = (one.time for one in view.evaluations if one.step >= steps)
    return min(min(recorded, default=math.inf), min(evaluated, default=math.inf))


def is_begun(run: Run) -> bool:
    """Whether training has left something: a checkpoint, an evaluation, or a record of a step."""
    if newest_step(run.checkpoints) > 0 or evaluation_files(run.evaluations):
        return True
    return any(int(fields["step"]) > 0 for _, fields in read_records(run.records))


def _first(steps: int, found: Iterable[int]) -> int | None:
    """The least step of these that is the budget or beyond it."""
    return min((step for step in found if step >= steps), default=None)
