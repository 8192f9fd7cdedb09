"""What one protocol of a study found, as tables: FIDs over seeds, and the protocol itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fcdm.analysis.data.curves import METRICS
from fcdm.analysis.data.epochs import epochs_each, epochs_text
from fcdm.analysis.data.labels import distance_of, metric_name
from fcdm.analysis.figures.axes import fid_label, file_name
from fcdm.analysis.reporting.cell_tables import MISSING, Cell, CellTable, number, over_seeds
from fcdm.analysis.stats.fresh_data import seen_often
from fcdm.analysis.stats.frontier_fit import Frontier
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import (
    ends_text,
    family_frontier,
    fits_of,
    fits_table,
    frontiers_of,
    law_or_reason,
    offset_text,
)
from fcdm.config.ema_lag import share_text
from fcdm.formatting import steps_text

METRIC_NAMES = {
    "fid_pixels": "Fréchet distance on raw pixels",
    "fid_pixels_heldout": "Fréchet distance on raw pixels, to held-out images",
    "heldout_loss": "Held-out loss",
    "train_loss": "Loss of training images",
    "data_copying": "Copying: share of samples nearer to training images than held-out ones are",
    "sfid": "sFID",
    "inception_score": "Inception Score",
    "precision": "Precision",
    "recall": "Recall",
}
PROTOCOL_WORDS: dict[str, tuple[str, dict[Any, str]]] = {
    "weights": (
        "Weights",
        {"ema": "exponential moving average of the training weights", "raw": "the training weights"},
    ),
    "sampler": ("Sampler", {}),
    "sampling_steps": ("Sampling steps", {None: "as many as the sampler chooses"}),
    "clip_denoised": ("Predicted image clipped to [-1, 1]", {True: "yes", False: "no"}),
    "guidance_scale": ("Guidance scale", {1.0: "1 (no guidance)"}),
    "guidance_channels": ("Guided channels", {None: "all"}),
    "guidance_interval": ("Guided times", {None: "all"}),
    "samples": ("Generated images", {0: "none: losses alone"}),
    "loss_images": ("Images of each loss", {}),
    "seed": ("Seed of the samples", {}),
    "labels": ("Class labels", {"balanced": "equally many of each class", "uniform": "drawn independently"}),
    "precision": ("Precision of sampling", {}),
    "rounding": ("Images become bytes by", {}),
    "features": ("Features of the distance", {}),
    "reference": ("Reference images", {}),
    "decoder": ("Decoder of latents", {}),
    "atol": ("Solver's absolute tolerance", {}),
    "rtol": ("Solver's relative tolerance", {}),
}
"""Protocol key -> (how a reader calls it, words for some of its values)."""


def results_table(table: pd.DataFrame, metric: str, protocol: str) -> CellTable:
    """A row for each model and setting, a column for each budget: mean over seeds with Student's 95 % interval."""
    budgets = sorted(set(table["steps"]))
    rows: list[list[Cell]] = []
    counts: set[int] = set()
    for (label, _), of_setting in table.groupby(["label", "variant"], sort=False):
        seeds = of_setting["seed"].nunique()
        cells: list[Cell] = [str(label), str(seeds)]
        for steps in budgets:
            values = of_setting.loc[of_setting["steps"] == steps, metric].dropna()
            counts.add(len(values))
            short = f" ({len(values)} of {seeds} seeds)" if 0 < len(values) < seeds else ""
            cell = over_seeds(list(values)) if len(values) else MISSING
            cells.append(f"{cell}{short}" if short else cell)
        rows.append(cells)
    name = fid_label(table) if metric == "fid" else METRIC_NAMES.get(metric) or metric_name(table, metric)
    uncertainty = (
        "Mean over seeds ± half of Student's 95 % interval for the mean, of training seeds alone"
        if max(counts, default=0) > 1
        else "One seed each: no interval for training can be told"
    )
    missing = "; – not evaluated" if 0 in counts else ""
    return CellTable(
        name=f"{file_name(metric, distance_of(table))}-{protocol}",
        caption=f"{name} after so many training steps",
        columns=("Model", "Seeds", *(steps_text(steps) for steps in budgets)),
        rows=rows,
        notes=(f"{uncertainty}{missing}.", *_in_epochs(table), *_lags(table)),
    )


def _in_epochs(table: pd.DataFrame) -> list[str]:
    """A note with the budgets in epochs: of all, or of each setting where these differ; none where none is known."""
    if "epochs" not in table or not np.isfinite(table["epochs"]).any():
        return []
    if epochs_each(table, "steps") is not None:
        return [f"Epochs: {_budgets_in_epochs(table)}."]
    return [f"Epochs{of}: {text}." for of, text in _of_settings(table, _budgets_in_epochs)]


def _lags(table: pd.DataFrame) -> list[str]:
    """A note with how old the averages are that were evaluated; none where none is known, or weights are raw."""
    if "lag" not in table or not (table["lag"] > 0).any():
        return []
    return [
        f"The average is behind{of}, in steps and as a share of the budget: {text}."
        for of, text in _of_settings(table[table["lag"] > 0], _lags_at_budgets)
    ]


def _of_settings(table: pd.DataFrame, text: Callable[[pd.DataFrame], str]) -> list[tuple[str, str]]:
    """(whom it is true of, `""` of all, ` of FCDM-N`; the text of their rows), each text once."""
    told: dict[str, list[str]] = {}
    for label, rows in table.groupby("label", sort=False):
        told.setdefault(text(rows), []).append(str(label))
    return [("" if len(told) == 1 else f" of {', '.join(labels)}", one) for one, labels in told.items()]


def _lags_at_budgets(rows: pd.DataFrame) -> str:
    """`25 (12 %) at 200, 50 (12 %) at 400`."""
    at = {steps: (lag, share) for steps, lag, share in zip(rows["steps"], rows["lag"], rows["lag_share"], strict=True)}
    return ", ".join(
        f"{lag:,.0f} ({share_text(share)}) at {steps_text(steps)}" for steps, (lag, share) in sorted(at.items())
    )


def _budgets_in_epochs(rows: pd.DataFrame) -> str:
    """`8.9 at 100, 17.8 at 200`."""
    at = dict(sorted(zip(rows["steps"], rows["epochs"], strict=True)))
    return ", ".join(f"{epochs_text(epochs)} at {steps_text(steps)}" for steps, epochs in at.items())


def measured(table: pd.DataFrame) -> list[str]:
    """The metrics that the table has numbers of, what is under `fid` first; each once, without standard errors."""
    found = [metric for metric in METRICS if metric in table and table[metric].notna().any()]
    kernel = "kid" in found and table["fid"].equals(table["kid"])  # it is under `fid` then
    return [metric for metric in found if not metric.endswith("_se") and not (kernel and metric.startswith("kid"))]


def protocol_rows(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what it is, its value, its key) of a whole protocol, in a reader's order."""
    order = [*(key for key in PROTOCOL_WORDS if key in settings), *sorted(set(settings) - set(PROTOCOL_WORDS))]
    rows = []
    for key in order:
        name, words = PROTOCOL_WORDS.get(key, (key, {}))
        value = settings[key]
        known = words.get(value) if isinstance(value, str | bool | int | float | None) else None
        text = f"{value:,}" if key == "samples" and isinstance(value, int) else str(value)
        rows.append((name, known or text, key))
    return rows


def protocol_sentence(protocol: str, settings: dict[str, Any]) -> str:
    """A footnote: `Evaluated by ddim25-1000-...: Sampler: ddim; ...`."""
    settings_text = "; ".join(f"{name}: {value}" for name, value, _ in protocol_rows(settings))
    return f"Evaluated by {protocol}{f' ({settings_text})' if settings_text else ''}."


AXES = (("train_flops", "training FLOPs"), ("steps", "training steps"))


def fit_tables(table: pd.DataFrame, protocol: str) -> list[CellTable]:
    """One table for each axis; models without a fit stand in it with the reason."""
    return [_fit_table(table, axis, x_text, protocol) for axis, x_text in AXES]


def _fit_table(table: pd.DataFrame, axis: str, x_text: str, protocol: str) -> CellTable:
    laws: dict[str, Fit | str | Frontier] = dict(fits_of(table, axis))
    laws |= {family_frontier(family): made for family, made in frontiers_of(table, axis).items()}
    rows: list[list[Cell]] = []
    notes = [
        "Robust fit of means over seeds; intervals (95 %) hold the seeds and how far the law misses the means. "
        f"Scatter: root mean square of log {distance_of(table)} over the law, by its degrees of freedom. "
        "Outside its range a law says nothing, and what the points do not tell has no numbers."
    ]
    for row in fits_table(laws).to_dict("records"):
        label = str(row["label"])
        law = law_or_reason(laws[label])
        if isinstance(law, str):
            rows.append([label, *[MISSING] * 5])
        else:
            numbers = [offset_text(law), *(_ended(row, name) for name in ("scale", "exponent"))]
            rows.append([label, *numbers, f"{row['from']:.3g} to {row['to']:.3g}", f"{row['scatter']:.1%}"])
        if row["notes"]:
            notes.append(f"{label}: {row['notes']}.")
    notes += [f"{line}." for line in seen_often(table, axis)]
    columns = ("Model", "E", "A", "alpha", f"Range ({x_text})", "Scatter")
    caption = f"{distance_of(table)} = E + A x^-alpha over {x_text}"
    return CellTable(f"fits-{axis.replace('_', '-')}-{protocol}", caption, columns, rows, tuple(notes))


def _ended(row: dict[object, object], name: str) -> str:
    """`4.1 (3.9 to 4.3)`."""
    value, low, high = (float(str(row[key])) for key in (name, f"{name}_low", f"{name}_high"))
    return number(value) + (f" ({ends_text(low, high)})" if np.isfinite([low, high]).all() else "")
