"""Two models put side by side, from the papers or from one's own runs; `step_ratios` asks about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import distance_of, family_name
from fcdm.analysis.data.one_protocol import differences_from_published
from fcdm.analysis.data.seed_curves import SeedCurve, Trajectories, seed_curves
from fcdm.analysis.published import PUBLISHED, published, published_curve
from fcdm.analysis.stats.differences import cooled_words, differing_as_published, other_data
from fcdm.analysis.stats.evaluate_again import evaluate_again
from fcdm.analysis.stats.model_pairs import (
    Comparison,
    comparisons,
    how_chosen,
    of_seeds,
    refusal,
    unequal_batch,
    what_differs,
)
from fcdm.analysis.stats.pair_patterns import PairOfPatterns
from fcdm.analysis.stats.step_efficiency import FidCurve, RatioRange, curve_notes, fid_curve, ratio_range
from fcdm.formatting import plural, steps_text

PAPER, THIRD_PARTY, DERIVED, CLAIMED = "paper", "third-party", "derived", "claimed, not recomputable"
"""How sure a published half is: read in a paper, told by others of it, computed here, or told without its FIDs."""


def weakest(confidences: Iterable[str]) -> str:
    """How sure something is that rests on published points of these confidences."""
    told = set(confidences)
    return next((kind for kind in (DERIVED, THIRD_PARTY) if kind in told), PAPER)


@dataclass(frozen=True)
class Side:
    """One half of a claim: a number where there is one, what it says, and what it rests on."""

    text: str
    rests_on: str = ""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    """The interval over training seeds, where there are several."""
    status: str = ""
    """Of a published half: PAPER, THIRD_PARTY, DERIVED or CLAIMED."""


@dataclass(frozen=True)
class Noise:
    """Relative standard deviations of a FID, NaN where they were not measured."""

    repeats: int = 0
    """Degrees of freedom of `evaluation`; under LEAST_REPEATS it is not told."""
    evaluation: float = np.nan
    """Over evaluations of one checkpoint that differ in their seed alone."""
    training: tuple[float, float] = (np.nan, np.nan)
    """Of a and of b, over training seeds."""
    told: tuple[str, ...] = ()
    """Where they are from, or how they are measured."""


@dataclass(frozen=True)
class Pair:
    """Two models at one resolution: `a` and `b` are points in order of steps, columns as in `SeedCurve.points`."""

    name_a: str
    name_b: str
    resolution: int
    a: pd.DataFrame
    b: pd.DataFrame
    origin: str
    rests_on: str
    floor: float = np.nan
    distance: str = "FID"
    """What the FIDs are distances of: `FID`, `FID on pixels`, ..."""
    lines: tuple[SeedCurve, SeedCurve] | None = None
    """Of one's own runs."""
    differences: tuple[str, ...] = ()
    """Where the protocol is not the published one: FIDs of the two must not be compared."""
    error: float = np.nan
    """RELATIVE error of a FID, 0.07 for 7 %: of published points that of their re-measurements, of one's own runs the
    evaluation's noise; NaN: not known."""
    noise: Noise = Noise()
    chosen_here: bool = False
    """The settings were chosen on these very runs: no interval over their seeds holds that choice."""
    differs: tuple[str, ...] = ()
    """What else than the architecture is not the same on both sides."""

    @property
    def status(self) -> str:
        """The weakest of what its published points are; "" for one's own runs."""
        if self.origin != PUBLISHED:
            return ""
        return weakest([*self.a["confidence"], *self.b["confidence"]])

    @property
    def provisos(self) -> str:
        """What a claim's own line must say: `; differing in ema.decay 0 against 0.9; FCDM-N without seed 1`."""
        found = self.lines or ()
        without = [f"; {line.label} without {', '.join(line.without)}" for line in found if line.without]
        cooled = f"; both with {words}" if (words := self._both_cooled) else ""
        return "".join([f"; {what_differs(self.differs)}{cooled}", *without])

    @property
    def _both_cooled(self) -> str:
        """How both were cooled down; empty where they were not, or not alike."""
        shares = {line.cooldown for line in self.lines or ()}
        return cooled_words(shares.pop()) if len(shares) == 1 and 0.0 not in shares else ""

    def refusal(self, axis: str) -> str | None:
        """Why the two are not compared over this axis; None: they may be."""
        return None if self.lines is None else refusal(*self.lines, axis)

    @property
    def counted_in(self) -> str:
        """`steps`; `images` where a step of one is not as many as of the other."""
        return "images" if self.lines is not None and unequal_batch(*self.lines) else "steps"

    def curves(self, axis: str) -> tuple[FidCurve, FidCurve]:
        a, b = (fid_curve(points[axis], points["fid"], self.distance) for points in (self.a, self.b))
        return a, b

    def ratios(self, axis: str) -> RatioRange | str:
        """The ratio over all that both reach, or why there is none."""
        return ratio_range(self.a[axis], self.a["fid"], self.b[axis], self.b["fid"], self.floor, self.distance)

    def trajectories(self, axis: str) -> tuple[Trajectories, Trajectories] | None:
        return None if self.lines is None else (self.lines[0].trajectories(axis), self.lines[1].trajectories(axis))


def published_pair(table: pd.DataFrame, name_a: str, name_b: str, resolution: int) -> Pair | None:
    """Two models of the papers; None where one has no points that a line may join."""
    a, b = published_curve(table, name_a, resolution), published_curve(table, name_b, resolution)
    if a.empty or b.empty:
        return None
    a, b = a.assign(device_seconds=np.nan), b.assign(device_seconds=np.nan)
    parts = []
    for name, points in ((name_a, a), (name_b, b)):
        at = ", ".join(
            f"{fid:g} at {steps_text(steps)}" for fid, steps in zip(points["fid"], points["steps"], strict=True)
        )
        first = points.iloc[0]
        parts.append(f"{name}: {at} ({first['series']}, {first['confidence']})")
    parts += _others_of(table, a) + _others_of(table, b)
    parts += [*curve_notes(name_a, a), *curve_notes(name_b, b)]
    differs = differing_as_published(a, b)
    samples = ", ".join(sorted({f"FID-{count // 1000}K" for count in [*a["samples"], *b["samples"]]}))
    error, of = remeasured()
    if of:
        parts.append(f"an error of {error:.1%} is how far two measurements of one model and budget differ ({of})")
    rests_on = f"{samples}, no guidance; " + "; ".join(parts)
    return Pair(name_a, name_b, resolution, a, b, PUBLISHED, rests_on, error=error, differs=differs)


@cache
def remeasured() -> tuple[float, str]:
    """(how far unguided FIDs of one model at one budget lie apart in the published points, 1 - lowest / highest, at the
    most; of which): NaN and "" where nothing was measured twice."""
    points = published()
    unguided = points[(points["guidance_scale"] == 1) & points["fid"].notna()]
    worst, told = float("nan"), ""
    for (model, resolution, steps), rows in unguided.groupby(["model", "resolution", "steps"]):
        apart = 1 - float(rows["fid"].min() / rows["fid"].max())
        if len(rows) > 1 and not apart <= worst:
            worst = apart
            fids = " and ".join(f"{fid:g}" for fid in sorted(rows["fid"], reverse=True))
            told = f"{model} at {steps_text(float(str(steps)))}, {resolution} px: {fids}"
    return worst, told


def _others_of(table: pd.DataFrame, curve: pd.DataFrame) -> list[str]:
    """Other unguided FIDs of the same model at the same steps: how far a published FID depends on who measured it."""
    first = curve.iloc[0]
    same = table[(table["model"] == first["model"]) & (table["resolution"] == first["resolution"])]
    same = same[(same["guidance_scale"] == 1) & same["steps"].isin(curve["steps"]) & (same["series"] == "")]
    return [
        f"elsewhere {row.fid:g} at {steps_text(row.steps)} ({row.source}, {row.decoder})" for row in same.itertuples()
    ]


def pairs_of(
    table: pd.DataFrame, distance: str | None = None, pairs: Sequence[PairOfPatterns] | None = None
) -> list[Pair]:
    """The pairs of one's own runs, each model at its best setting in the table. distance: its name; None: the table's.

    Each FCDM with the DiT of its size, or `pairs` of patterns. Raises UserError for a pattern that means no model, or
    several.
    """
    distance = distance or distance_of(table)
    protocol = table.attrs.get("protocol", {})
    differences = tuple(differences_from_published(protocol))
    curves = seed_curves(table)
    found = []
    for one in comparisons(table, pairs):
        a, b = one.a, one.b
        noise = _noise(one, curves, table.attrs)
        cooled = [f"{line.label}, published rates that go on" for line in (a, b) if line.cooldown]
        pair = Pair(
            name_a=a.label,
            name_b=b.label,
            resolution=a.resolution,
            a=a.points,
            b=b.points,
            origin="these runs",
            rests_on=_rests_on(one, protocol, distance, noise),
            floor=one.floor,
            distance=distance,
            lines=(a, b),
            differences=(*differences, *cooled),
            error=noise.evaluation,
            noise=noise,
            chosen_here=max(one.tried) > 1,
            differs=one.differs,
        )
        found.append(pair)
    return found


LEAST_REPEATS = 3
"""Fewer degrees of freedom than this tell no noise: of one, a standard deviation may be off by a factor of 30."""
LEAST_SEEDS = 3
"""So many seeds of a smaller model make a noise that a larger one of one seed may be thought to have."""


def _noise(one: Comparison, curves: Sequence[SeedCurve], attrs: Mapping[Any, Any]) -> Noise:
    rows = one.a.runs
    evaluation = float(rows["noise"].iloc[0]) if "noise" in rows else float("nan")
    repeats = 0
    if np.isfinite(evaluation):
        counted = rows["noise_repeats"].iloc[0] if "noise_repeats" in rows else np.nan
        repeats = int(counted) if np.isfinite(counted) else LEAST_REPEATS  # of a table that does not say, as it is
    told = []
    if repeats >= LEAST_REPEATS:
        told.append("evaluation's noise: relative standard deviation over evaluation seeds of one checkpoint, pooled")
    else:
        evaluation = float("nan")
        lacking = plural(LEAST_REPEATS - repeats, "more repeated evaluation")
        last = rows.iloc[-1]
        protocol = attrs.get("protocols", {}).get(last["protocol_id"], {})
        where = attrs.get("runs_dir", "runs")
        again = evaluate_again(last["run"], last["steps"], one.a.settings, protocol, where, repeats)
        told.append(f"evaluation's noise: takes {lacking} by other seeds{again and f', {again}'}")
    training = [_noise_of_training(line, curves) for line in (one.a, one.b)]
    told += [text for _, text in training if text]
    return Noise(repeats, evaluation, (training[0][0], training[1][0]), tuple(told))


def _noise_of_training(line: SeedCurve, curves: Sequence[SeedCurve]) -> tuple[float, str]:
    """(relative standard deviation over seeds, where it is from if not from the model's own seeds)."""
    if line.seeds > 1:
        return line.noise, ""
    gmacs = line.points["forward_gmacs"].iloc[0]
    smaller = [
        other
        for other in curves
        if other.family == line.family
        and other.seeds >= LEAST_SEEDS
        and other_data(other, line) is None
        and other.cooldown == line.cooldown
        and other.points["forward_gmacs"].iloc[0] < gmacs
    ]
    if not smaller:
        return float("nan"), (
            f"training's noise not known: needs {LEAST_SEEDS} seeds of {line.label} or of a smaller "
            f"{family_name(line.family)}"
        )
    nearest = max(smaller, key=lambda other: (other.points["forward_gmacs"].iloc[0], other.seeds))
    return nearest.noise, f"training's noise of {line.label}, of one seed, is taken from {nearest.seeds} seeds of " + (
        nearest.label
    )


def _rests_on(one: Comparison, protocol: dict[str, object], distance: str, noise: Noise) -> str:
    a, b = one.a, one.b
    samples = f"{one.samples:,} samples" if one.samples > 0 else "samples not recorded"
    sampler = " ".join(str(protocol[key]) for key in ("sampler", "sampling_steps") if key in protocol)
    parts = [f"{samples} ({sampler})" if sampler else samples, of_seeds(one)]
    parts += [f"lr {a.lr:g} and {b.lr:g}, {how_chosen(one)}", what_differs(one.differs)]
    parts += [f"floor {one.floor:.3g}" if np.isfinite(one.floor) else "floor not measured"]
    parts += [*curve_notes(a.label, a.points, distance), *curve_notes(b.label, b.points, distance), *noise.told]
    return f"{'; '.join(parts)}; the evaluation's noise and labels are common to all seeds"
