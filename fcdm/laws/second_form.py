"""The check by a second functional form: what it says of the same points, and how far it forecasts from the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcdm.laws.joint_fit import JointFit
from fcdm.laws.joint_law import FORMS, JointLaw
from fcdm.laws.joint_solver import solve_joint


@dataclass(frozen=True)
class SecondForm:
    """Another form, fitted to the points of a fit in the same way."""

    law: JointLaw
    scatter: float
    """Root mean square of the cells' residuals over their degrees of freedom, as `JointFit.scatter`."""
    first: JointFit

    def away(self, n: float, d: float) -> float:
        """log of the second form over the first at (n, d): no distance at which both fit says which one is true."""
        return float(np.log(self.law(n, d) / self.first.law(n, d)))

    def is_inside(self, n: float, d: float) -> bool:
        """Whether the 95 % interval of the first form's law holds the second."""
        low, high = self.first.forecast(n, d).law.interval(0.95)
        return low <= float(self.law(n, d)) <= high


def second_form(fit: JointFit) -> SecondForm:
    """The form of FORMS that is not the fit's, of the same points."""
    form = next(other for other in FORMS if other != fit.law.form)
    points = fit.points
    found, _, _ = solve_joint(points.n, points.d, points.y[None], fit.delta, lowest=points.lowest, form=form)
    law = JointLaw.of_row(found[0], form)
    means = points.cell_means(np.log(points.y / law(points.n, points.d)))
    return SecondForm(law, float(np.sqrt((means**2).sum() / max(len(means) - 5, 1))), fit)
