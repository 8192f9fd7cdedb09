"""Whether families share one E: it belongs to data, objective and weighting, not to an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from fcdm.errors import UserError
from fcdm.laws.joint_fit import JointFit, satterthwaite
from fcdm.laws.joint_law import JointLaw
from fcdm.laws.joint_offset import costs_at
from fcdm.laws.joint_solver import solve_joint

PLACES, LEVELS = 15, 4
"""The one E is looked for in a grid, and then in finer ones about its best place."""
AGREE = 0.05
"""The p below which families do not share one E."""


@dataclass(frozen=True)
class SharedOffset:
    """Several families with one E, beside each with its own."""

    offset: float
    """The one E that all of them together meet best, from 0 on."""
    laws: dict[str, JointLaw]
    """Family -> its law with that E."""
    statistic: float
    """F: how much worse the points are met with one E, over what draws show by chance, by families less 1."""
    freedom: tuple[float, float]
    p: float

    @property
    def agrees(self) -> bool:
        return self.p >= AGREE


def share_offset(fits: Mapping[str, JointFit]) -> SharedOffset:
    """Fit families with one E and with one each, by their profiles. Raises UserError with fewer than two families.

    Where they disagree, a law of some family, or of all, is not the true one: that is misfit, and no fact about E.
    """
    if len(fits) < 2:
        raise UserError(f"whether families share one E takes two of them, here is {', '.join(fits) or 'none'}")
    lowest = min(fit.profile.lowest for fit in fits.values())
    offsets = np.linspace(0.0, (1 - 1e-5) * lowest, PLACES)
    for _ in range(LEVELS):
        totals = _excess(fits, offsets)
        place = int(np.argmin(totals))
        offset, above = float(offsets[place]), float(totals[place])
        offsets = np.linspace(offsets[max(place - 1, 0)], offsets[min(place + 1, PLACES - 1)], PLACES)
    freedom = satterthwaite(
        [
            part
            for fit in fits.values()
            for part in (
                (fit.seed_deviation**2, fit.points.seed_freedom),
                (fit.misfit.variance, fit.misfit.freedom),
            )
        ]
    )
    statistic = max(above, 0.0) / (len(fits) - 1)
    laws = {}
    for family, fit in fits.items():
        points, at = fit.points, np.array([offset])
        found, _, _ = solve_joint(
            points.n, points.d, points.y[None], fit.delta, lowest=points.lowest, offsets=at, form=fit.law.form
        )
        laws[family] = JointLaw.of_row(found[0], fit.law.form)
    numerator = float(len(fits) - 1)
    p = float(fdtrc(numerator, min(freedom, 1e6), statistic))
    return SharedOffset(offset, laws, statistic, (numerator, freedom), p)


def _excess(fits: Mapping[str, JointFit], offsets: np.ndarray) -> np.ndarray:
    """How much worse each E (offsets,) meets the points of all families than their own: each over its draws' mean."""
    total = np.zeros(len(offsets))
    for fit in fits.values():
        law, form = np.array(fit.law.numbers), fit.law.form
        costs = costs_at(fit.points, np.append(offsets, fit.law.offset), law, fit.delta, form)
        total += (costs[:-1] - costs.min()) / max(fit.profile.scale, 1e-300)
    return total
