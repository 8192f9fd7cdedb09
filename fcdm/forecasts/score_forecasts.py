"""Forecasts against what was measured: which are scored, how they are counted, and what they come to.

Scores are a pure function of the ledger's entries and of the runs' evaluations, made anew each time: nothing of them is
stored, so nothing of them can be out of date.

- Whether a forecast held, failed or is uninformative says `fcdm.laws.verdict`.
- Coverage counts trajectories: entries of one run, or of branches of one parent, are one: the forecast of the most
  steps that is scored, of several as far that which was written first. So what came out has no say in which counts.
  Uninformative ones count. Kinds and metrics are never pooled.
- A forecast that was written after something of its budget was known (`known_since`), and is no hold-out, is *late* and
  not scored. A withdrawal counts if it was written before that, so never of a hold-out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fcdm.forecasts.entries import CONTINUATION, HOLD_OUT, INTERPOLATION, KINDS, PREDICTION, ForecastEntry, Ledger
from fcdm.forecasts.measured_budgets import MeasuredBudget, MeasuredKey
from fcdm.laws.predictive import LEVEL, Predictive
from fcdm.laws.scores import compute_equivalent, crps_of_log, hit_interval, log_error, log_score, pit, skill
from fcdm.laws.verdict import FAILED, HELD, UNINFORMATIVE, is_loss, verdict

UNSCORED, WITHDRAWN, LATE = "unscored", "withdrawn", "late"
STATES = (HELD, FAILED, UNINFORMATIVE, UNSCORED, WITHDRAWN, LATE)
LEVELS_SCORED = (0.50, 0.80, LEVEL)


@dataclass(frozen=True)
class ForecastScore:
    """How one predictive distribution came out. Errors and CRPS in units of ln of the metric."""

    law: Predictive
    measured: float
    compute_equivalent: float
    """1 where what was measured is `law`'s own median: see `fcdm.laws.scores`."""

    @property
    def log_error(self) -> float:
        """ln(forecast's median / measured)."""
        return log_error(self.law.median, self.measured)

    @cached_property
    def pit(self) -> float | None:
        """None: one number for certain has none."""
        return pit(self.law, self.measured) if self._spread else None

    @cached_property
    def crps(self) -> float:
        return crps_of_log(self.law, self.measured)

    @cached_property
    def log_score(self) -> float | None:
        """None: of one number for certain it says only whether that was met to the last digit."""
        return log_score(self.law, self.measured) if self._spread else None

    @property
    def _spread(self) -> bool:
        return self.law.quantiles[0] < self.law.quantiles[-1]

    def numbers(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in ("log_error", "compute_equivalent", "pit", "crps", "log_score")}


@dataclass(frozen=True)
class ScoredForecast:
    """An entry and how it came out."""

    entry: ForecastEntry
    state: str
    """One of STATES."""
    why: str = ""
    """Why it failed, is uninformative, late, withdrawn, or not scored although it is measured."""
    measured: float | None = None
    score: ForecastScore | None = None
    """Of the new run's distribution; None: not scored."""
    inside: Mapping[float, bool] = field(default_factory=dict)
    """Level -> whether the measured value lies in that interval."""
    baselines: Mapping[str, ForecastScore] = field(default_factory=dict)
    counted: bool = False
    """It stands for its run in the coverage."""

    @property
    def skills(self) -> dict[str, float]:
        """Baseline -> skill against it."""
        return {name: skill(self.score.crps, other.crps) for name, other in self.baselines.items() if self.score}


@dataclass(frozen=True)
class ForecastSummary:
    """All forecasts of one kind and metric."""

    kind: str
    metric: str
    """Its name: a distance in another space of features is another."""
    states: Mapping[str, int]
    """State -> entries, all of STATES."""
    forced: int
    """Entries that would have been refused."""
    trajectories: int
    hits: Mapping[float, int]
    """Level -> trajectories of which the interval held what was measured."""
    crps: float
    """Means over trajectories; NaN without any."""
    log_score: float
    skills: Mapping[str, float]
    """Baseline -> 1 - sum of CRPS / sum of the baseline's, over the trajectories that have it."""

    def coverage(self, level: float) -> tuple[float, float]:
        """The exact 95 % interval of the share of trajectories inside."""
        return hit_interval(self.hits[level], self.trajectories)


def score_ledger(ledger: Ledger, measured: Mapping[MeasuredKey, MeasuredBudget]) -> list[ScoredForecast]:
    """Every forecast of the ledger, in its order."""
    scored = [score_entry(entry, ledger, measured.get((*entry.key, entry.metric))) for entry in ledger.forecasts]
    counted = _counted(scored)
    return [replace(one, counted=one.entry.number in counted) for one in scored]


def score_entry(entry: ForecastEntry, ledger: Ledger, found: MeasuredBudget | None) -> ScoredForecast:
    """One forecast. found: what was measured; None: nothing is known yet."""
    value, known = found or (None, math.inf)
    withdrawal = ledger.withdrawn.get(entry.number)
    if withdrawal is not None and entry.kind != HOLD_OUT and withdrawal.time < known:
        return ScoredForecast(entry, WITHDRAWN, withdrawal.why)
    if value is None:
        return ScoredForecast(entry, UNSCORED)
    if not 0 < value < math.inf:
        return ScoredForecast(entry, UNSCORED, f"measured as {value:g}, which is no number above 0")
    if entry.kind != HOLD_OUT and known < entry.time:
        return ScoredForecast(entry, LATE, "written after something of its budget was known", value)
    inside = {level: _is_inside(entry.new_run, level, value) for level in LEVELS_SCORED}
    curve = entry.curve if is_loss(entry.metric) else None
    state, why = verdict(entry.new_run, value, entry.seed_deviation or 0.0, curve)
    baselines = {name: _score(entry, law, value) for name, law in entry.baselines.items()}
    return ScoredForecast(entry, state, why, value, _score(entry, entry.new_run, value), inside, baselines)


def _score(entry: ForecastEntry, law: Predictive, measured: float) -> ForecastScore:
    return ForecastScore(law, measured, compute_equivalent(entry.curve, measured, law.median))


def foremost(scored: Iterable[ScoredForecast]) -> list[ScoredForecast]:
    """Of each budget and metric the one forecast that stands beside it where only one does: what is scored, or will be,
    before what is late and what is withdrawn; then by `_FOREMOST`; of several as far, as in the coverage, the first."""
    best: dict[MeasuredKey, ScoredForecast] = {}
    for one in scored:
        key = (*one.entry.key, one.entry.metric)
        if key not in best or _rank(one) < _rank(best[key]):
            best[key] = one
    return list(best.values())


_FOREMOST = {PREDICTION: 0, CONTINUATION: 0, INTERPOLATION: 1, HOLD_OUT: 2}


def _rank(one: ScoredForecast) -> tuple[int, int]:
    return {LATE: 1, WITHDRAWN: 2}.get(one.state, 0), _FOREMOST[one.entry.kind]


def summaries(scored: Sequence[ScoredForecast]) -> list[ForecastSummary]:
    """Of each kind and metric there is, in the order of KINDS."""
    groups: dict[tuple[str, str], list[ScoredForecast]] = {}
    for one in scored:
        groups.setdefault((one.entry.kind, one.entry.metric_name), []).append(one)
    order = list(KINDS)
    return [_summary(*key, groups[key]) for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))]


def as_json(scored: Sequence[ScoredForecast]) -> dict[str, Any]:
    """Everything for programs, in plain numbers; NaN and infinities as strings (`fcdm.atomic.plain`)."""
    return {
        "forecasts": [
            {
                **{"entry": one.entry.number, "time": one.entry.time, "hash": one.entry.hash, "state": one.state},
                **{"why": one.why, "measured": one.measured, "counted": one.counted},
                **one.entry.content(),
                "score": None if one.score is None else one.score.numbers(),
                "inside": {f"{level:g}": hit for level, hit in one.inside.items()},
                "scores_of_baselines": {name: score.numbers() for name, score in one.baselines.items()},
                "skill": one.skills,
            }
            for one in scored
        ],
        "summary": [
            {
                **{"kind": one.kind, "metric": one.metric, "entries": dict(one.states), "forced": one.forced},
                "trajectories": one.trajectories,
                "coverage": {
                    f"{level:g}": {"hits": one.hits[level], "of": one.trajectories, "interval": one.coverage(level)}
                    for level in LEVELS_SCORED
                },
                **{"crps": one.crps, "log_score": one.log_score, "skill": dict(one.skills)},
            }
            for one in summaries(scored)
        ],
    }


def _is_inside(law: Predictive, level: float, value: float) -> bool:
    low, high = law.interval(level)
    return low <= value <= high


def _counted(scored: Iterable[ScoredForecast]) -> set[int]:
    """Numbers of the entries that stand for their runs."""
    best: dict[tuple[str, str, str], ForecastEntry] = {}
    for one in scored:
        entry = one.entry
        key = (entry.kind, entry.metric_name, entry.run.trajectory)
        if one.score is not None and (key not in best or entry.steps > best[key].steps):
            best[key] = entry
    return {entry.number for entry in best.values()}


def _summary(kind: str, metric: str, scored: Sequence[ScoredForecast]) -> ForecastSummary:
    states = [one.state for one in scored]
    counted = [(one, one.score) for one in scored if one.counted and one.score is not None]
    names = list(dict.fromkeys(name for one, _ in counted for name in one.baselines))
    pairs = {
        name: [(score.crps, one.baselines[name].crps) for one, score in counted if name in one.baselines]
        for name in names
    }
    return ForecastSummary(
        kind=kind,
        metric=metric,
        states={state: states.count(state) for state in STATES},
        forced=sum(bool(one.entry.forced) for one in scored),
        trajectories=len(counted),
        hits={level: sum(one.inside[level] for one, _ in counted) for level in LEVELS_SCORED},
        crps=_mean([score.crps for _, score in counted]),
        log_score=_mean([score.log_score for _, score in counted if score.log_score is not None]),
        skills={
            name: skill(sum(ours for ours, _ in both), sum(theirs for _, theirs in both))
            for name, both in pairs.items()
        },
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
