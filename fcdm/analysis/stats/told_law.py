"""The one rule for when a law is told: what the points do not tell is printed and drawn nowhere.

The limits were set on made-up curves, not on any study's results: all but SMOOTH before the first fit, SMOOTH after the
rule without it had missed a simulated wave. A fit that fails one of them keeps its residuals, so that they can be
looked at; it has no E, no interval and no line in a table or figure but the reason.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr

from fcdm.analysis.stats.power_law import FLATTEST, STEEPEST, PowerLaw, tangent

MOST_SCATTER = 0.10
"""Residuals of the means, root mean square with the degrees of freedom taken off, relative. At alpha = 0.3, 10 % of FID
is a third in compute, as much as the differences that laws are fitted for."""
LEAST_FALL = 4.0
"""How many times its noise a curve has to fall over what was measured, or it is flat."""
UNKNOWN_NOISE = 0.01
"""Without seeds: what two FIDs of one checkpoint, from 10,000 samples, differ by. A curve is not less noisy."""
SYSTEMATIC = 0.01
"""Of true laws with independent noise this share is refused as having systematic residuals."""
SMOOTH = 0.10
"""With seeds: how sure it has to be that misfit is smooth, by its rest alone."""
PARAMETERS, LEAST_FREEDOM = 3, 2
"""E, A and alpha; and so many points more are needed without seeds, for one is met by chance."""
ROUNDING = 1e-6
"""Residuals, relative, that are the solver's."""
AT_BOUND = 1e-3
"""A parameter this close to its bound, relative, has run into it; E, which is near its bound by nature, a thousandth of
that."""


def why_untold(law: PowerLaw, x: np.ndarray, lowest: float, scatter: float, noise: float, p_systematic: float) -> str:
    """Why these points tell no law, "" where they do.

    `x`: what was fitted. `lowest`: the bound of E. `scatter`, `noise` (NaN: no seeds): relative, of a mean.
    `p_systematic`: of `smooth_residuals`, NaN where it cannot be told.
    """
    if scatter > MOST_SCATTER:
        return f"the points scatter by {scatter:.0%} about it, more than {MOST_SCATTER:.0%}"
    values = law(np.array([x.min(), x.max()]))
    fall = float(np.log(values[0] / values[1]))
    noisy = max(scatter, noise if np.isfinite(noise) else UNKNOWN_NOISE)
    if fall < LEAST_FALL * noisy:
        share = max(0.0, 1 - np.exp(-fall))
        return f"flat: it falls by {share:.1%} in all, less than {LEAST_FALL:g} x its noise of {noisy:.1%}"
    if law.exponent < FLATTEST * (1 + AT_BOUND) or law.exponent > STEEPEST * (1 - AT_BOUND):
        return f"alpha ran to its bound, {law.exponent:.3g}"
    if law.offset > lowest * (1 - AT_BOUND / 1000):
        return f"E ran to its bound, the lowest measured mean ({lowest:.4g})"
    if p_systematic < SYSTEMATIC:
        return f"its residuals are systematic (p = {p_systematic:.1g}): the points bend otherwise than E + A x^-alpha"
    return ""


def why_untold_without_seeds(points: int, offset_known: bool) -> str:
    """Why a curve without an interval tells no law, "" where it does: its points are all that speaks for it.

    `points`: means that were fitted. `offset_known`: whether the profile of E ends on one side at least.
    """
    if points - PARAMETERS < LEAST_FREEDOM:
        return (
            f"{points} points leave {max(0, points - PARAMETERS)} to contradict its {PARAMETERS} numbers, at least "
            f"{LEAST_FREEDOM} needed without an interval over seeds"
        )
    if not offset_known:
        return "any E is as good, from 0 to the lowest value, and no seeds tell how sure the rest is"
    return ""


def smooth_residuals(
    law: PowerLaw,
    x: np.ndarray,
    residuals: np.ndarray,
    weights: np.ndarray,
    pieces: np.ndarray,
    noise: float,
    noise_freedom: float,
) -> float:
    """The p of the next term of log x in the residuals: are they systematic? NaN where nothing tells.

    A law takes a level, a slope and, by E, a bend of its points; the next term is cubic in log x (quadratic where E is
    0), made orthogonal to what the law can take. Without seeds its coefficient stands against what is left of the
    residuals. With them it has to be more than the seeds' noise makes (`noise`, of one piece, with its degrees of
    freedom), and more smooth than rough: against the rest at SMOOTH. Rough misfit widens intervals instead.
    `weights` (n,) sum up to the number of independent pieces, `pieces` (n,) says which each point is of: the residuals
    of one piece err together.
    """
    u = np.log(x)
    u = (u - u.mean()) / max(float(np.abs(u - u.mean()).max()), 1e-12)
    root = np.sqrt(weights)
    takes = tangent(law, x)
    term = root * u ** (takes.shape[1])
    basis, _ = np.linalg.qr(root[:, None] * takes)
    term = term - basis @ (basis.T @ term)
    size = float(np.sqrt(term @ term))
    freedom = weights.sum() - takes.shape[1] - 1
    if size < 1e-9:
        return float("nan")
    term /= size
    seen = root * residuals
    coefficient = float(term @ seen)
    left = seen - coefficient * term
    of_pieces = np.bincount(pieces, root * term)
    shared = float(np.sqrt(of_pieces @ of_pieces))
    by_rest = by_seeds = float("nan")
    if freedom > 0.99:
        by_rest = _both_sides(coefficient, np.sqrt(float(left @ left) / freedom) * shared, freedom)
    if np.isfinite(noise):
        by_seeds = _both_sides(coefficient, noise * shared, noise_freedom)
    if np.isnan(by_seeds) or np.isnan(by_rest):
        return by_rest if np.isnan(by_seeds) else by_seeds
    return max(by_seeds, by_rest * SYSTEMATIC / SMOOTH)


def _both_sides(value: float, error: float, freedom: float) -> float:
    """Student's p of a value with this standard error."""
    if abs(value) < ROUNDING:
        return 1.0
    return float(2 * stdtr(freedom, -abs(value) / error)) if error > 0 else 0.0
