"""The ledger as lines for people: a forecast when it is written, and all of them scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fcdm.forecasts.entries import INTERPOLATION, KINDS, ForecastEntry
from fcdm.forecasts.score_forecasts import (
    LEVELS_SCORED,
    STATES,
    UNSCORED,
    ForecastScore,
    ForecastSummary,
    ScoredForecast,
    summaries,
)
from fcdm.formatting import plural, steps_text, three_digits
from fcdm.laws.predictive import LEVEL, SURE, Predictive
from fcdm.laws.verdict import FAILED, is_loss, too_wide


def forecast_lines(entry: ForecastEntry) -> list[str]:
    """What an entry says, when it is made."""
    law, new = entry.law, entry.new_run
    lines = [
        f"{entry.kind} ({KINDS[entry.kind]}): {entry.run.name} at {entry.steps:,} steps, "
        f"{steps_text(entry.images)} images",
        f"  {entry.metric_name} of one new run {digits(new.median)}: {digits_range(*new.interval(0.8))} (80 %), "
        f"{digits_range(*new.interval(LEVEL))} ({SURE}); the law alone {digits_range(*law.interval(LEVEL))} ({SURE})",
    ]
    if entry.baselines:
        told = ", ".join(f"{name} {digits(other.median)}" for name, other in entry.baselines.items())
        lines.append(f"  baselines: {told}")
    if entry.kind == INTERPOLATION:
        lines.append("  within what was measured: interpolated, and scored apart from forecasts")
    else:
        validated = f"validated to x{entry.validated_gap:.3g}" if entry.validated_gap else "validated to no gap"
        lines.append(f"  x{entry.gap:.3g} the compute that was fitted, {validated}")
    lines += [f"  forced: {reason}" for reason in entry.forced]
    if not is_loss(entry.metric) and (wide := too_wide(new)):
        lines.append(f"  uninformative: {wide}; it will count as neither held nor failed")
    return lines


def score_lines(scored: Sequence[ScoredForecast]) -> list[str]:
    """The scored ledger as a table, then what each kind comes to."""
    if not scored:
        return ["the ledger holds no forecast yet"]
    lines = _aligned([list(TITLES), *(cells for one in scored for cells in score_cells(one))])
    for one in summaries(scored):
        lines += ["", *summary_lines(one)]
    return [*lines, "", LEGEND]


def forecast_note(one: ScoredForecast) -> str:
    """`forecast FID 12.3 (9.8 to 15)`, once measured `forecast FID 12.3: +4 %, held`: a few words beside a budget."""
    entry = one.entry
    forced = "forced " if entry.forced else ""
    said = f"{forced}forecast {entry.metric_name} {digits(entry.new_run.median)}"
    if one.score is None:
        ends = f"{said} ({digits_range(*entry.new_run.interval(LEVEL))})"
        return ends if one.state == UNSCORED else f"{ends}, {one.state}"
    return f"{said}: {_off(one)}, {one.state}"


TITLES = (
    *("#", "kind", "run", "steps", "metric", "forecast", "80 %", SURE, "measured", "error", "compute", "PIT", "CRPS"),
    *("log score", "skill", "state"),
)
LEGEND = (
    "error: ln(forecast / measured); compute: that at which the law says what was measured, over that at which it says "
    "what was forecast; CRPS of ln; skill: 1 - CRPS / CRPS of that baseline"
)


def score_cells(one: ScoredForecast) -> list[list[str]]:
    """Of the forecast, and of each baseline once it is measured."""
    entry = one.entry
    state = one.state + ("" if one.counted or one.score is None else " (not counted)")
    kind = entry.kind + (" (forced)" if entry.forced else "")
    measured = "-" if one.measured is None else digits(one.measured)
    own = [str(entry.number), kind, entry.run.name, f"{entry.steps:,}", entry.metric_name, *_law_cells(entry.new_run)]
    lines = [[*own, measured, *_score_cells(one.score), "-", state + (f": {one.why}" if one.why else "")]]
    for name, score in one.baselines.items():
        lines.append(
            ["", "", name, "", "", *_law_cells(score.law), "", *_score_cells(score), _number(one.skills[name]), ""]
        )
    return lines


def _law_cells(law: Predictive) -> list[str]:
    """The median, and the intervals of what is no single number."""
    wide = [law.interval(level) for level in (0.8, LEVEL)]
    return [digits(law.median), *("-" if low == high else digits_range(low, high) for low, high in wide)]


def _score_cells(score: ForecastScore | None) -> list[str]:
    if score is None:
        return ["-"] * 5
    numbers = (score.pit, score.crps, score.log_score)
    return [f"{score.log_error:+.3f}", f"x{score.compute_equivalent:.3g}", *map(_number, numbers)]


def summary_lines(one: ForecastSummary) -> list[str]:
    """How many of a kind and metric held, and how well their intervals did."""
    counts = ", ".join(f"{one.states[state]} {state}" for state in STATES if one.states[state] or state == FAILED)
    total = plural(sum(one.states.values()), one.kind) + (f" ({one.forced} forced)" if one.forced else "")
    lines = [f"{total} of {one.metric}: {counts}"]
    if not one.trajectories:
        return lines
    hits = [f"{level:.0%} held {coverage_text(one, level)}" for level in LEVELS_SCORED]
    lines.append(f"  intervals, by {plural(one.trajectories, 'trajectory', 'trajectories')}: {'; '.join(hits)}")
    skills = "".join(f"; skill {_number(value)} over the {name}" for name, value in one.skills.items())
    lines.append(f"  CRPS of the log {_number(one.crps)}, log score {_number(one.log_score)}{skills}")
    return lines


def summary_words(scored: Sequence[ScoredForecast]) -> list[str]:
    """`summary_lines` of every kind and metric, not indented."""
    return [line.strip() for one in summaries(scored) for line in summary_lines(one)]


def coverage_text(one: ForecastSummary, level: float) -> str:
    """`8 of 8 (63% to 100%)`: trajectories, with the exact interval of their share."""
    low, high = one.coverage(level)
    return f"{one.hits[level]} of {one.trajectories} ({low:.0%} to {high:.0%})"


def _off(one: ScoredForecast) -> str:
    """How far off, in the words of the metric: of a loss in compute, for per cents of it are E's."""
    assert one.score is not None
    if is_loss(one.entry.metric):
        return f"x{one.score.compute_equivalent:.3g} in compute"
    return f"{math.expm1(one.score.log_error):+.1%}"


def digits_range(low: float, high: float) -> str:
    return f"{digits(low)} to {digits(high)}"


def digits(value: float) -> str:
    """Four digits that mean something of a loss as of a distance."""
    return f"{value:.4f}" if value < 1 else three_digits(value) if value >= 100 else f"{value:.4g}"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
