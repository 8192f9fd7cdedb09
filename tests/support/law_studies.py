"""Many made-up studies of a known surface: how often intervals of the joint law hold the truth, how wide they are.

Beside an oracle that knows the form, that nothing else is at work, and how the noise is made: generalised least
squares, linearised at the truth. It learns only how large the noise is, from as many seeds: Student's t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from fcdm.laws.hold_outs import VALIDATED, validate
from fcdm.laws.joint_fit import JointFit, fit_joint
from fcdm.laws.surface_points import SurfacePoints
from tests.support.known_surface import FEW_BUDGETS, FEW_SIZES, LOSS, Surface, measured

INSIDE = ((FEW_SIZES[1], 0.7 * FEW_BUDGETS[2]), (FEW_SIZES[2], FEW_BUDGETS[2]), (FEW_SIZES[-1], FEW_BUDGETS[-1]))
OUTSIDE = (
    (2 * FEW_SIZES[-1], FEW_BUDGETS[-1]),
    (FEW_SIZES[-1], 2 * FEW_BUDGETS[-1]),
    (2 * FEW_SIZES[-1], 2 * FEW_BUDGETS[-1]),
)
"""A factor of 2 out in size, in data, in both: as far as hold-outs of FEW_SIZES and FEW_BUDGETS reach."""


@dataclass(frozen=True)
class Case:
    """One kind of study."""

    name: str
    surface: Surface = LOSS
    seeds: int = 2
    of_seed: float = 0.01
    of_evaluation: float = 0.005
    of_size: float = 0.0
    outlier: float = 1.0

    def points(self, draw: int) -> SurfacePoints:
        return measured(
            self.surface,
            self.seeds,
            of_seed=self.of_seed,
            of_evaluation=self.of_evaluation,
            of_size=self.of_size,
            outlier=self.outlier,
            draw=draw,
        )

    def oracle(self, targets: Sequence[tuple[float, float]]) -> np.ndarray:
        """Standard deviation of log of the law at each target, (targets,)."""
        points = measured(self.surface, self.seeds)
        at = np.array(self.surface.law.numbers)

        def moves(n: np.ndarray, d: np.ndarray) -> np.ndarray:
            columns = []
            for place in range(5):
                low, high = at.copy(), at.copy()
                low[place], high[place] = at[place] * (1 - 1e-5), at[place] * (1 + 1e-5)
                ends = [np.log(type(self.surface.law)(*row, self.surface.form)(n, d)) for row in (low, high)]
                columns.append((ends[1] - ends[0]) / 2e-5)
            return np.stack(columns, axis=1)

        here = moves(points.n, points.d)
        same_run = points.runs[:, None] == points.runs
        covariance = self.of_seed**2 * same_run + self.of_evaluation**2 * np.eye(len(points.y))
        of_numbers = np.linalg.inv(here.T @ np.linalg.solve(covariance, here))
        there = moves(*np.array(targets).T)
        return np.asarray(np.sqrt(np.einsum("tj,jk,tk->t", there, of_numbers, there)))


@dataclass(frozen=True)
class Coverage:
    """What came of many studies, each of shape (studies, targets) but for the last two."""

    law: np.ndarray
    """Whether the 95 % interval of the law held the truth."""
    new_run: np.ndarray
    """Whether that of one new run held one."""
    width: np.ndarray
    """Of the law's interval, of log y, over the oracle's."""
    counted: np.ndarray
    """Whether the target was inside the measured range or the largest validated gap; all True without validation."""
    exponents: np.ndarray
    """(studies, 2): whether the intervals of alpha and beta held the truth."""
    p: np.ndarray
    """(studies,): of the misfit."""


def coverage(
    case: Case,
    targets: Sequence[tuple[float, float]],
    studies: int,
    *,
    draws: int,
    first: int = 0,
    held_out: bool = False,
) -> Coverage:
    """`held_out`: whether each study is validated by hold-outs, and only what they reach is counted."""
    n, d = np.array(targets).T
    freedom = case.points(first).seed_freedom
    truth, oracle = case.surface(n, d), 2 * float(stdtrit(freedom, 0.975)) * case.oracle(targets)
    random = np.random.default_rng([first, 7])
    found: dict[str, list[np.ndarray]] = {name: [] for name in Coverage.__dataclass_fields__}
    for draw in range(first, first + studies):
        points = case.points(draw)
        counted = np.ones(len(targets), dtype=bool)
        if held_out:
            validation = validate(points, is_loss=case.surface.offset < 1, draws=draws, seed=draw)
            fit = validation.fit
            counted = np.array([validation.reach(*target) for target in targets]) == VALIDATED
        else:
            fit = fit_joint(points, draws=draws, seed=draw)
        new = truth * np.exp(
            random.normal(0, np.sqrt(case.of_seed**2 + case.of_evaluation**2 + case.of_size**2), len(n))
        )
        forecasts = [fit.forecast(*target) for target in targets]
        laws, runs = (
            np.array([getattr(one, what).interval(0.95) for one in forecasts]).T for what in ("law", "new_run")
        )
        found["law"].append((laws[0] <= truth) & (truth <= laws[1]))
        found["new_run"].append((runs[0] <= new) & (new <= runs[1]))
        found["width"].append(np.log(laws[1] / laws[0]) / oracle)
        found["counted"].append(counted)
        found["exponents"].append(exponents_hold(fit, case.surface))
        found["p"].append(np.array(fit.misfit.p))
    return Coverage(**{name: np.array(values) for name, values in found.items()})


def exponents_hold(fit: JointFit, surface: Surface) -> np.ndarray:
    ends = fit.intervals
    return np.array(
        [ends[name][0] <= true <= ends[name][1] for name, true in (("alpha", surface.a), ("beta", surface.b))]
    )
