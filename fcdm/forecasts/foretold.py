"""What a law says of one budget of one run: what a forecast is made of, before it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fcdm.cost.model_cost import ModelCost
from fcdm.laws.predictive import Predictive

if TYPE_CHECKING:
    import pandas as pd

    from fcdm.forecasts.law_file import ReachingLaw

LAST_VALUE, LAST_TWO = "last value", "last two points"
"""Baselines: the nearest measured value as it stands, and the line through the last two in log-log."""


@dataclass(frozen=True)
class ForecastTarget:
    """The budget that is asked about, as the run's configuration has it."""

    model: str
    """Its preset's name, or the user's."""
    family: str
    parameters: int
    forward_macs: int
    """Of one image."""
    batch_size: int
    resolution: int
    seed: int
    steps: int
    science: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value of the whole science config, of what identifies the run."""

    @property
    def images(self) -> int:
        return self.steps * self.batch_size

    @property
    def train_flops(self) -> float:
        return float(ModelCost(forward_macs=self.forward_macs).train_flops(self.batch_size, self.steps))


@dataclass(frozen=True)
class StudyForecast:
    """What a law foretells of a target, in one metric."""

    law: Predictive
    """The law there: the mean over training seeds."""
    new_run: Predictive
    """One new run there: parameters, misfit between sizes, training seeds and the evaluation's noise."""
    settings: Mapping[str, Any]
    """How it was fitted, with its cuts: plain JSON."""
    points: Sequence[Mapping[str, Any]]
    """What was fitted, one mapping a point: `run`, `steps`, `value` and whatever else the fit took. Plain JSON."""
    baselines: Mapping[str, Predictive]
    """By LAST_VALUE and LAST_TWO; one number for certain where a baseline states no error."""
    curve: tuple[tuple[float, float], ...]
    """(multiple of the target's compute, median of the law there), for errors in compute: see `compute_equivalent`."""
    gap: float
    """The target's compute over the largest that was fitted."""
    validated_gap: float | None
    """The largest gap that the same fit has been held out over; None: none."""
    inside: bool
    """The target lies within the sizes, images and compute that were fitted."""
    seed_deviation: float | None = None
    """Standard deviation of ln of the metric over training seeds; None: not measured."""
    forced: tuple[str, ...] = ()
    """Why it would have been refused, each in a few words."""


class ForecastTeller(Protocol):
    """What fits a study and foretells: the command's seam to `fcdm.analysis`."""

    def forecast_of(
        self, table: pd.DataFrame, metric: str, target: ForecastTarget, *, force: bool, losses: pd.DataFrame | None
    ) -> StudyForecast:
        """table: a study's tidy table, one protocol. losses: that of the protocol by which the study has most held-out
        losses, for a distance that has too few points of its own. Raises UserError for what the points do not tell, and
        unless `force`, which is marked in the forecast, for what lies beyond the largest validated gap."""

    def laws_of(
        self, table: pd.DataFrame, metric: str, *, losses: pd.DataFrame | None
    ) -> Sequence[tuple[ReachingLaw, Sequence[str]]]:
        """The validated laws that a study tells, each with the names of the runs that it was fitted to; their `common`
        is the caller's to fill in. Raises UserError where there is none."""
