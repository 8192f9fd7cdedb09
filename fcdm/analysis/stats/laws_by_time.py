"""Joint laws of the held-out loss in bins of diffusion time: the first of ten bins alone is half of the loss.

The bins are the ten equal ones that every evaluation writes, fixed before any law was fitted.
"""

from __future__ import annotations

import pandas as pd

from fcdm.analysis.data.tidy_table import LOSS_BINS
from fcdm.analysis.stats.metric_laws import LawSettings
from fcdm.analysis.stats.study_surface import law_groups, surface_of
from fcdm.errors import UserError
from fcdm.laws.joint_fit import JointFit, fit_joint

WITHOUT_FIRST = "heldout_loss_2_to_10"
MOST_BINS = 5
"""The others hold 2 % of the loss together, on our digits and on Fashion-MNIST."""


def laws_by_time(losses: pd.DataFrame, settings: LawSettings) -> dict[str, dict[str, JointFit | str]]:
    """Column (a bin, or the mean of all but the first) -> law group -> its law, or why there is none.

    `losses`: a tidy table with the bins of held-out losses; {} of one without.
    """
    if not {*LOSS_BINS} <= {*losses} or losses[list(LOSS_BINS)].isna().all(axis=None):
        return {}
    rows = losses.assign(**{WITHOUT_FIRST: losses[list(LOSS_BINS[1:])].mean(axis=1)})
    found: dict[str, dict[str, JointFit | str]] = {}
    for column in (*LOSS_BINS[:MOST_BINS], WITHOUT_FIRST):
        for label, own in law_groups(rows).items():
            try:
                surface = surface_of(own, column, cuts=settings.cuts, tuned=settings.tuned)
                found.setdefault(column, {})[label] = fit_joint(surface.points, draws=settings.draws)
            except UserError as error:
                found.setdefault(column, {})[label] = str(error)
    return found
