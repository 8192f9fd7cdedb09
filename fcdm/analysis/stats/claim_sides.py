"""An FCDM and a DiT put side by side, from the papers or from one's own runs; `step_ratios` asks about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.one_protocol import differences_from_published
from fcdm.analysis.data.seed_curves import SeedCurve, Trajectories
from fcdm.analysis.published import PUBLISHED, published_curve
from fcdm.analysis.stats.model_pairs import Comparison, comparisons, how_chosen, of_seeds
from fcdm.analysis.stats.step_efficiency import FID_ERROR, FidCurve, curve_notes, fid_curve
from fcdm.formatting import steps_text

PAPER, THIRD_PARTY, DERIVED, CLAIMED = "paper", "third-party", "derived", "claimed, not recomputable"
"""How sure a published half is: read in a paper, told by others of it, computed here, or told without its FIDs."""


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
    error: float = FID_ERROR
    """How far a FID may be off by this protocol, for the sensitivity of a ratio; NaN: not known."""
    chosen_here: bool = False
    """The settings were chosen on these very runs: no interval over their seeds holds that choice."""
    differs: tuple[str, ...] = ()
    """What else than the architecture is not the same on both sides."""

    @property
    def status(self) -> str:
        """The weakest of what its published points are; "" for one's own runs."""
        if self.origin != PUBLISHED:
            return ""
        told = {*self.a["confidence"], *self.b["confidence"]}
        return next((kind for kind in (DERIVED, THIRD_PARTY) if kind in told), PAPER)

    @property
    def incomplete(self) -> str:
        """`; FCDM-N without seed 1 (not evaluated at 800)`: what a claim's own line must say; "" where all is there."""
        found = self.lines or ()
        return "".join(f"; {line.label} without {', '.join(line.without)}" for line in found if line.without)

    def curves(self, axis: str) -> tuple[FidCurve, FidCurve]:
        return fid_curve(self.a[axis], self.a["fid"]), fid_curve(self.b[axis], self.b["fid"])

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
    decoders = {str(points["decoder"].iloc[0]) for points in (a, b)}
    parts += [*curve_notes(name_a, a), *curve_notes(name_b, b)]
    if len(decoders) > 1:
        parts.append(f"decoders differ: {' and '.join(sorted(decoders))}")
    samples = ", ".join(sorted({f"FID-{count // 1000}K" for count in [*a["samples"], *b["samples"]]}))
    return Pair(name_a, name_b, resolution, a, b, PUBLISHED, f"{samples}, no guidance; " + "; ".join(parts))


def _others_of(table: pd.DataFrame, curve: pd.DataFrame) -> list[str]:
    """Other unguided FIDs of the same model at the same steps: how far a published FID depends on who measured it."""
    first = curve.iloc[0]
    same = table[(table["model"] == first["model"]) & (table["resolution"] == first["resolution"])]
    same = same[(same["guidance_scale"] == 1) & same["steps"].isin(curve["steps"]) & (same["series"] == "")]
    return [
        f"elsewhere {row.fid:g} at {steps_text(row.steps)} ({row.source}, {row.decoder})" for row in same.itertuples()
    ]


def pairs_of(table: pd.DataFrame, distance: str = "FID") -> list[Pair]:
    """The pairs of one's own runs: each FCDM with the DiT of its size, each at its best setting in the table."""
    protocol = table.attrs.get("protocol", {})
    differences = tuple(differences_from_published(protocol))
    pairs = []
    for one in comparisons(table):
        a, b = one.a, one.b
        pair = Pair(
            name_a=a.label,
            name_b=b.label,
            resolution=a.resolution,
            a=a.points,
            b=b.points,
            origin="these runs",
            rests_on=_rests_on(one, protocol, distance),
            floor=one.floor,
            distance=distance,
            lines=(a, b),
            differences=differences,
            error=_error(one, protocol) if distance == "FID" else np.nan,
            chosen_here=max(one.tried) > 1,
            differs=one.differs,
        )
        pairs.append(pair)
    return pairs


def _error(one: Comparison, protocol: dict[str, object]) -> float:
    """How far a FID may be off: `FID_ERROR` is of Inception's scale; else what real images vary by, where measured."""
    if str(protocol.get("features", "")).startswith("inception"):
        return FID_ERROR
    spread = (
        pd.concat([one.a.runs["floor_sd"], one.b.runs["floor_sd"]]).median() if "floor_sd" in one.a.runs else np.nan
    )
    return float(spread) if spread > 0 else np.nan


def _rests_on(one: Comparison, protocol: dict[str, object], distance: str) -> str:
    a, b = one.a, one.b
    samples = f"{one.samples:,} samples" if one.samples > 0 else "samples not recorded"
    sampler = " ".join(str(protocol[key]) for key in ("sampler", "sampling_steps") if key in protocol)
    parts = [f"{samples} ({sampler})" if sampler else samples, of_seeds(one)]
    parts += [f"lr {a.lr:g} and {b.lr:g}, {how_chosen(one)}"]
    parts += [f"floor {one.floor:.3g}" if np.isfinite(one.floor) else "floor not measured"]
    parts += [*curve_notes(a.label, a.points, distance), *curve_notes(b.label, b.points, distance)]
    return f"{'; '.join(parts)}; the evaluation's noise and labels are common to all seeds"
