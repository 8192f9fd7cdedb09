"""The law L(x) = E + A x^-alpha and its robust fit: many at once, for a bootstrap in a fraction of a second.

As arXiv 2203.15556, App. D.2: the Huber loss of the residuals of log L, from a grid of starts. Theirs descends by
L-BFGS; here Levenberg and Marquardt's steps on reweighted squares, on arrays whose first axis is the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

HUBER = 0.02
"""Residuals of log L beyond this count linearly. App. D.2 has 0.001, for language models' losses; two FIDs of one
checkpoint from 10,000 samples differ by about a hundredth already."""

EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.6, 2.5)
OFFSETS = (1e-3, 0.3, 0.6, 0.85, 0.97)
"""The grid of starts: alpha, and E as a share of the lowest L."""
KEPT_STARTS = 6
"""How many of the grid are followed to the end; a resample starts from the estimate too and needs fewer."""
KEPT_OF_RESAMPLES = 2
STEEPEST, FLATTEST = 12.0, 0.01
"""Bounds of alpha: a fit that ends there says that the points do not tell it."""
NO_OFFSET = 1e-4
"""An E below this share of the lowest L is none."""


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = E + A x^-alpha."""

    offset: float
    """E, in L's unit: what no amount of x removes."""
    scale: float
    """A: moves with the unit of x, the other two do not."""
    exponent: float
    """alpha."""

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """L at `x` > 0, any shape, wherever it was measured or not."""
        return np.asarray(self.offset + self.scale * np.asarray(x, dtype=float) ** -self.exponent)


def solve(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    huber: float = HUBER,
    first: np.ndarray | None = None,
    *,
    lowest: np.ndarray | float | None = None,
    offsets: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The fits of B weighted sets of points: laws of shape (B, 3), columns E, A, alpha; objectives of shape (B,).

    `x`: (n,), above 0. `y`, `weights`: (B, n); y above 0, a weight of 0 leaves a point out. `first`: (3,) or (B, 3), a
    law to start from besides the grid. E stays at or below `lowest`, (B,) or a number; None: the lowest weighted y.
    `offsets`: (B,), above 0: E is held there, and A and alpha alone are fitted (for a profile).
    """
    kept = KEPT_STARTS if first is None else KEPT_OF_RESAMPLES
    x, y, weights = (np.asarray(part, dtype=float) for part in (x, y, weights))
    centre, level = np.log(x).mean(), np.log(y).mean()
    u, v = np.log(x) - centre, np.log(y) - level  # so that no unit matters
    starts = _grid(u, v, weights)
    if first is not None:
        given = np.broadcast_to(_to_inner(np.atleast_2d(first), centre, level), (len(y), 3))
        starts = np.concatenate([given[None], starts])
    costs = np.stack([_cost(_residuals(start, u, v)[0], weights, huber) for start in starts])
    best = np.argsort(costs, axis=0, kind="stable")[:kept]
    theta = np.take_along_axis(starts, best[:, :, None], axis=0)  # (starts, B, 3)
    low, high = np.tile(_LOW, (len(y), 1)), np.tile(_HIGH, (len(y), 1))
    least = np.where(weights > 0, y, np.inf).min(axis=1)
    high[:, 2] = np.log(least if lowest is None else np.broadcast_to(lowest, least.shape)) - level
    if offsets is not None:
        low[:, 2] = high[:, 2] = np.maximum(np.log(offsets) - level, _LEAST)
    repeat = (len(theta), *y.shape)
    flat_v, flat_weights = (np.broadcast_to(part, repeat).reshape(-1, y.shape[1]) for part in (v, weights))
    ends = tuple(np.broadcast_to(end, theta.shape).reshape(-1, 3) for end in (low, high))
    ended, objective = _descend(theta.reshape(-1, 3), u, flat_v, flat_weights, huber, ends)
    ended, objective = ended.reshape(theta.shape), objective.reshape(theta.shape[:2])
    winner = np.argmin(objective, axis=0)
    rows = np.arange(len(y))
    theta = ended[winner, rows]
    laws = np.stack([np.exp(theta[:, 2] + level), np.exp(theta[:, 0] + level), np.exp(theta[:, 1])], axis=1)
    with np.errstate(over="ignore"):  # an unreadable A of a law that nothing pins down: infinite, not an error
        laws[:, 1] = np.exp(theta[:, 0] + level + laws[:, 2] * centre)
    laws[laws[:, 0] < NO_OFFSET * least, 0] = 0.0
    return laws, objective[winner, rows]


def tangent(law: PowerLaw, x: np.ndarray) -> np.ndarray:
    """How log L at `x` (n,) moves with log A, alpha and, where there is one, log E: (n, 3), or (n, 2) at E = 0."""
    power = law.scale * x**-law.exponent
    share = power / (power + law.offset)
    columns = [share, -share * np.log(x / np.exp(np.log(x).mean())), *([1 - share] if law.offset > 0 else [])]
    return np.stack(columns, axis=1)


def _to_inner(laws: np.ndarray, centre: float, level: float) -> np.ndarray:
    """(E, A, alpha) -> (log of the power's part at the centre of x, log alpha, log E), all less the level of y."""
    with np.errstate(divide="ignore"):
        offset = np.maximum(np.log(laws[:, 0]) - level, _LEAST)
    return np.stack([np.log(laws[:, 1]) - laws[:, 2] * centre - level, np.log(laws[:, 2]), offset], axis=1)


_LEAST = -14.0
"""log E never falls below this, from the level of y: zero, but finite."""
_LOW, _HIGH = np.array([-60.0, np.log(FLATTEST), _LEAST]), np.array([60.0, np.log(STEEPEST), 60.0])
"""Bounds of (log of the power's part, log alpha, log E)."""


def _grid(u: np.ndarray, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Starts of shape (starts, B, 3): for each alpha and share of E, the A that the points' mean asks."""
    total = np.maximum(weights.sum(axis=1), 1e-300)
    lowest = np.where(weights > 0, v, np.inf).min(axis=1)
    starts = []
    for exponent in EXPONENTS:
        for share in OFFSETS:
            above = v + np.log1p(-share * np.exp(lowest[:, None] - v).clip(max=0.999 / share))
            scale = (weights * (above + exponent * u)).sum(axis=1) / total
            starts.append(np.stack([scale, np.full_like(scale, np.log(exponent)), lowest + np.log(share)], axis=1))
    return np.stack(starts)


def _residuals(theta: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log law - v, the power's share of the law, alpha u), each (B, n)."""
    slope = np.exp(theta[:, 1:2]) * u
    power = theta[:, 0:1] - slope
    logs = np.logaddexp(power, theta[:, 2:3])
    return logs - v, np.exp(power - logs), slope


def _cost(residuals: np.ndarray, weights: np.ndarray, huber: float) -> np.ndarray:
    size = np.abs(residuals)
    return np.asarray((weights * np.where(size <= huber, 0.5 * size**2, huber * (size - 0.5 * huber))).sum(axis=1))


def _descend(
    theta: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    weights: np.ndarray,
    huber: float,
    ends: tuple[np.ndarray, ...],
    most: int = 200,
) -> tuple[np.ndarray, np.ndarray]:
    """Steps of Levenberg and Marquardt, each fit with its own damping, until none gains a hundred-millionth.

    `ends`: the least and the largest theta, (B, 3) each; what stands at an end and would go beyond is held there, so
    that the rest still finds its lowest.
    """
    low, high = ends
    theta = np.clip(theta, low, high)
    cost = _cost(_residuals(theta, u, v)[0], weights, huber)
    damping, still = np.full(len(theta), 1e-3), np.arange(len(theta))
    for _ in range(most):
        here, data, w = theta[still], v[still], weights[still]
        residuals, share, slope = _residuals(here, u, data)
        w_huber = w * np.minimum(1.0, huber / np.maximum(np.abs(residuals), 1e-300))
        jacobian = np.stack([share, -slope * share, 1 - share], axis=2)  # (B, n, 3)
        weighted = jacobian * w_huber[:, :, None]
        hessian = np.swapaxes(jacobian, 1, 2) @ weighted
        gradient = np.einsum("bnk,bn->bk", weighted, residuals)
        down, up = low[still], high[still]
        held = ((here <= down) & (gradient >= 0)) | ((here >= up) & (gradient <= 0))
        gradient = np.where(held, 0.0, gradient)
        hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
        hessian += held[:, :, None] * np.eye(3)
        diagonal = np.einsum("bkk->bk", hessian)
        added = damping[still][:, None] * np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True)) + 1e-300
        step = np.linalg.solve(hessian + added[:, :, None] * np.eye(3), -gradient[:, :, None])[:, :, 0]
        tried = np.clip(here + np.clip(step, -2, 2), down, up)
        new = _cost(_residuals(tried, u, data)[0], w, huber)
        better = new < cost[still]
        gain = (cost[still] - new) / np.maximum(cost[still], 1e-300)
        theta[still[better]], cost[still[better]] = tried[better], new[better]
        damping[still] = np.where(better, damping[still] / 5, damping[still] * 4)
        ended = (better & (gain < 1e-8)) | (damping[still] > 1e8) | (cost[still] < 1e-28)
        still = still[~ended]
        if not len(still):
            break
    return theta, cost
