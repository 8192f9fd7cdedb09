"""Which size and how much data a training compute is best spent on, by a joint law, with intervals.

From the joint law alone: the minima of parabolas through iso-FLOP curves are biased where the two exponents differ,
the more the wider the curves are sampled (arXiv 2603.22339).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcdm.errors import UserError
from fcdm.laws.joint_fit import JointFit
from fcdm.laws.joint_law import FLOPS_PER_MAC, optima_of, values_of
from fcdm.laws.plain import MACS
from fcdm.laws.predictive import LEVEL, Predictive


@dataclass(frozen=True)
class Optimum:
    """The best use of a training compute."""

    compute: float
    """Training FLOPs: 6 N D."""
    n: Predictive
    """N*, in forward MACs."""
    d: Predictive
    """D*, in images."""
    value: Predictive
    """The law there, at each draw's own optimum. Of a draw without an effect of size or of data it is E: what
    endless data, or an endless size, leaves."""


@dataclass(frozen=True)
class IsoFlop:
    """What a compute gives with models of each size, as the law says."""

    compute: float
    n: np.ndarray
    """Forward MACs, (sizes,)."""
    d: np.ndarray
    """Images: compute / 6 N."""
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """The interval of the law at LEVEL."""
    best: Optimum


def optimum(fit: JointFit, compute: float) -> Optimum:
    """N*, D* and L* of a compute in FLOPs. Raises UserError where sizes are no MACs, or size or data has no effect."""
    _check(fit)
    form = fit.law.form

    def value(laws: np.ndarray) -> np.ndarray:
        n, d, _ = optima_of(laws, compute, form)
        with np.errstate(invalid="ignore"):  # a draw may have its optimum at no size, or at an endless one
            each = [values_of(law[None], size, images, form)[0] for law, size, images in zip(laws, n, d, strict=True)]
        return np.where(np.isfinite(each), each, laws[:, 0])

    return Optimum(
        compute,
        fit.predictive(lambda laws: optima_of(laws, compute, form)[0]),
        fit.predictive(lambda laws: optima_of(laws, compute, form)[1]),
        fit.predictive(value),
    )


def optimum_exponents(fit: JointFit) -> tuple[Predictive, Predictive]:
    """The exponents of N*(C) and D*(C), between 0 and 1; their sum is 1."""
    _check(fit)

    def odds(laws: np.ndarray) -> np.ndarray:
        exponent = optima_of(laws, 1.0, fit.law.form)[2]
        return np.asarray(exponent / (1 - exponent))

    found = fit.predictive(odds)
    of_size = tuple(one / (1 + one) for one in found.quantiles)
    return Predictive(of_size, found.freedom), Predictive(tuple(1 - one for one in reversed(of_size)), found.freedom)


def iso_flop(fit: JointFit, compute: float, sizes: Sequence[float]) -> IsoFlop:
    """The law along sizes (forward MACs) that share a training compute in FLOPs."""
    best = optimum(fit, compute)
    n = np.asarray(sizes, dtype=float)
    d = compute / (FLOPS_PER_MAC * n)
    laws = [fit.forecast(float(size), float(images)).law for size, images in zip(n, d, strict=True)]
    ends = np.array([law.interval(LEVEL) for law in laws])
    return IsoFlop(compute, n, d, fit.law(n, d), ends[:, 0], ends[:, 1], best)


def _check(fit: JointFit) -> None:
    if fit.points.unit != MACS:
        raise UserError(f"compute is of forward MACs: this law has its sizes in {fit.points.unit}; fit it on {MACS}")
    if not fit.law.size_scale or not fit.law.data_scale:
        what = "size" if not fit.law.size_scale else "data"
        raise UserError(f"no best size: the law shows no effect of {what}")
