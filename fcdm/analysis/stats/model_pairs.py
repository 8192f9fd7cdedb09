"""The step ratios of a table: which models are compared, at which settings, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from fcdm.analysis.data.curves import SECOND
from fcdm.analysis.data.labels import data_scales, patch_of, scales
from fcdm.analysis.data.noise import NOISE
from fcdm.analysis.data.seed_curves import SeedCurve, seed_curves
from fcdm.analysis.stats.differences import differing, other_data
from fcdm.analysis.stats.pair_patterns import PairOfPatterns, matching, not_there
from fcdm.analysis.stats.ratio_words import UNITS, amount_text, bound, no_clear, over_targets, times_told
from fcdm.analysis.stats.step_efficiency import FLOORS, RatioRange, curve_notes, ratio_range
from fcdm.analysis.stats.two_classifiers import NO_RESULT, disagreement
from fcdm.errors import UserError

METRICS = {
    "fid": "floor",
    "fid_pixels": "floor_pixels",
    "fid_heldout": "floor_heldout",
    "fid_pixels_heldout": "floor_pixels_heldout",
}
"""A distance that can be compared -> the column of its floor."""


@dataclass(frozen=True)
class Comparison:
    """Two models, such as an FCDM and the DiT of its size, each at the best of the settings that were tried."""

    a: SeedCurve
    b: SeedCurve
    floor: float
    samples: int
    tried: tuple[int, int]
    """How many settings of each were compared."""
    chosen_at: tuple[int, int]
    """Budgets at which the settings of each were compared."""
    not_compared: tuple[str, ...]
    """Settings that were not evaluated at that budget, or are of another batch size: one of them may be better."""
    at_edge: tuple[str, ...]
    """Those whose best learning rate is the lowest or highest tried: a better one may lie outside."""
    steps: RatioRange | str
    flops: RatioRange | str
    seconds: RatioRange | str
    """Over device-seconds (GPU-hours x 3600), or why there is no such ratio."""
    images: RatioRange | str = "not recorded"
    """Over images seen: steps times batch."""
    differs: tuple[str, ...] = ()
    """What differs besides the architecture: `batch_size 512 against 128`."""


def of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with another distance in the place of `fid`, and its floor and noise in those of FID's."""
    others = {"floor": table[METRICS[metric]], "noise": table.get(NOISE[metric], np.nan)}
    if f"fid{SECOND}" in table:
        others[f"fid{SECOND}"] = table.get(f"{metric}{SECOND}", np.nan)
    return table.assign(fid=table[metric], **others)


def comparisons(table: pd.DataFrame, pairs: Sequence[PairOfPatterns] | None = None) -> list[Comparison]:
    """Each FCDM that has a DiT of the same size by name (`N`, `64M`, `2GMACs`), against that with the smallest patch.

    Cooled ones are compared with those of the same share, and rates that go on with such. `pairs`: these instead, each
    two patterns (`pair_patterns`). Raises UserError where one of them means no model, or several.
    """
    if pairs is None:
        return [one for _, rows in scales(table) for one in _of_one_scale(rows)]
    found = []
    for pair in pairs:
        there = [one for _, rows in data_scales(table) for one in _of_patterns(rows, pair)]
        if not there:
            raise not_there(pair, seed_curves(table))
        found += there
    return found


def _of_patterns(table: pd.DataFrame, pair: PairOfPatterns) -> list[Comparison]:
    """The two on this scale; none where one of them is not on it."""
    curves = seed_curves(table)
    a, b = (matching(pattern, curves) for pattern in pair)
    if not a or not b:
        return []
    found = [_comparison(ours, theirs, table) for ours, theirs in _alike_cooled(a, b)]
    for one in found:
        if one.a is one.b:
            raise UserError(f"--pair: '{pair[0]}' and '{pair[1]}' are the same, {one.a.label}")
    return found


def _alike_cooled(a: list[SeedCurve], b: list[SeedCurve]) -> list[tuple[list[SeedCurve], list[SeedCurve]]]:
    """The settings of the two by their cooldowns, for the best of several is never chosen between a cooled one and one
    that is not: those that both have; where they have none in common, all, and `differing` says it."""
    shares = [list(dict.fromkeys(line.cooldown for line in lines)) for lines in (a, b)]
    both = [(share, share) for share in sorted(set(shares[0]) & set(shares[1]))]
    return [
        ([line for line in a if line.cooldown == ours], [line for line in b if line.cooldown == theirs])
        for ours, theirs in both or product(*map(sorted, shares))
    ]


def _of_one_scale(table: pd.DataFrame) -> list[Comparison]:
    by_name: dict[str, list[SeedCurve]] = {}
    for line in seed_curves(table):
        by_name.setdefault(line.name, []).append(line)
    pairs = []
    for candidates in by_name.values():
        if candidates[0].family != "fcdm":
            continue
        size = candidates[0].name.partition("-")[2]
        rivals = {of_patch: other for other in by_name if (of_patch := patch_of(other, size)) is not None}
        if not rivals or size.startswith("w"):  # equal widths are no equal size
            continue
        rival = rivals[min(rivals)]
        pairs.append(_comparison(candidates, by_name[rival], table))
    return sorted(pairs, key=lambda one: one.a.points["forward_gmacs"].iloc[0])


def _comparison(ours: list[SeedCurve], theirs: list[SeedCurve], table: pd.DataFrame) -> Comparison:
    """The best of some settings of one model against the best of some of another's, on one scale."""
    ours, theirs, other_batch = _of_one_batch(ours, theirs)
    a, at_a, absent_a = _best(ours)
    b, at_b, absent_b = _best(theirs)
    floor = float(table["floor"].median()) if table["floor"].notna().any() else float("nan")
    edge = tuple(
        best.name
        for best, rates in ((a, {x.lr for x in ours}), (b, {x.lr for x in theirs}))
        if len(rates) > 1 and best.lr in (min(rates), max(rates))
    )
    ratios = {axis: _ratio(a, b, axis, floor) for axis in UNITS}
    return Comparison(
        a,
        b,
        floor,
        samples=int(table["samples"].max()),
        tried=(len(ours) - len(absent_a), len(theirs) - len(absent_b)),
        chosen_at=(at_a, at_b),
        not_compared=(*absent_a, *absent_b, *other_batch),
        at_edge=edge,
        steps=ratios["steps"],
        flops=ratios["train_flops"],
        seconds=ratios["device_seconds"],
        images=ratios["images"],
        differs=differing(a, b),
    )


def _of_one_batch(
    ours: list[SeedCurve], theirs: list[SeedCurve]
) -> tuple[list[SeedCurve], list[SeedCurve], tuple[str, ...]]:
    """The settings of one batch size on each side, the same one where there is one; and the rest, said by label.

    At equal steps a larger batch has seen more images: nothing to choose by. Of several sizes that with the most
    settings, then the smallest.
    """
    sizes = [[line.batch_size or 0 for line in lines] for lines in (ours, theirs)]
    both = set(sizes[0]) & set(sizes[1])

    def chosen(own: list[int]) -> int:
        counted = sizes[0] + sizes[1] if both else own
        return min(both or set(own), key=lambda size: (-counted.count(size), size))

    kept = [
        [line for line, size in zip(lines, own, strict=True) if size == chosen(own)]
        for lines, own in zip((ours, theirs), sizes, strict=True)
    ]
    left = [line for lines, few in zip((ours, theirs), kept, strict=True) for line in lines if line not in few]
    return kept[0], kept[1], tuple(f"{line.label} (batch {line.batch_size})" for line in left)


def unequal_batch(a: SeedCurve, b: SeedCurve) -> str | None:
    """Why steps of two lines cannot be compared; None: they can."""
    if a.batch_size is None or b.batch_size is None or a.batch_size == b.batch_size:
        return None
    return f"refused: a step is {a.batch_size:,} images against {b.batch_size:,}; images are compared instead"


def hours_incomparable(rows: pd.DataFrame) -> str | None:
    """Why device-seconds of the runs of a table's rows cannot be compared; None: they can."""
    devices = sorted(set(rows["device"]))
    if "" in devices or not (np.isfinite(rows["device_seconds"]) & (rows["device_seconds"] > 0)).all():
        return "time and device were not recorded for every run"
    if len(devices) > 1 or " + " in devices[0]:
        return f"trained on different devices ({'; '.join(devices)}), whose hours cannot be compared"
    return None


def refusal(a: SeedCurve, b: SeedCurve, axis: str) -> str | None:
    """Why two lines are not compared over an axis; None: they may be."""
    if why := other_data(a, b):
        return f"refused: {why}"
    if why := disagreement(a, b, axis):
        return why
    if axis == "steps":
        return unequal_batch(a, b)
    return hours_incomparable(pd.concat([a.runs, b.runs])) if axis == "device_seconds" else None


def _ratio(a: SeedCurve, b: SeedCurve, axis: str, floor: float) -> RatioRange | str:
    if why := refusal(a, b, axis):
        return why
    if not (min(a.points[axis].min(), b.points[axis].min()) > 0):
        return "not recorded"
    return ratio_range(a.points[axis], a.points["fid"], b.points[axis], b.points["fid"], floor, a.distance)


def _best(candidates: list[SeedCurve]) -> tuple[SeedCurve, int, list[str]]:
    """The setting with the lowest FID at one budget, the budget, and the settings that were not evaluated there.

    The budget is the largest that two settings were evaluated at: one that lags must not move the choice to an early
    budget, and one that is ahead of all others has not won.
    """
    evaluated: dict[int, dict[str, float]] = {}
    for line in candidates:
        for steps, fid in zip(line.points["steps"], line.points["fid"], strict=True):
            evaluated.setdefault(int(steps), {})[line.label] = float(fid)
    last = max(evaluated, key=lambda steps: (min(len(evaluated[steps]), 2), steps))
    at = evaluated[last]
    absent = [f"{line.label} (no {line.distance} at {last:,})" for line in candidates if line.label not in at]
    return min((line for line in candidates if line.label in at), key=lambda line: at[line.label]), last, absent


def sentence(one: Comparison) -> str:
    """What was measured, with what it depends on."""
    a, b = one.a, one.b
    axis = "images" if isinstance(one.steps, str) and unequal_batch(a, b) else "steps"
    ratio = one.images if axis == "images" else one.steps
    if isinstance(ratio, str):
        least = ""
        if not ratio.startswith(NO_RESULT):
            least = bound((a.label, a.points), (b.label, b.points), one.floor, axis, a.distance)
        return f"{a.label} against {b.label}: {ratio}.{f' {least}.' if least else ''} ({_conditions(one)})"
    if ratio.unclear:
        text = f"{a.label} against {b.label}: {no_clear(ratio, UNITS[axis], a.distance)}"
    else:
        text = (
            f"{a.label} reaches {a.distance} {ratio.target:.3g} after {amount_text(ratio.steps_a)} {UNITS[axis]}, "
            f"{b.label} after {amount_text(ratio.steps_b)}: {times_told(ratio.ratio, UNITS[axis])}; "
            f"{over_targets(ratio, a.distance)}"
        )
    if axis == "images":
        text += f"; in steps {one.steps}"
    if isinstance(one.flops, RatioRange):
        flops = one.flops
        clear = f"{times_told(flops.ratio, UNITS['train_flops'])} at {a.distance} {flops.target:.3g}"
        text += f"; {no_clear(flops, UNITS['train_flops'], a.distance) if flops.unclear else clear}"
    else:
        text += f"; in training FLOPs: {one.flops}"
    cut = f"; {a.distance}s under {FLOORS * one.floor:.3g}, twice the floor, refused" if ratio.cut_by_floor else ""
    return f"{text} ({_conditions(one)}{cut})."


MOST_NAMED = 3
"""More settings than this that were not compared are told as a number."""
NOT_TUNED = "not tuned here"


def how_chosen(one: Comparison) -> str:
    """Where the settings of the two come from, and which were not compared."""
    if one.tried == (1, 1):
        text = f"one setting of each, {NOT_TUNED}"
    else:
        at = dict.fromkeys(f"{steps:,}" for steps, tried in zip(one.chosen_at, one.tried, strict=True) if tried > 1)
        text = f"the best of {one.tried[0]} and {one.tried[1]} settings, chosen at {' and '.join(at)} steps"
    if one.not_compared:
        left = one.not_compared
        text += f"; not compared: {'; '.join(left) if len(left) <= MOST_NAMED else f'{len(left)} settings'}"
    if one.at_edge:
        text += f"; best lr of {' and '.join(one.at_edge)} at the edge of those tried"
    return text


def of_seeds(one: Comparison) -> str:
    """`one seed each`, `5 and 4 seeds`, with the seeds that are not in a mean and why."""
    a, b = one.a, one.b
    parts = ["one seed each" if (a.seeds, b.seeds) == (1, 1) else f"{a.seeds} and {b.seeds} seeds"]
    parts += [f"{line.label} without {', '.join(line.without)}" for line in (a, b) if line.without]
    return "; ".join(parts)


def what_differs(differs: Sequence[str]) -> str:
    """`differing in batch_size 512 against 128`, of such sentences as `differences.differing` makes."""
    known = [text for text in differs if not text.startswith("of other settings")]
    unknown = [text for text in differs if text.startswith("of other settings")]
    parts = [f"differing in {', '.join(known)}"] if known else []
    parts += unknown or ([] if known else ["differing in nothing but the model"])
    return "; ".join(parts)


def _conditions(one: Comparison) -> str:
    a, b = one.a, one.b
    floor = f"floor {one.floor:.3g}" if np.isfinite(one.floor) else "floor not measured"
    rates = f"both at lr {a.lr:g}" if a.lr == b.lr else f"lr {a.lr:g} and {b.lr:g}"
    samples = f"{one.samples:,} samples" if one.samples > 0 else "samples not recorded"
    hidden = [note for line in (a, b) for note in curve_notes(line.label, line.points, line.distance)]
    parts = [f"{of_seeds(one)}, {samples}, {floor}", f"{rates}, {how_chosen(one)}", what_differs(one.differs), *hidden]
    if any(isinstance(found, RatioRange) and not _is_measured(one, found.target) for found in (one.steps, one.images)):
        parts.insert(0, f"log {a.distance} interpolated over log steps")
    return "; ".join(parts)


def _is_measured(one: Comparison, target: float) -> bool:
    return all(np.isclose(line.points["fid"], target, rtol=1e-9).any() for line in (one.a, one.b))
