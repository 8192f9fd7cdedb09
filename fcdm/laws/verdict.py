"""Whether a forecast held: rules that were fixed before any forecast was looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fcdm.laws.predictive import LEVEL, SURE, Predictive
from fcdm.laws.scores import compute_equivalent, log_error

HELD, FAILED, UNINFORMATIVE = "held", "failed", "uninformative"
MOST_SEED_DEVIATIONS = 2.0
MOST_OFF = math.log(1.15)
"""Of a distance such as FID, ln of forecast / measured."""
MOST_COMPUTE = 1.3
"""Of a loss, in either direction: never per cent of it, which its offset E would flatter."""
WIDEST = 1.5
"""Of a distance: the 80 % interval's high over its low."""


def verdict(
    new_run: Predictive, measured: float, seed_deviation: float, loss_curve: Sequence[tuple[float, float]] | None = None
) -> tuple[str, str]:
    """(HELD, FAILED or UNINFORMATIVE, why).

    `seed_deviation`: of one run, of log y. `loss_curve`: of a loss the law along compute, as `compute_equivalent` takes
    it; None: it is a distance.
    """
    if loss_curve is None and (wide := too_wide(new_run)):
        return UNINFORMATIVE, wide
    low, high = new_run.interval(LEVEL)
    if not low <= measured <= high:
        return FAILED, f"outside the {SURE} interval, {low:.4g} to {high:.4g}"
    off = log_error(new_run.median, measured)
    if abs(off) <= MOST_SEED_DEVIATIONS * seed_deviation:
        return HELD, ""
    if loss_curve is None:
        return (FAILED, f"off by {math.expm1(off):+.0%}") if abs(off) > MOST_OFF else (HELD, "")
    factor = compute_equivalent(loss_curve, measured, new_run.median)
    within = 1 / MOST_COMPUTE <= factor <= MOST_COMPUTE
    return (HELD, "") if within else (FAILED, f"off by x{factor:.3g} in compute")


def too_wide(distance: Predictive) -> str:
    """Why a forecast of a distance says too little, whatever comes out; "" where it does not."""
    low, high = distance.interval(0.80)
    return f"its 80 % interval is x{high / low:.3g} wide" if high > WIDEST * low else ""


LOSS = "heldout_loss"
"""The key of the loss that laws are of."""


def is_loss(metric: str) -> bool:
    """Whether a metric, by its key, is a loss, whose errors are told in compute; else it is a distance."""
    return "loss" in metric
