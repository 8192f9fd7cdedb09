"""Every figure of a study by its name: what draws it, and why there would be none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from fcdm.analysis.data.curves import has_log
from fcdm.analysis.data.labels import cooldowns, display_name, distance_of
from fcdm.analysis.figures.ablation import ablation_figure
from fcdm.analysis.figures.axes import Drawn
from fcdm.analysis.figures.draw_forecasts import calibration_figure, group_of, predicted_figure
from fcdm.analysis.figures.draw_frontier import frontier_figure
from fcdm.analysis.figures.draw_joint_law import contour_figure, iso_flop_figure, optimum_figure, residual_map
from fcdm.analysis.figures.draw_residuals import residuals_figure
from fcdm.analysis.figures.draw_throughput import throughput_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.guidance_tradeoff import guidance_figure
from fcdm.analysis.figures.heldout_loss import fid_against_loss
from fcdm.analysis.figures.model_size import fid_against_size
from fcdm.analysis.figures.sample_grid import sample_grid
from fcdm.analysis.figures.several_spaces import spaces_figure
from fcdm.analysis.stats.metric_laws import MetricLaws
from fcdm.analysis.stats.model_pairs import Comparison, hours_incomparable
from fcdm.features.distance_names import value_text
from fcdm.forecasts.score_forecasts import UNSCORED, ScoredForecast
from fcdm.laws.verdict import is_loss

LEAST_OF_FRONTIER = 2
"""Models of a family, and budgets of one of them."""


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
    known = table[has_log(table["fid"])]
    alone, one_size = one_point(known, published), one_model(known, published)
    no_envelope = no_frontier(known)
    only_ours = published is None or published.empty
    one_speed = one_model(table) if only_ours and table["forward_gmacs"].nunique() == 1 else None
    distance = distance_of(table)
    costs = f"no run with a finite {distance} says what it costs"

    def curves(axis: str) -> Drawn | None:
        return None if alone else fid_against(table, axis, published, pairs)

    def sizes(axis: str) -> Drawn | None:
        return None if one_size else fid_against_size(table, axis, published)

    return {
        "fid_vs_steps": (lambda: curves("steps"), alone or f"no run has a finite {distance}"),
        # Where all batches are of one size it would be the same figure again.
        "fid_vs_images": (lambda: curves("images") if batches else None, None),
        "fid_vs_training_flops": (lambda: curves("train_flops"), alone or costs),
        "fid_vs_device_hours": (lambda: None if hours else curves("device_seconds"), hours or alone),
        "fid_vs_forward_gmacs": (lambda: sizes("forward_gmacs"), one_size or costs),
        "fid_vs_parameters": (lambda: sizes("parameters"), one_size or costs),
        "fid_vs_sampling_flops": (
            lambda: sizes("sampling_flops"),
            one_size or "the protocol does not say how many sampling steps there were, or no run says what it costs",
        ),
        "fid_vs_heldout_loss": (
            lambda: None if alone else fid_against_loss(table),
            alone or "no evaluation has a held-out loss",
        ),
        "throughput": (
            lambda: None if one_speed else throughput_figure(table, published),
            one_speed or "no run says how fast it was trained",
        ),
        "frontier": (lambda: None if no_envelope else frontier_figure(table), no_envelope or costs),
        "fit_residuals": (lambda: residuals_figure(table), "no model has points enough for a fit"),
        "guidance": (lambda: None if guidance is None else guidance_figure(guidance, published), None),
        "ablation": (lambda: ablation_figure(table, published), None),
        "spaces": (lambda: spaces_figure(table, beside or {}), None),
        "samples": (lambda: sample_grid(table), "no pictures of samples beside the evaluations"),
    }


def law_recipes(
    laws: Sequence[MetricLaws], scored: Sequence[ScoredForecast] = ()
) -> dict[str, Callable[[], Drawn | None]]:
    """Name -> what draws it, of joint laws that are told and of the ledger's forecasts; {} without both.

    `fid_contours` and `heldout_loss_contours` are the same figure of another metric.
    """
    found: dict[str, Callable[[], Drawn | None]] = {}
    for one in laws:
        own = [each for each in scored if _is_of(each, one)]
        if told := one.told:
            targets: dict[str, list[tuple[float, float]]] = {}
            for each in own:
                if each.state == UNSCORED:
                    place = float(each.entry.run.forward_macs), float(each.entry.images)
                    targets.setdefault(group_of(each), []).append(place)
            found |= {
                f"{one.metric}_contours": partial(contour_figure, told, one.name, targets),
                f"{one.metric}_iso_flop": partial(iso_flop_figure, told, one.name),
                f"{one.metric}_optimum": partial(optimum_figure, told),
                f"{one.metric}_law_residuals": partial(residual_map, told, one.name),
            }
        if told or own:
            found[f"{one.metric}_predicted"] = partial(predicted_figure, told, one.name, own)
    if scored:
        found["forecast_calibration"] = partial(calibration_figure, scored)
    return found


def _is_of(scored: ScoredForecast, laws: MetricLaws) -> bool:
    """Whether a forecast is of these laws' metric: a distance by their protocol, a loss by whichever."""
    if scored.entry.metric != laws.metric:
        return False
    return is_loss(laws.metric) or scored.entry.protocol_id == str(laws.table["protocol_id"].iloc[0])


def one_point(known: pd.DataFrame, published: pd.DataFrame | None) -> str | None:
    """Why curves of these rows would show nothing: one model at one budget, and no published point beside it."""
    if len(known[["label", "steps"]].drop_duplicates()) != 1 or _published_beside(known, published):
        return None
    row = known.iloc[0]
    value = value_text(distance_of(known), float(known["fid"].mean()))
    return f"there is one point, {value} of {row['label']} at {row['steps']:,} steps"


def one_model(table: pd.DataFrame, published: pd.DataFrame | None = None) -> str | None:
    """Why nothing can be seen against the size of a model: there is one, and no published one beside it."""
    models = table[["model", "family", "data", "resolution"]].drop_duplicates()
    if len(models) != 1 or _published_beside(table, published):
        return None
    return "there is one model, and a size takes two"


def no_frontier(known: pd.DataFrame) -> str | None:
    """Why no frontier can be seen: a model alone is its own envelope, and one budget of each makes none."""
    known = known[known["train_flops"] > 0]
    if known.empty:
        return None
    models = known.assign(share=cooldowns(known)).groupby(["family", "data", "resolution", "share"])["label"].nunique()
    if (models < LEAST_OF_FRONTIER).all():
        return "it is the lowest of several models' curves, and no family has two models"
    if (known.groupby("label")["steps"].nunique() < LEAST_OF_FRONTIER).all():
        return "every model has one budget, and a frontier takes several"
    return None


def _published_beside(table: pd.DataFrame, published: pd.DataFrame | None) -> bool:
    """Whether the papers have points of the models of a table."""
    if published is None or published.empty:
        return False
    models = {display_name(model, family) for model, family in zip(table["model"], table["family"], strict=True)}
    return bool(published["model"].isin(models).any())


def hours_refused(table: pd.DataFrame) -> str | None:
    """Why FIDs of these runs are not set against device-hours; None: they can be."""
    known = table[np.isfinite(table["fid"])]
    return f"no run has a finite {distance_of(table)}" if known.empty else hours_incomparable(known)
