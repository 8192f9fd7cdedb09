"""Every figure of a study by its name: what draws it, and why there would be none."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from fcdm.analysis.figures.ablation import ablation_figure
from fcdm.analysis.figures.axes import Drawn
from fcdm.analysis.figures.draw_frontier import frontier_figure
from fcdm.analysis.figures.draw_residuals import residuals_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.guidance_tradeoff import guidance_figure
from fcdm.analysis.figures.model_size import fid_against_gmacs
from fcdm.analysis.figures.sample_grid import sample_grid


def recipes(
    table: pd.DataFrame, guidance: pd.DataFrame | None = None, published: pd.DataFrame | None = None
) -> dict[str, tuple[Callable[[], Drawn | None], str | None]]:
    """Name -> (what draws it, why there would be none; None: a figure of its own kind of study, not missed)."""
    return {
        "fid_vs_steps": (lambda: fid_against(table, "steps", published), "no run has a finite FID"),
        "fid_vs_training_flops": (
            lambda: fid_against(table, "train_flops", published),
            "no run with a finite FID says what it costs",
        ),
        "fid_vs_forward_gmacs": (
            lambda: fid_against_gmacs(table, published),
            "no run with a finite FID says what it costs",
        ),
        "frontier": (lambda: frontier_figure(table), "no run with a finite FID says what it costs"),
        "fit_residuals": (lambda: residuals_figure(table), "no model has points enough for a fit"),
        "guidance": (lambda: None if guidance is None else guidance_figure(guidance, published), None),
        "ablation": (lambda: ablation_figure(table, published), None),
        "samples": (lambda: sample_grid(table), "no pictures of samples beside the evaluations"),
    }
