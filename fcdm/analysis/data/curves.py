"""What the tables need of a run, whatever store it came from: a folder of records or MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fcdm.runs.protocol import TRAINED_ONLY

METRICS = (
    *("fid", "fid_heldout", "fid_pixels", "fid_pixels_heldout", "heldout_loss", "train_loss"),
    *("sfid", "inception_score", "precision", "recall"),
    *("fid_second", "fid_heldout_second", "kid", "kid_se", "kid_heldout", "kid_heldout_se"),
    *("kid_second", "kid_heldout_second"),
    *("fid_train", "fid_train_second", "kid_train", "kid_train_se", "kid_train_second"),
    *("data_copying", "data_copying_second"),
)
"""`train`: to training images, where the headline is to held-out ones. `train_loss`: of training images, with the noise
of `heldout_loss`. `data_copying`: share of (sample, held-out image) pairs in which the sample is nearer to training
images; 0.5 where nothing is copied. `second`: by the second of two classifiers of one kind, which a ranking must not
depend on. `se`: standard error."""
SECOND = "_second"


@dataclass
class EvaluatedStep:
    """One evaluation, whatever store it came from."""

    step: int
    protocol_id: str
    metrics: dict[str, float]
    """As of `with_shown`: under `fid` stands what is shown, and under `fid_heldout` and the like what goes with it."""
    seconds: float | None
    device_seconds: float | None = None
    grid: Path | None = None
    grid_columns: int = 1
    shown: str = "fid"
    """Which of its metrics is under `fid`: `fid` itself, or `kid` where there is no Fréchet distance."""
    loss_bins: tuple[float, ...] = ()
    """heldout_loss per equal bin of diffusion time; empty where the store does not tell."""


@dataclass
class RunCurves:
    """What the table needs of one run, whatever store it came from."""

    name: str
    model: str
    family: str
    data: str
    config: dict[str, str]
    """The science config, flat, as texts."""
    cost: dict[str, float]
    training: dict[str, tuple[np.ndarray, np.ndarray]]
    """Key -> (steps, values), in order of steps."""
    evaluated: list[EvaluatedStep]
    device: str = ""
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Protocol id -> {"protocol": {...}, "floor": {...}}."""
    studies: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Study -> (its headline protocol, that of its last command; budgets to evaluate, by whatever protocol)."""
    asked: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    """Study -> protocol -> the budgets that it asks for by that; TRAINED_ONLY among the protocols."""


def evaluated_budgets(asked: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The budgets that some protocol is to evaluate, in order: without those that are asked to be trained alone."""
    return tuple(sorted({step for protocol, steps in asked.items() if protocol != TRAINED_ONLY for step in steps}))


def with_shown(values: dict[str, float], shown: str | None) -> dict[str, float]:
    """Metrics or floors; where `kid` is shown, for there is no Fréchet distance, kernel distances in their places."""
    if shown != "kid":
        return values
    return values | {key.replace("kid", "fid", 1): value for key, value in values.items() if key.startswith("kid")}


def curve(points: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), each of shape (n,), in order of steps."""
    ordered = np.array(sorted(points), dtype=float).reshape(-1, 2)
    return ordered[:, 0], ordered[:, 1]


NOT_ABOVE_0 = "not above 0: no difference is measurable"


def is_distance(values: ArrayLike) -> np.ndarray:
    """Which values a distance can have: finite ones, for an unbiased kernel distance may come out at or below 0;
    elementwise. The one rule of what a curve leaves out."""
    return np.asarray(np.isfinite(np.asarray(values, dtype=float)))


def has_log(values: ArrayLike) -> np.ndarray:
    """Which distances have a place on a log axis and in a power law: those above 0; elementwise."""
    numbers = np.asarray(values, dtype=float)
    return np.asarray(np.isfinite(numbers) & (numbers > 0))
