"""What the laws of studies foretell of a command's budgets, beside what they cost: see `fcdm.forecasts.law_file`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from fcdm.errors import UserError
from fcdm.features.distance_names import told_name
from fcdm.forecasts.common_settings import settings_of
from fcdm.forecasts.law_file import ReachingLaw
from fcdm.jobs.job import Job
from fcdm.laws.predictive import Predictive
from fcdm.runs.identity import science
from fcdm.runs.run_cost import run_cost


class PlannedForecast(NamedTuple):
    """What one new run is foretold at one budget."""

    steps: int
    metric: str
    """A key of evaluations: `fid`."""
    name: str
    """What it is called: `FID`."""
    study: str
    """Whose law says so."""
    new_run: Predictive


def foretold(job: Job, laws: Sequence[ReachingLaw], measured: Collection[int]) -> list[PlannedForecast]:
    """For each budget that is not measured what the laws that reach it say; of two for one metric the first.

    Each protocol that the job asks for has its own.
    """
    found: dict[tuple[str, int, str], PlannedForecast] = {}
    if not laws:
        return []
    cost, settings = run_cost(job.config), settings_of(science(job.config))
    for part in job.parts:
        try:
            protocol_id, protocol = part.protocol_id, part.protocol
        except UserError:  # what it is evaluated with is not here
            continue
        for law in (law for law in laws if law.foretells(settings, protocol_id)):
            for steps in (step for step in part.budgets if step not in measured):
                batch = job.config.batch_size
                law_at = law.new_run(getattr(cost, law.n_unit), steps * batch, cost.train_flops(batch, steps))
                if law_at is not None:
                    name = told_name(law.metric, protocol)
                    one = PlannedForecast(steps, law.metric, name, law.study, law_at)
                    found.setdefault((law.metric, steps, protocol_id), one)
    return list(found.values())


def forecast_text(forecasts: Iterable[PlannedForecast]) -> str:
    """`800: 12.3 (10.1 to 15)`: of the distances, with 80 % intervals; "" of none."""
    shown = [one for one in forecasts if one.metric == "fid"]
    return ", ".join(f"{one.steps:,}: {_text(one.new_run)}" for one in sorted(shown, key=lambda one: one.steps))


def _text(law: Predictive) -> str:
    low, high = law.interval(0.8)
    return f"{law.median:.3g} ({low:.3g} to {high:.3g})"
