"""The papers' claims and one's own, each computed in one way from published points and from runs.

Ratios of budgets and ratios at equal FID are never one number; FIDs of different protocols are never compared: where
runs were evaluated otherwise than the papers (fewer samples, another sampler), claims at a published FID are refused
for them, and their own curves speak in own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import metric_name
from fcdm.analysis.data.seed_curves import seed_curves
from fcdm.analysis.published import published_curve
from fcdm.analysis.stats.claim_sides import Pair, Side, pairs_of, published_pair
from fcdm.analysis.stats.model_pairs import METRICS, of_metric
from fcdm.analysis.stats.pair_patterns import PairOfPatterns, matching
from fcdm.analysis.stats.reverses import reverses
from fcdm.analysis.stats.step_ratios import budgets, compute, equal_fid, macs, same_budget, smallest_budget, trend
from fcdm.formatting import steps_text

XL = ("FCDM-XL", "DiT-XL/2")
FID = "FID"
EQUAL = "equal distance"
"""The kind of a ratio of what was spent to one FID, FD-DINOv2, ...: the claim itself names it."""
ON_PIXELS = {"fid_pixels": "distance on pixels", "fid_pixels_heldout": "distance on pixels to held-out images"}
OF_AXIS = {
    "steps": "steps",
    "images": "images",
    "train_flops": "training FLOPs",
    "device_seconds": "hours on one device",
}


NOT_OF_RUNS = Side("no claim about runs: a published number")


@dataclass(frozen=True)
class ClaimRow:
    """One row: `kind` is `budgets`, `equal distance`, `trend`, `cost`, `same budget`, `reverse`: other questions."""

    key: str
    kind: str
    claim: str
    published: Side
    runs: Side


@dataclass(frozen=True)
class _Paper:
    """A claim about a pair of the papers, and the function that computes it for whichever points."""

    key: str
    kind: str
    claim: str
    resolution: int
    compute: Callable[[Pair], Side]
    needs: tuple[int, ...] = ()
    """Budgets of a and b that the claim is about."""
    at_published_fid: bool = False
    """It names a FID of the papers, which FIDs by another protocol cannot be held against."""
    models: tuple[str, str] = XL


def _paper_claims() -> list[_Paper]:
    def of_budgets(key: str, text: str, resolution: int, a: int, b: int) -> _Paper:
        return _Paper(key, "budgets", text, resolution, lambda pair: budgets(pair, a, b), (a, b))

    def at(target: float, axis: str, key: str) -> _Paper:
        text = f"{OF_AXIS[axis]} to FID {target} at 256 px"
        return _Paper(key, EQUAL, text, 256, lambda pair: equal_fid(pair, axis, target), (), True)

    def over_all(axis: str) -> _Paper:
        text = f"{OF_AXIS[axis]} to equal FID at 256 px, all shared FIDs"
        return _Paper(f"equal_fid_256_{axis}", EQUAL, text, 256, lambda pair: equal_fid(pair, axis))

    def at_400k(size: str) -> _Paper:
        models, steps = (f"FCDM-{size}", f"DiT-{size}/2"), 400_000
        text = f"lower FID at every size: {models[0]} against {models[1]} at 400K steps, 256 px"
        ask = partial(same_budget, steps=steps)
        return _Paper(f"same_budget_{size}", "same budget", text, 256, ask, (steps, steps), False, models)

    def half(resolution: int) -> _Paper:
        return _Paper(f"macs_{resolution}", "cost", f"half the FLOPs at {resolution} px", resolution, macs)

    def behind(resolution: int, a: int, b: int, text: str) -> _Paper:
        claim = f"compute behind the {text} at {resolution} px"
        key = f"compute_{resolution}"
        return _Paper(key, "cost", claim, resolution, lambda pair: compute(pair, a, b), (a, b))

    return [
        of_budgets("budget_256", "7x fewer steps at 256 px (abstract)", 256, 1_000_000, 7_000_000),
        of_budgets("budget_512", "7.5x fewer steps at 512 px (abstract)", 512, 400_000, 3_000_000),
        of_budgets("budget_512_follows", "what follows at 512 px from the points found", 512, 1_000_000, 3_000_000),
        at(9.62, "steps", "equal_fid_9.62_steps"),
        at(10.67, "steps", "equal_fid_10.67_steps"),
        over_all("steps"),
        _Paper("trend_256", "trend", "how the ratio of steps changes towards lower FIDs, 256 px", 256, trend),
        at(9.62, "train_flops", "equal_fid_9.62_flops"),
        at(10.67, "train_flops", "equal_fid_10.67_flops"),
        over_all("train_flops"),
        *(at_400k(size) for size in ("S", "B", "L", "XL")),
        half(256),
        half(512),
        behind(256, 1_000_000, 7_000_000, "7x"),
        behind(512, 400_000, 3_000_000, "7.5x"),
    ]


def claims(
    table: pd.DataFrame | None, others: pd.DataFrame, pairs: Sequence[PairOfPatterns] | None = None
) -> list[ClaimRow]:
    """Every claim, the papers' first. `table`: `tidy_table`'s (None: no runs); `others`: `published`'s.

    `pairs`: two patterns each, of the models to compare; None: each FCDM with the DiT of its size. Raises UserError for
    a pattern that means no model, or several.
    """
    own = pairs_of(table, pairs=pairs) if table is not None and len(table) else []
    papers = (
        pairs_of(table) if table is not None and len(table) and pairs else own
    )  # the papers' pairs, if asked or not
    claim_rows = []
    pair_of = cache(partial(published_pair, others))
    for one in _paper_claims():
        theirs = pair_of(*one.models, one.resolution)
        side = one.compute(theirs) if theirs is not None else _not_published(others, one.models, one.resolution)
        claim_rows.append(ClaimRow(one.key, one.kind, one.claim, side, _of_runs(one, papers)))
    for reverse in reverses(others):
        claim_rows.append(ClaimRow(reverse.key, "reverse", reverse.claim, reverse.side, NOT_OF_RUNS))
    for pair in own:
        claim_rows += _own_claims(pair, "fid", others)
    if table is not None and len(table):
        for metric in METRICS:
            if metric != "fid" and np.isfinite(table[metric]).any():
                name = ON_PIXELS.get(metric) or metric_name(table, metric)
                for pair in pairs_of(of_metric(table, metric), name, pairs):
                    claim_rows += _own_claims(pair, metric, others)
    return claim_rows


def claims_elsewhere(
    tables: Mapping[str, pd.DataFrame], pairs: Sequence[PairOfPatterns] | None = None
) -> list[ClaimRow]:
    """The ratio at equal distance once more for each of `other_tables`: in other features, at other sampling steps."""
    claim_rows = []
    for where, table in tables.items():
        for pair in _pairs_there(table, pairs):
            axis = pair.counted_in
            names = f"{pair.name_a} against {pair.name_b}, {pair.resolution} px"
            text = f"{names}, {where}: {OF_AXIS[axis]} to equal {pair.distance}"
            key = f"{pair.name_a}|{pair.name_b}|{pair.resolution}|fid|{axis} {where}"
            side = equal_fid(pair, axis)
            if table["guidance_scale"].nunique() > 1:
                side = replace(side, rests_on=f"{_scales(pair)}; {side.rests_on}")
            claim_rows.append(ClaimRow(key, EQUAL, text, Side("a claim of these runs"), side))
    return claim_rows


def _pairs_there(table: pd.DataFrame, pairs: Sequence[PairOfPatterns] | None) -> list[Pair]:
    """Those of the pairs that this table has both models of; patterns that were refused before are refused again."""
    if pairs is None:
        return pairs_of(table)
    curves = seed_curves(table)
    there = [pair for pair in pairs if all(matching(pattern, curves) for pattern in pair)]
    return pairs_of(table, pairs=there) if there else []


def _scales(pair: Pair) -> str:
    """`FCDM-N: scale 1.5 at 400, 1.25 at 800; ...`."""
    told = []
    for line in pair.lines or ():
        by_step = line.runs.groupby("steps")["guidance_scale"].first()
        told.append(f"{line.label}: scale {', '.join(f'{scale:g} at {steps:,}' for steps, scale in by_step.items())}")
    return "; ".join(told)


def claims_frame(claim_rows: list[ClaimRow]) -> pd.DataFrame:
    """One row per claim: key, kind, claim, status, then for `published` and `runs` text, value, low, high, rests_on.

    `status` is of the published half: `paper`, `third-party` (the weakest of what it quotes), `derived` (computed from
    those points), `claimed, not recomputable`; empty where nothing is published.
    """
    rows = []
    for one in claim_rows:
        row: dict[str, object] = {"key": one.key, "kind": one.kind, "claim": one.claim, "status": one.published.status}
        for name, side in (("published", one.published), ("runs", one.runs)):
            row |= {name: side.text, f"{name}_value": side.value, f"{name}_low": side.low, f"{name}_high": side.high}
            row[f"{name}_rests_on"] = side.rests_on
        rows.append(row)
    return pd.DataFrame(rows)


def _of_runs(one: _Paper, own: list[Pair]) -> Side:
    """The papers' claim from one's own runs of the very same models; else what is missing for it."""
    names = f"{' and '.join(one.models)} at {one.resolution} px"
    pair = next((p for p in own if _names(p) == one.models and p.resolution == one.resolution), None)
    if pair is None:
        return Side(f"missing: runs of {names}")
    if one.kind != "cost" and pair.distance != FID:
        return Side(f"refused: the paper's claim is of {FID}, and these runs have {pair.distance}", pair.rests_on)
    if one.at_published_fid and pair.differences:
        return Side(f"refused: not evaluated as published ({'; '.join(pair.differences)})", pair.rests_on)
    if one.kind in ("budgets", "same budget"):
        lacking = [
            f"{name} at {steps:,} steps"
            for name, points, steps in ((pair.name_a, pair.a, one.needs[0]), (pair.name_b, pair.b, one.needs[1]))
            if steps not in set(points["steps"])
        ]
        if lacking:
            return Side(f"missing: {' and '.join(lacking)}", pair.rests_on)
    return one.compute(pair)


def _not_published(others: pd.DataFrame, models: tuple[str, str], resolution: int) -> Side:
    """Which of the two has no published FIDs, and those of the other."""
    curves = {name: published_curve(others, name, resolution) for name in models}
    text = f"no published FIDs of {' and '.join(name for name, points in curves.items() if points.empty)}"
    for name, points in curves.items():
        if len(points):
            at = ", ".join(f"{row.fid:.2f} at {steps_text(float(str(row.steps)))}" for row in points.itertuples())
            return Side(f"{text}; {name}: {at}", f"{points['source'].iloc[0]} ({points['confidence'].iloc[0]})")
    return Side(f"{text} at {resolution} px")


def _names(pair: Pair) -> tuple[str, str]:
    return (pair.lines[0].name, pair.lines[1].name) if pair.lines is not None else (pair.name_a, pair.name_b)


def _own_claims(pair: Pair, metric: str, others: pd.DataFrame) -> list[ClaimRow]:
    """What the runs of one pair say by themselves."""
    models = _names(pair)
    names = f"{pair.name_a} against {pair.name_b}, {pair.resolution} px"
    stem = f"{pair.name_a}|{pair.name_b}|{pair.resolution}|{metric}"
    theirs = None
    is_published = metric == "fid" and pair.distance == FID
    if is_published:
        theirs = published_pair(others, *models, pair.resolution)
    nothing = _not_published(others, models, pair.resolution) if is_published else Side("not a published distance")
    claim_rows = [
        ClaimRow(
            f"{stem}|{axis}",
            EQUAL,
            f"{names}: {OF_AXIS[axis]} to equal {pair.distance}",
            equal_fid(theirs, axis) if theirs is not None and axis != "device_seconds" else nothing,
            equal_fid(pair, axis),
        )
        for axis in OF_AXIS
        if axis != "images" or pair.counted_in == "images"
    ]
    claim_rows.append(
        ClaimRow(
            f"{stem}|trend",
            "trend",
            f"{names}: how the ratio of {pair.counted_in} changes towards lower {pair.distance}",
            trend(theirs) if theirs is not None else nothing,
            trend(pair),
        )
    )
    smallest = smallest_budget(pair)
    side = Side(f"no budget of {pair.name_a} has a {pair.distance} as low as the best of {pair.name_b}", pair.rests_on)
    if why := pair.refusal("steps"):
        side = Side(why, pair.rests_on)
    elif smallest is not None and smallest[0] == smallest[1]:
        at_budget = same_budget(pair, smallest[0])
        side = Side(f"the same budget: {at_budget.text}", pair.rests_on)
    elif smallest is not None:
        side = budgets(pair, *smallest)
    best = f"the first of {pair.name_b} with its lowest, the smallest of {pair.name_a} as good"
    text = f"{names}: budgets, by {pair.distance} ({best})"
    claim_rows.append(ClaimRow(f"{stem}|budgets", "budgets", text, Side("a claim of these runs"), side))
    if metric == "fid":
        counted = published_pair(others, *models, pair.resolution)
        cost = macs(counted) if counted is not None else nothing
        claim_rows.append(ClaimRow(f"{stem}|macs", "cost", f"{names}: forward MACs", cost, macs(pair)))
    return claim_rows
