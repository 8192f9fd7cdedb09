"""The fit of a joint law to many sets of points at once: variable projection, then log-Huber from there.

For given exponents the relative residuals (model - L) / L are linear in E, A and B, so that only two numbers are
searched: a grid of exponents, finer and finer about its best place, and at each place non-negative least squares.
(A direct fit of five numbers has a condition number of 1e11 where this one has 11.) From there all five descend
together on the Huber loss of log residuals, which is the estimate; arrays' first axis is the fit.
"""

from __future__ import annotations

from itertools import product

import numpy as np

HUBER_SHARE = 1.345
"""Huber's delta over the noise's standard deviation: 95 % efficient where the noise is normal (Huber 1981, 4.2)."""
FLATTEST, STEEPEST = 0.01, 6.0
"""Bounds of alpha and beta: an exponent that ends there is one that the points do not tell."""
PLACES, PLACES_OF_DRAWS = 9, 5
"""Exponents tried for each of the two at a level of the grid; draws, which begin near the estimate, need fewer."""
LEVELS, LEVELS_OF_DRAWS = 10, 4
"""Levels of the grid, each half as wide as the one before."""
NONE = 1e-9
"""A part of the law below this share of the lowest L is none."""


def solve_joint(
    n: np.ndarray,
    d: np.ndarray,
    y: np.ndarray,
    delta: np.ndarray | float,
    *,
    lowest: np.ndarray | float,
    first: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
    form: str = "additive",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fits of B sets of points: (laws (B, 5): E, A, alpha, B, beta; their objectives (B,); projected laws (B, 5)).

    `n`, `d`: (points,), above 0. `y`: (B, points), above 0. `delta`: of the Huber loss of log residuals. E stays at or
    below `lowest`. `first`: (5,), a law near which all are looked for. `offsets`: (B,), E is held there.
    The third is where variable projection ended, before log-Huber.
    """
    sets = len(y)
    centre, level = (np.log(n).mean(), np.log(d).mean()), np.log(y).mean()
    u, v, logs = np.log(n) - centre[0], np.log(d) - centre[1], np.log(y) - level
    cap = np.broadcast_to(np.log(lowest) - level, (sets,))
    held = None if offsets is None else np.log(np.maximum(offsets, 1e-300)) - level
    delta = np.broadcast_to(delta, (sets,))
    near = None if first is None else np.log(first[[2, 4]])
    theta, projected = _project(u, v, logs, delta, np.exp(cap), None if held is None else np.exp(held), near)
    ends = (np.tile(_LOW, (sets, 1)), np.tile(_HIGH, (sets, 1)))
    ends[1][:, 4] = cap
    if held is not None:
        ends[0][:, 4] = ends[1][:, 4] = np.maximum(held, _LEAST)
    starts = [theta]
    if form != "additive":
        steeper = theta.copy()
        steeper[:, [1, 3]] += np.log(0.6)
        starts.append(steeper)
    found = [_descend(start, u, v, logs, delta, ends, form) for start in starts]
    costs = np.stack([cost for _, cost in found])
    winner = np.argmin(costs, axis=0)
    rows = np.arange(sets)
    best = np.stack([laws for laws, _ in found])[winner, rows]
    return _outer(best, centre, level), costs[winner, rows], _outer(projected, centre, level)


# Inner numbers: log of A's part at the centre of n, log alpha, log of B's part at the centre of d, log beta, log E; all
# less the level of y.
_LEAST = -21.0
_LOW = np.array([_LEAST, np.log(FLATTEST), _LEAST, np.log(FLATTEST), _LEAST])
_HIGH = np.array([25.0, np.log(STEEPEST), 25.0, np.log(STEEPEST), 25.0])


def _inner(laws: np.ndarray, centre: tuple[float, float], level: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        logs = np.log(laws)
    of_size, of_data = logs[:, 1] - laws[:, 2] * centre[0] - level, logs[:, 3] - laws[:, 4] * centre[1] - level
    inner = np.stack([of_size, logs[:, 2], of_data, logs[:, 4], logs[:, 0] - level], axis=1)
    return np.asarray(np.maximum(inner, _LOW))


def _outer(inner: np.ndarray, centre: tuple[float, float], level: float) -> np.ndarray:
    alpha, beta = np.exp(inner[:, 1]), np.exp(inner[:, 3])
    parts = np.where(inner[:, [4, 0, 2]] <= np.log(NONE), -np.inf, inner[:, [4, 0, 2]]) + level
    with np.errstate(over="ignore", under="ignore"):
        scale = np.exp(parts[:, 1] + alpha * centre[0]), np.exp(parts[:, 2] + beta * centre[1])
        return np.stack([np.exp(parts[:, 0]), scale[0], alpha, scale[1], beta], axis=1)


def _project(
    u: np.ndarray,
    v: np.ndarray,
    logs: np.ndarray,
    delta: np.ndarray,
    cap: np.ndarray,
    held: np.ndarray | None,
    near: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Variable projection: inner numbers (B, 5) for the descent, kept off 0, and as they came out."""
    sets = len(logs)
    places, levels = (PLACES, LEVELS) if near is None else (PLACES_OF_DRAWS, LEVELS_OF_DRAWS)
    rows, y, w = np.arange(sets), np.exp(logs), np.ones_like(logs)
    middle = np.tile([0.5 * np.log(FLATTEST * STEEPEST)] * 2 if near is None else near, (sets, 1))
    half = 0.5 * np.log(STEEPEST / FLATTEST) if near is None else np.log(4.0)
    parts = np.zeros((sets, 3))
    for _ in range(levels):
        steps = half * np.linspace(-1, 1, places)
        alphas, betas = (
            np.clip(middle[:, place, None] + steps, np.log(FLATTEST), np.log(STEEPEST)) for place in (0, 1)
        )  # (B, places)
        of_size = np.exp(-np.exp(alphas)[:, :, None] * u) / y[:, None]  # (B, places, points)
        of_data = np.exp(-np.exp(betas)[:, :, None] * v) / y[:, None]
        squares, found = _least_squares(of_size, of_data, 1 / y, w, cap, held)
        best = np.argmin(squares.reshape(sets, -1), axis=1)
        one, other = np.divmod(best, places)
        middle = np.stack([alphas[rows, one], betas[rows, other]], axis=1)
        parts = found.reshape(sets, -1, 3)[rows, best]
        model = np.stack([1 / y, of_size[rows, one], of_data[rows, other]], axis=1)  # (B, 3, points)
        off = np.abs(np.einsum("bk,bkn->bn", parts, model) - 1)
        w = np.minimum(1.0, delta[:, None] / np.maximum(off, 1e-300))
        half *= 0.5
    with np.errstate(divide="ignore"):
        inner = np.log(parts)
    came = np.stack([inner[:, 1], middle[:, 0], inner[:, 2], middle[:, 1], inner[:, 0]], axis=1)
    # What is exactly 0 has no slope in its logarithm: the descent begins a little above.
    start = came.copy()
    start[:, [0, 2, 4]] = np.maximum(start[:, [0, 2, 4]], -7.0)
    return start, np.maximum(came, _LOW)


def _least_squares(
    of_size: np.ndarray,
    of_data: np.ndarray,
    of_offset: np.ndarray,
    w: np.ndarray,
    cap: np.ndarray,
    held: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """At each pair of exponents the least squares (B, places, places) of E, A, B >= 0, E <= cap; and these (..., 3).

    The least lies where some of the three stand at a bound and the rest have no slope: every choice is solved by its
    normal equations, and the best that keeps the bounds is it.
    """
    sets, places, _ = of_size.shape
    shape = (sets, places, places)
    gram, right = np.empty((*shape, 3, 3)), np.empty((*shape, 3))
    weighted_size, weighted_data, weighted_offset = of_size * w[:, None], of_data * w[:, None], of_offset * w
    gram[..., 0, 0] = (weighted_offset * of_offset).sum(1)[:, None, None]
    gram[..., 1, 1] = (weighted_size * of_size).sum(2)[:, :, None]
    gram[..., 2, 2] = (weighted_data * of_data).sum(2)[:, None, :]
    gram[..., 0, 1] = gram[..., 1, 0] = (weighted_size * of_offset[:, None]).sum(2)[:, :, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (weighted_data * of_offset[:, None]).sum(2)[:, None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = weighted_size @ np.swapaxes(of_data, 1, 2)
    right[..., 0] = weighted_offset.sum(1)[:, None, None]
    right[..., 1] = weighted_size.sum(2)[:, :, None]
    right[..., 2] = weighted_data.sum(2)[:, None, :]
    bound = np.broadcast_to(cap[:, None, None], shape)
    fixed = [None, np.zeros(shape), bound] if held is None else [np.broadcast_to(held[:, None, None], shape)]
    least, best = np.full(shape, np.inf), np.zeros((*shape, 3))
    total = w.sum(1)[:, None, None]
    for at, size_free, data_free in product(fixed, (True, False), (True, False)):
        free = [place for place, is_free in enumerate((at is None, size_free, data_free)) if is_free]
        found = np.zeros((*shape, 3))
        if at is not None:
            found[..., 0] = at
        if free:
            rest = right[..., free] - (0.0 if at is None else gram[..., free, 0] * at[..., None])
            found[..., free] = _solved(gram[..., free, :][..., free], rest)
        squares = total - 2 * (found * right).sum(-1) + np.einsum("...j,...jk,...k->...", found, gram, found)
        fits = (found >= 0).all(-1) & (found[..., 0] <= bound * (1 + 1e-12)) & (squares < least)
        least, best = np.where(fits, squares, least), np.where(fits[..., None], found, best)
    return least, best


def _solved(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """gram x = right for stacks of small positive matrices; of one that is singular some least squares' solution."""
    scale = 1 / np.sqrt(np.einsum("...kk->...k", gram))
    even = gram * scale[..., :, None] * scale[..., None, :] + 1e-13 * np.eye(gram.shape[-1])
    return np.asarray(np.linalg.solve(even, (right * scale)[..., None])[..., 0] * scale)


def _logs(theta: np.ndarray, u: np.ndarray, v: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """log of the law, (B, points), and how it moves with the inner numbers, (B, points, 5)."""
    alpha_u, beta_v = np.exp(theta[:, 1:2]) * u, np.exp(theta[:, 3:4]) * v
    p, q = theta[:, 0:1] - alpha_u, theta[:, 2:3] - beta_v
    sharpness = np.exp(theta[:, 3:4]) if form == "Kaplan's" else np.ones((len(theta), 1))
    joined = np.logaddexp(p / sharpness, q / sharpness)
    of_size = np.exp(p / sharpness - joined)
    of_data = 1 - of_size
    log_law = np.logaddexp(sharpness * joined, theta[:, 4:5])
    falls = np.exp(sharpness * joined - log_law)  # the share of what is above E
    moves = np.stack([of_size, -of_size * alpha_u, of_data, -of_data * beta_v], axis=2) * falls[:, :, None]
    if form == "Kaplan's":
        moves[:, :, 3] += falls * (sharpness * joined - of_size * p - of_data * q)
    return log_law, np.concatenate([moves, (1 - falls)[:, :, None]], axis=2)


def _cost(residuals: np.ndarray, delta: np.ndarray) -> np.ndarray:
    size = np.abs(residuals)
    edge = delta[:, None]
    return np.asarray(np.where(size <= edge, 0.5 * size**2, edge * (size - 0.5 * edge)).sum(axis=1))


def _descend(
    theta: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    logs: np.ndarray,
    delta: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    form: str,
    most: int = 150,
) -> tuple[np.ndarray, np.ndarray]:
    """Steps of Levenberg and Marquardt on reweighted squares, each fit with its own damping: (inner numbers, cost).

    `ends`: the least and the largest inner numbers, (B, 5) each: what stands at one and would go on is held there.
    """
    low, high = ends
    theta = np.clip(theta, low, high)
    model, moves = _logs(theta, u, v, form)
    residuals = model - logs
    cost = _cost(residuals, delta)
    damping, still = np.full(len(theta), 1e-3), np.arange(len(theta))
    for _ in range(most):
        here, off, edge, jacobian = theta[still], residuals[still], delta[still], moves[still]
        weighted = jacobian * np.minimum(1.0, edge[:, None] / np.maximum(np.abs(off), 1e-300))[:, :, None]
        hessian = np.swapaxes(jacobian, 1, 2) @ weighted
        gradient = (np.swapaxes(weighted, 1, 2) @ off[:, :, None])[:, :, 0]
        down, up = low[still], high[still]
        stays = ((here <= down) & (gradient >= 0)) | ((here >= up) & (gradient <= 0))
        gradient = np.where(stays, 0.0, gradient)
        hessian = np.where(stays[:, :, None] | stays[:, None, :], 0.0, hessian) + stays[:, :, None] * np.eye(5)
        diagonal = np.einsum("bkk->bk", hessian)
        added = damping[still][:, None] * np.maximum(diagonal, 1e-9 * diagonal.max(axis=1, keepdims=True))
        step = np.linalg.solve(hessian + (added + 1e-14)[:, :, None] * np.eye(5), -gradient[:, :, None])[:, :, 0]
        tried = np.clip(here + np.clip(step, -2, 2), down, up)
        new_model, new_moves = _logs(tried, u, v, form)
        new_off = new_model - logs[still]
        new = _cost(new_off, edge)
        better = new < cost[still]
        gain = (cost[still] - new) / np.maximum(cost[still], 1e-300)
        moved = still[better]
        theta[moved], residuals[moved], moves[moved], cost[moved] = (
            tried[better], new_off[better], new_moves[better], new[better],
        )  # fmt: skip
        damping[still] = np.where(better, damping[still] / 5, damping[still] * 4)
        ended = (better & (gain < 1e-7)) | (damping[still] > 1e6) | (cost[still] < 1e-26)
        still = still[~ended]
        if not len(still):
            break
    return theta, cost
