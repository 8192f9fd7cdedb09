"""The results in `docs/digits.md`: tables and sentences made of two tables of results, so that none is by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.data.seed_curves import SeedCurve
from fcdm.analysis.reporting.budget_table import budget_table
from fcdm.analysis.reporting.markdown import markdown_table
from fcdm.analysis.stats.claim_sides import Pair, pairs_of
from fcdm.analysis.stats.model_pairs import (
    METRICS,
    Comparison,
    comparisons,
    of_metric,
    what_differs,
)
from fcdm.analysis.stats.ratio_words import UNITS, over_targets, times, worded
from fcdm.analysis.stats.step_efficiency import FLOORS, RatioRange
from fcdm.analysis.stats.step_ratios import equal_fid, trend, trend_of
from fcdm.analysis.stats.tuning_trials import Tuned, chosen_lines, tune, tuned_as, tuning_cost, unfair
from fcdm.formatting import steps_text

DISTANCES = {
    "fid": "FID, CNN features, training digits",
    "fid_heldout": "FID, CNN features, held-out digits",
    "fid_pixels": "raw pixels, training digits",
    "fid_pixels_heldout": "raw pixels, held-out digits",
}


def digits_result(table: pd.DataFrame, tuning: pd.DataFrame) -> str:
    """Tuning, tables and sentences in Markdown. `table`, `tuning`: as of `load_results`."""
    tuned = tune(tuning)
    pairs = {
        metric: pairs_of(of_metric(table, metric), "FID" if metric == "fid" else "distance") for metric in DISTANCES
    }
    parts = [_chosen(tuned, tuning, table), *map(_differs, comparisons(table))]
    fids = budget_table(table, "fid", "FID")
    parts += [markdown_table(fids) if fids else "", _ratios(pairs), _trends(pairs), _floors(table)]
    parts += [_hours(pair) for pair in pairs["fid"]]
    parts += [_noise(pair) for pair in pairs["fid"]]
    return "\n\n".join(part for part in parts if part)


def _chosen(tuned: Sequence[Tuned], trials: pd.DataFrame, table: pd.DataFrame) -> str:
    """What was chosen from which trials, what that cost, and where the choice is not a fair one."""
    said = [*tuned_as(table, list(tuned)), *tuning_cost(trials, table, list(tuned)), *unfair(list(tuned))]
    return "\n".join(
        [
            "Chosen by tuning:",
            "",
            *(f"- {line}" for line in chosen_lines(tuned)),
            *(f"- {line[0].upper()}{line[1:]}." for line in said),
        ]
    )


def _differs(one: Comparison) -> str:
    by_name = one.a.name != one.b.name
    a, b = (line.name if by_name else line.label for line in (one.a, one.b))
    return f"{a} against {b}: {what_differs(one.differs)}."


def _ratios(pairs: dict[str, list[Pair]]) -> str:
    """A row for each distance: at the headline target, its interval, the ends of the shared range, and in FLOPs."""
    rows = []
    for metric, of_distance in pairs.items():
        for pair in of_distance:
            axis = pair.counted_in
            span = pair.ratios(axis)
            if not isinstance(span, RatioRange):
                rows.append(f"| {DISTANCES[metric]} | {span} | | | | |")
                continue
            steps, flops = (equal_fid(pair, of_axis) for of_axis in (axis, "train_flops"))
            headline = "no clear ratio" if span.unclear else f"{times(steps.value)} at {span.target:.3g}"
            cells = [headline, _ends(steps.low, steps.high)]
            cells += [over_targets(span, ""), _times_or_none(flops.value), _ends(flops.low, flops.high)]
            rows.append(f"| {DISTANCES[metric]} | {' | '.join(cells)} |")
    found = [pair for of_distance in pairs.values() for pair in of_distance]
    fewer = found[0].name_a if found else "the first"
    unit = " or ".join(dict.fromkeys(UNITS[pair.counted_in] for pair in found)) or UNITS["steps"]
    titles = [
        *("to reach equal", f"{fewer} needs fewer {unit}", "95 % interval", "over the shared range"),
        *("fewer training FLOPs", "95 % interval"),
    ]
    return "\n".join([f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *rows])


def _times_or_none(ratio: float) -> str:
    return times(ratio) if np.isfinite(ratio) else "no clear ratio"


def _ends(low: float, high: float) -> str:
    if not np.isfinite(low):
        return "none"
    return f"{times(low)} to {times(high) if np.isfinite(high) else 'no upper end'}"


def _trends(pairs: dict[str, list[Pair]]) -> str:
    lines = [
        f"- {DISTANCES[metric]}: {trend(pair).text}." for metric, of_distance in pairs.items() for pair in of_distance
    ]
    kinds = {
        None if isinstance(found, str) else found.direction
        for of_distance in pairs.values()
        for found in map(trend_of, of_distance)
    }
    (kind,) = kinds if len(kinds) == 1 else ("mixed",)
    summary = {
        "falls": "The ratio falls towards lower values, by all distances",
        "rises": "The ratio rises towards lower values, by all distances",
        None: "No trend of the ratio is told by any distance",
    }.get(kind, "The distances do not agree on a trend of the ratio")
    return "\n".join([f"{summary}:", "", *lines])


def _floors(table: pd.DataFrame) -> str:
    floors = {metric: float(table[column].median()) for metric, column in METRICS.items()}
    told = ", ".join(f"{floors[metric]:.3g} ({DISTANCES[metric]})" for metric in DISTANCES)
    samples = int(table["samples"].max())
    return (
        f"The floor, what real digits score at {samples:,} samples, is {told}; targets under {FLOORS:g} times "
        "the floor are refused."
    )


def _hours(pair: Pair) -> str:
    side = equal_fid(pair, "device_seconds")
    if not np.isfinite(side.value):
        return f"In time: {side.text}."
    device = pair.lines[0].devices[0] if pair.lines else ""
    interval = f" ({_ends(side.low, side.high)})" if np.isfinite(side.low) else ""
    span = pair.ratios("device_seconds")
    at = f" at {pair.distance} {span.target:.4g}" if isinstance(span, RatioRange) else ""
    what = f"{worded(side.value)} {UNITS['device_seconds']}{at}"
    return f"In time, on {device} with whatever else that machine did: {what}{interval}."


def _noise(pair: Pair) -> str:
    """What one run and one evaluation vary by."""
    told = [_of_seeds(line) for line in pair.lines or ()]
    evaluation = (
        f"evaluation, {pair.noise.evaluation:.1%} over its seeds"
        if np.isfinite(pair.noise.evaluation)
        else "evaluation, not measured"
    )
    return f"Noise of one FID (relative standard deviation): {'; '.join([evaluation, *told])}."


def _of_seeds(line: SeedCurve) -> str:
    last = steps_text(float(line.points["steps"].iloc[-1]))
    if not np.isfinite(line.noise):
        return f"training of {line.label}, one seed"
    return f"training of {line.label}, {line.noise:.1%} over {line.seeds} seeds up to {last} steps"
