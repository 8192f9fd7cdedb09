"""All joint laws of a study: of held-out loss and of its distance, with what is said of where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import metric_name
from fcdm.analysis.stats.joint_laws import (
    JointStudy,
    joint_laws,
    joint_lines,
    loss_map_of,
    shared_offset_line,
    shared_offset_of,
)
from fcdm.analysis.stats.study_surface import law_groups
from fcdm.analysis.stats.tuning_trials import Tuned, tune
from fcdm.laws.cuts import Cuts
from fcdm.laws.joint_fit import DRAWS
from fcdm.laws.verdict import LOSS

LEAST_NAMED = 2
"""Sizes of a family from which a study may be meant to have a law, so that it is said why it has none."""


@dataclass(frozen=True)
class LawSettings:
    """How the laws of a study are fitted."""

    cuts: Cuts = field(default_factory=Cuts)
    tuning: str = ""
    """The study that tuned these models; "": not told."""
    tuned: Sequence[Tuned] | None = None
    """Of that study."""
    draws: int = DRAWS

    @classmethod
    def tuned_by(cls, trials: pd.DataFrame, tuning: str, cuts: Cuts) -> LawSettings:
        """`trials`: the tidy table of the study `tuning`; the best are those of lowest distance, else held-out loss."""
        return cls(cuts, tuning, tune(trials, LOSS if trials["fid"].isna().all() else "fid"))


@dataclass(frozen=True)
class MetricLaws:
    """The joint laws of one metric of a study."""

    metric: str
    """A column of the table: `heldout_loss`, `fid`."""
    name: str
    """`held-out loss`, `FID`."""
    table: pd.DataFrame
    laws: Mapping[str, JointStudy | str]
    """Each of `law_groups` -> its law, or why there is none."""
    settings: LawSettings

    @property
    def told(self) -> dict[str, JointStudy]:
        return {label: made for label, made in self.laws.items() if isinstance(made, JointStudy)}

    @property
    def reasons(self) -> list[str]:
        """Why there is no law, each reason once, of families with LEAST_NAMED sizes: `no joint law of FID: ...`."""
        groups = law_groups(self.table)
        by_reason: dict[str, list[str]] = {}
        for label, made in self.laws.items():
            if isinstance(made, str) and groups[label]["model"].nunique() >= LEAST_NAMED:
                by_reason.setdefault(made.removeprefix("no joint law: "), []).append(label)
        return [f"no joint law of {self.name}: {', '.join(labels)}: {why}" for why, labels in by_reason.items()]

    def lines(self, *, held_out: bool = True) -> list[str]:
        """The laws in words, and whether those on one scale share one E."""
        lines = [line for label, made in self.told.items() for line in joint_lines(label, made, held_out=held_out)]
        scales: dict[str, dict[str, JointStudy | str]] = {}
        for label, made in self.told.items():
            scales.setdefault(label.partition(", ")[2], {})[label] = made
        return [*lines, *(shared_offset_line(shared_offset_of(laws)) for laws in scales.values() if len(laws) > 1)]


def laws_by_metric(
    table: pd.DataFrame,
    losses: pd.DataFrame | None = None,
    settings: LawSettings | None = None,
    metrics: Sequence[str] = (LOSS, "fid"),
) -> list[MetricLaws]:
    """The laws of each metric that was measured. `losses`: where more of the held-out losses are (`losses_beside`).

    Nothing is fitted where there are too few sizes, budgets or seeds for a law.
    """
    settings = settings or LawSettings()
    found = []
    for metric in dict.fromkeys(metrics):
        rows = losses if metric == LOSS and losses is not None else table
        if metric not in rows or not (np.isfinite(rows[metric].astype(float)) & (rows[metric] > 0)).any():
            continue
        laws = joint_laws(rows, metric, cuts=settings.cuts, tuned=settings.tuned, draws=settings.draws)
        found.append(MetricLaws(metric, metric_name(rows, metric), rows, laws, settings))
    return found


def told_lines(laws: Sequence[MetricLaws]) -> list[str]:
    """The laws in words without what was held out, why there is none of a metric, and what goes through the loss."""
    lines = [line for one in laws for line in (*one.lines(held_out=False), *one.reasons)]
    return [*lines, *through_loss_lines(laws)]


def through_loss_lines(laws: Sequence[MetricLaws]) -> list[str]:
    """Whether a distance without a law of its own may be forecast through the loss's law, a line for each of those."""
    by_metric = {one.metric: one for one in laws}
    if LOSS not in by_metric or "fid" not in by_metric:
        return []
    distance, lines = by_metric["fid"], []
    groups = law_groups(distance.table)
    for label in by_metric[LOSS].told:
        if label not in groups or label in distance.told:
            continue
        made = loss_map_of(groups[label])
        why = made if isinstance(made, str) else made.unshown
        shown = f"may be forecast through the loss: at equal loss it has been shown not to depend on {label}'s size"
        lines.append(f"{label}: {distance.name} {f'is not forecast through the loss: {why}' if why else shown}")
    return lines
