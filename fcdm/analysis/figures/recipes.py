"""Every figure of a study by its name: what draws it, and why there would be none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.figures.ablation import ablation_figure
from fcdm.analysis.figures.axes import Drawn
from fcdm.analysis.figures.draw_frontier import frontier_figure
from fcdm.analysis.figures.draw_residuals import residuals_figure
from fcdm.analysis.figures.draw_throughput import throughput_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.guidance_tradeoff import guidance_figure
from fcdm.analysis.figures.heldout_loss import fid_against_loss
from fcdm.analysis.figures.model_size import fid_against_size
from fcdm.analysis.figures.sample_grid import sample_grid
from fcdm.analysis.figures.several_spaces import spaces_figure
from fcdm.analysis.stats.model_pairs import Comparison, hours_incomparable


def recipes(
    table: pd.DataFrame,
    guidance: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
    pairs: Sequence[Comparison] | None = None,
    beside: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, tuple[Callable[[], Drawn | None], str | None]]:
    """Name -> (what draws it, why there would be none; None: a figure of its own kind of study, not missed).

    `pairs`: whose ratios are drawn; None: those of an FCDM and the DiT of its size. `beside`: tables of the same
    samples in other spaces of features.
    """
    batches = table["batch_size"].nunique() > 1
    hours = hours_refused(table)
    distance = distance_of(table)
    costs = f"no run with a finite {distance} says what it costs"

    def curves(axis: str) -> Drawn | None:
        return fid_against(table, axis, published, pairs)

    return {
        "fid_vs_steps": (lambda: curves("steps"), f"no run has a finite {distance}"),
        # Where all batches are of one size it would be the same figure again.
        "fid_vs_images": (lambda: curves("images") if batches else None, None),
        "fid_vs_training_flops": (lambda: curves("train_flops"), costs),
        "fid_vs_device_hours": (lambda: None if hours else curves("device_seconds"), hours),
        "fid_vs_forward_gmacs": (lambda: fid_against_size(table, "forward_gmacs", published), costs),
        "fid_vs_parameters": (lambda: fid_against_size(table, "parameters", published), costs),
        "fid_vs_sampling_flops": (
            lambda: fid_against_size(table, "sampling_flops", published),
            "the protocol does not say how many sampling steps there were, or no run says what it costs",
        ),
        "fid_vs_heldout_loss": (lambda: fid_against_loss(table), "no evaluation has a held-out loss"),
        "throughput": (lambda: throughput_figure(table, published), "no run says how fast it was trained"),
        "frontier": (lambda: frontier_figure(table), costs),
        "fit_residuals": (lambda: residuals_figure(table), "no model has points enough for a fit"),
        "guidance": (lambda: None if guidance is None else guidance_figure(guidance, published), None),
        "ablation": (lambda: ablation_figure(table, published), None),
        "spaces": (lambda: spaces_figure(table, beside or {}), None),
        "samples": (lambda: sample_grid(table), "no pictures of samples beside the evaluations"),
    }


def hours_refused(table: pd.DataFrame) -> str | None:
    """Why FIDs of these runs are not set against device-hours; None: they can be."""
    known = table[np.isfinite(table["fid"])]
    return f"no run has a finite {distance_of(table)}" if known.empty else hours_incomparable(known)
