"""A small law that fits and foretells, for tests of what is done with forecasts: E + A N^-0.5 + B D^-0.5.

`python -m tests.support.simple_teller ...` is `python -m fcdm.forecast ...` with this law.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from fcdm.errors import UserError
from fcdm.forecast import main
from fcdm.forecasts.foretold import LAST_TWO, LAST_VALUE, ForecastTarget, StudyForecast
from fcdm.forecasts.law_file import OffsetGrid, ReachingLaw
from fcdm.laws.predictive import Predictive

if TYPE_CHECKING:
    import pandas as pd

VALIDATED = 16.0
LEAST_SPREAD = 0.02


class SimpleTeller:
    """By relative least squares; a new run is off by the residuals' spread."""

    def forecast_of(
        self, table: pd.DataFrame, metric: str, target: ForecastTarget, *, force: bool, losses: pd.DataFrame | None
    ) -> StudyForecast:
        coefficients, spread, freedom = _fit(table, metric)
        rows = table.sort_values("train_flops")
        most = rows["train_flops"].max()
        gap = target.train_flops / most
        if gap > VALIDATED and not force:
            raise UserError(f"x{gap:.3g} the compute that was fitted is further than the validated x{VALIDATED:g}")
        values, images = rows[metric].to_numpy(), rows["images"].to_numpy()
        slope = math.log(values[-1] / values[0]) / math.log(images[-1] / images[0])

        def law(compute: float) -> float:
            return float(_terms(target.forward_macs, target.images * compute) @ coefficients)

        median = law(1)
        macs = rows["forward_gmacs"] * 1e9
        return StudyForecast(
            law=Predictive.log_t(median, spread / 2, freedom),
            new_run=Predictive.log_t(median, spread, freedom),
            settings={"form": "E + A N^-0.5 + B D^-0.5", "cuts": []},
            points=[
                {"run": str(row.run), "steps": int(row.steps), "value": float(getattr(row, metric))}
                for row in rows.itertuples()
            ],
            baselines={
                LAST_VALUE: Predictive.log_t(float(values[-1]), 0.0),
                LAST_TWO: Predictive.log_t(float(values[-1] * (target.images / images[-1]) ** slope), 0.05),
            },
            curve=tuple((compute, law(compute)) for compute in (0.25, 0.5, 1.0, 2.0, 4.0)),
            gap=gap,
            validated_gap=VALIDATED,
            inside=bool(macs.min() <= target.forward_macs <= macs.max() and target.images <= images.max()),
            seed_deviation=0.01,
            forced=(f"x{gap:.3g} the compute",) if gap > VALIDATED else (),
        )

    def laws_of(
        self, table: pd.DataFrame, metric: str, *, losses: pd.DataFrame | None
    ) -> Sequence[tuple[ReachingLaw, Sequence[str]]]:
        coefficients, spread, freedom = _fit(table, metric)
        e, a, b = map(float, coefficients)
        flops = float(table["train_flops"].max())
        law = ReachingLaw(
            metric=metric,
            protocol_id=str(table["protocol_id"].iloc[0]),
            n_unit="forward_macs",
            **{"e": e, "a": a, "alpha": 0.5, "b": b, "beta": 0.5},
            reach=({"train_flops": (float(table["train_flops"].min()), VALIDATED * flops)},),
            offsets=OffsetGrid((1.0,), (1.0,), ((Predictive.log_t(1.0, spread, freedom).logs,),)),
            freedom=freedom,
            common={},
        )
        return [(law, list(table["run"].unique()))]


def _fit(table: pd.DataFrame, metric: str) -> tuple[Any, float, float]:
    """(coefficients, spread of the residuals of ln, degrees of freedom)."""
    values = table[metric].to_numpy()
    if table["images"].nunique() < 2:
        raise UserError(f"{metric} has one budget, and a law needs two")
    terms = np.stack(
        [_terms(macs * 1e9, images) for macs, images in zip(table["forward_gmacs"], table["images"], strict=True)]
    )
    coefficients, _ = nnls(terms / values[:, None], np.ones(len(values)))
    residuals = np.log(terms @ coefficients / values)
    freedom = float(max(2, len(values) - 3))
    return coefficients, max(LEAST_SPREAD, math.sqrt(float(residuals @ residuals) / freedom)), freedom


def _terms(macs: float, images: float) -> Any:
    return np.array([1.0, macs**-0.5, images**-0.5])


if __name__ == "__main__":
    sys.exit(main(teller=SimpleTeller()))
