"""One tidy table of a study: a row per run and evaluated step.

Results of different protocols are never mixed unnoticed: a table has one protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fcdm.analysis.data.curves import METRICS, EvaluatedStep, RunCurves, curve, evaluated_budgets, with_shown
from fcdm.analysis.data.epochs import images_of_epoch
from fcdm.analysis.data.labels import (
    Names,
    cooldown_share,
    differing_settings,
    distance_of,
    in_order_of_size,
    labels_of,
)
from fcdm.analysis.data.noise import NOISE, evaluation_noise, same_but
from fcdm.analysis.data.one_protocol import choose_protocol, protocol_differences
from fcdm.config.ema_lag import ema_lag
from fcdm.config.schema import EMAConfig
from fcdm.errors import UserError
from fcdm.features.distance_names import headline_name, shown_of
from fcdm.runs.reader import RunView, list_runs, read_study

LOSS_BINS = tuple(f"heldout_loss_{number}" for number in range(1, 11))
COLUMNS = (
    *(
        "run",
        "model",
        "family",
        "data",
        "resolution",
        "seed",
        "batch_size",
        "lr",
        "warmup_steps",
        "steps",
        "images",
        "epochs",
        "lag",
        "lag_share",
        "protocol_id",
        "guidance_scale",
    ),
    *METRICS,
    *LOSS_BINS,
    *("loss", "parameters", "forward_gmacs", "train_flops", "images_per_s", "seconds", "device_seconds", "device"),
    *(
        "label",
        "variant",
        "cooldown",
        "trajectory",
        "samples",
        "floor",
        "floor_sd",
        "floor_pixels",
        "floor_heldout",
        "floor_pixels_heldout",
    ),
    *("noise", "noise_pixels", "noise_heldout", "noise_pixels_heldout", "noise_repeats"),
    *("settings", "grid", "grid_columns", "distance"),
)
"""`heldout_loss_1` to `_10`: the held-out loss in equal bins of diffusion time, from data to noise; `heldout_loss` is
their mean; NaN of MLflow.
`images`: steps times the batch; `epochs`: over the images that are trained on, NaN where their number is not known.
`lag`: how many steps the weights that were evaluated are old in the mean (`fcdm.config.ema_lag`), of the EMA; 0 of raw
weights; NaN of other averages, and where that was not recorded. `lag_share`: over the steps.
`seconds`: training's wall time, of a branch with its parent's; `device_seconds`: times devices; `device`: what it
trained on, several joined by +. `images_per_s`: median so far. `label`: the line's name in figures; runs that differ in
nothing but the seed share a `variant`, and so do branches of one share. `cooldown`: that share of a branch's steps, in
which its rate falls to 0; NaN of a rate that goes on. `trajectory`: what is resampled as a whole: a run, or all
branches of one parent and share. `floor`: FID of real images, `floor_sd` how far it varies from draw to draw, the
others for the other distances (held-out ones: training images against held-out ones). `noise`, of each distance: its
relative standard deviation over evaluations that differ in their seed alone, with `noise_repeats` degrees of freedom,
one number for the table; NaN: not measured. `settings`: the batch and what differs between runs of the table, without
models, data and seeds. `grid`: picture of the samples. `distance`: what is under `fid`, by its name: FID, FD-DINOv2, or
a kernel distance where there were too few samples for a Fréchet distance."""

FLOORS = {
    "floor": "fid",
    "floor_sd": "fid_sd",
    "floor_pixels": "fid_pixels",
    "floor_heldout": "fid_heldout_against_train",
    "floor_pixels_heldout": "fid_pixels_heldout_against_train",
}
"""Column -> its name in an evaluation's `floor`."""

INTERNAL = ("variant", "grid", "grid_columns")
"""Columns that are of no use outside."""


def tidy_table(source: Path | str, study: str | None = None, protocol: str | None = None) -> pd.DataFrame:
    """One row per run and evaluated step, with COLUMNS, by size, label, seed and steps.

    `source`: folder of runs, or MLflow URI (`sqlite:///...`, `http://...`). `study`: only its runs and budgets,
    evaluated by its headline protocol. `protocol`: an id; needed where there are several and no study says which.
    `attrs["left_out"]` of the table: lines that say which results of other protocols it leaves out unasked.
    `attrs["protocol"]`: the protocol itself, as far as it was recorded. `attrs["missing"]`: lines that name what the
    study asked for and nobody has evaluated yet. `attrs["settings"]`: label -> the config's keys and values that set it
    apart from the same model's other settings. `attrs["protocols"]`: id -> protocol, several where a table joins them.
    `attrs["runs_dir"]`: `source`. `attrs["instead"]`: a line where a kernel distance stands in the place of FID.
    Raises UserError where there is nothing, or several protocols with no way to choose.
    """
    return table_of(read_curves(source, study), source, study, protocol)


def read_curves(source: Path | str, study: str | None = None) -> list[RunCurves]:
    """Every run of a source, or of one of its studies. Raises UserError where there is none."""
    if "://" in str(source):
        from fcdm.analysis.data.mlflow_curves import curves_in_mlflow

        curves = curves_in_mlflow(str(source))
    else:
        if study is not None and not read_study(source, study).requests:
            raise UserError(f"study '{study}' is there in {source} and empty: it asks for no run yet; launch it")
        curves = [_curves(view) for view in list_runs(source)]
    if not curves:
        raise UserError(f"no runs in {source} yet: train first, or name another folder with --runs")
    if study is not None:
        there = sorted({name for run in curves for name in run.studies})
        curves = [run for run in curves if study in run.studies]
        if not curves:
            raise UserError(
                f"study '{study}': none of its runs is in {source} yet; studies with runs there: "
                f"{', '.join(there) or 'none'}"
            )
    return curves


def table_of(
    curves: Sequence[RunCurves], source: Path | str, study: str | None = None, protocol: str | None = None
) -> pd.DataFrame:
    """`tidy_table` of runs that were read before; `source` is for what is said."""
    chosen = choose_protocol(curves, study, protocol)
    labels, settings = labels_of(curves)
    counted = [
        (run, evaluated)
        for run in curves
        for evaluated in run.evaluated
        if study is None or evaluated.step in run.studies[study][1]
    ]
    rows = [row_of(run, evaluated, labels[run.name]) for run, evaluated in counted if evaluated.protocol_id == chosen]
    others: dict[str, set[str]] = {}
    for run, evaluated in counted:
        if evaluated.protocol_id != chosen:
            others.setdefault(evaluated.protocol_id, set()).add(run.name)
    if not rows:
        instead = f", only by {' and '.join(sorted(others))} (--protocol ID)" if others else ""
        raise UserError(
            f"no run in {source} has been evaluated by {chosen} yet{instead}: let a budget be reached and evaluated"
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = in_order_of_size(table, "label", "seed", "trajectory", "steps")
    known = {key: value["protocol"] for run, _ in counted for key, value in run.protocols.items()}
    told_apart = differing_settings([run for run, _ in counted])
    table["settings"] = table["run"].map(told_apart)
    table = table.assign(**evaluation_noise(curves, known.get(chosen, {})))
    repeats = {key for key, protocol in known.items() if same_but(("seed",), protocol, known.get(chosen, {}))}
    table.attrs["left_out"] = [
        f"left out: {len(runs)} run{'s' if len(runs) > 1 else ''} evaluated by {other} "
        f"({protocol_differences({chosen: known.get(chosen, {}), other: known.get(other, {})})}): --protocol {other} "
        f"draws {'them' if len(runs) > 1 else 'it'}"
        for other, runs in sorted(others.items())
        if protocol is None and other not in repeats
    ]
    told = (run.protocols[chosen]["protocol"] for run, _ in counted if run.protocols.get(chosen, {}).get("protocol"))
    table.attrs["protocol"] = dict(next(told, {}))
    table.attrs["protocols"] = {chosen: table.attrs["protocol"]}
    table.attrs["runs_dir"] = str(source)
    table.attrs["settings"] = settings
    table.attrs["instead"] = _instead(table, [evaluated for _, evaluated in counted if evaluated.protocol_id == chosen])
    table.attrs["missing"] = _missing(curves, study, chosen, labels) if study is not None else []
    return table


def _instead(table: pd.DataFrame, evaluated: Sequence[EvaluatedStep]) -> list[str]:
    """A line where a kernel distance is shown."""
    if not any(one.shown == "kid" for one in evaluated):
        return []
    return [
        f"shown: {distance_of(table)} (with its standard error in kid_se): {int(table['samples'].max()):,} samples, "
        "or the real images that they are compared with, are too few for a Fréchet distance in these features"
    ]


def by_key(table: pd.DataFrame) -> pd.DataFrame:
    """The table by the keys of an evaluation's file: nothing under `fid` where a kernel distance was put there."""
    fids = [column for column in METRICS if column.startswith("fid")]
    kernel = table["fid"].eq(table["kid"])
    return table.assign(**{column: table[column].mask(kernel) for column in fids})


def _missing(curves: Sequence[RunCurves], study: str, chosen: str, labels: dict[str, Names]) -> list[str]:
    """A line for each run that lacks budgets. Of a protocol that the study asks for, only of what it asks by that."""
    lines = []
    by_chosen = any(chosen in run.asked.get(study, {}) for run in curves)
    for run in curves:
        evaluated = {one.step for one in run.evaluated if one.protocol_id == chosen}
        asked = run.asked[study].get(chosen, ()) if by_chosen else run.studies[study][1]
        budgets = [budget for budget in asked if budget not in evaluated]
        if budgets:
            name, seed = labels[run.name].label, run.config["seed"]
            lines.append(
                f"not evaluated yet: {name}, seed {seed}, at {', '.join(f'{b:,}' for b in budgets)} ({run.name})"
            )
    return sorted(lines)


def row_of(run: RunCurves, evaluated: EvaluatedStep, names: Names) -> dict[str, Any]:
    """One row of a table, with COLUMNS."""
    told = run.protocols.get(evaluated.protocol_id, {"protocol": {}, "floor": {}})
    batch = int(run.config["batch_size"])
    lag = _lag(run.config, told["protocol"].get("weights"), evaluated.step)
    macs = run.cost["forward_macs"]
    speeds = _until(run, "images_per_s", evaluated.step)
    losses = _until(run, "loss", evaluated.step)
    return {
        "run": run.name,
        "model": run.model,
        "family": run.family,
        "data": run.data,
        "resolution": int(run.config["resolution"]),
        "seed": int(run.config["seed"]),
        "batch_size": batch,
        "lr": float(run.config.get("optimiser.lr", "nan")),
        "warmup_steps": float(run.config.get("optimiser.warmup_steps", "nan")),
        "steps": evaluated.step,
        "images": evaluated.step * batch,
        "epochs": evaluated.step * batch / images_of_epoch(run.data, run.config),
        "lag": lag,
        "lag_share": lag / evaluated.step,
        "protocol_id": evaluated.protocol_id,
        "guidance_scale": float(told["protocol"].get("guidance_scale", np.nan)),
        **{key: evaluated.metrics.get(key, np.nan) for key in METRICS},
        **dict(zip(LOSS_BINS, (*evaluated.loss_bins, *[np.nan] * len(LOSS_BINS)), strict=False)),
        "loss": losses[-1] if len(losses) else np.nan,
        "parameters": int(run.cost["parameters"]),
        "forward_gmacs": macs / 1e9,
        # A training step costs three forward passes, a multiply-accumulate two operations (DiT's convention).
        "train_flops": 3.0 * 2 * macs * batch * evaluated.step,  # a float: beyond 64 bits at XL
        "images_per_s": float(np.median(speeds)) if len(speeds) else np.nan,
        "seconds": np.nan if evaluated.seconds is None else evaluated.seconds,
        "device_seconds": np.nan if evaluated.device_seconds is None else evaluated.device_seconds,
        "device": run.device,
        "label": names.label,
        "variant": names.variant,
        "cooldown": cooldown_share(run.config),
        "trajectory": names.trajectory,
        "samples": told["protocol"].get("samples", -1),
        **{column: told["floor"].get(name, np.nan) for column, name in FLOORS.items()},
        **dict.fromkeys((*NOISE.values(), "noise_repeats"), np.nan),  # of a whole table: `table_of`
        "settings": None,  # of a whole table, too
        "grid": evaluated.grid,
        "grid_columns": evaluated.grid_columns,
        "distance": headline_name(evaluated.shown, told["protocol"]),
    }


def _lag(config: Mapping[str, str], weights: str | None, step: int) -> float:
    """Mean age in steps of what was evaluated, by a flat configuration; NaN: not told."""
    if weights == "raw":
        return 0.0
    known = {key: config.get(f"ema.{key}", "") for key in ("decay", "rampup")}
    if weights != "ema" or "" in known.values():
        return float("nan")
    return ema_lag(EMAConfig(**{key: None if text == "None" else float(text) for key, text in known.items()}), step).age


def _until(run: RunCurves, key: str, step: int) -> np.ndarray:
    steps, values = run.training.get(key, (np.empty(0), np.empty(0)))
    return values[: np.searchsorted(steps, step, side="right")]


def _curves(view: RunView) -> RunCurves:
    return RunCurves(
        name=view.name,
        model=view.model,
        family=view.family,
        data=view.data,
        config=view.flat_config,
        cost=view.cost,
        training={key: curve(view.training_series(key)) for key in ("loss", "images_per_s")},
        evaluated=[
            EvaluatedStep(
                step=e.step,
                protocol_id=e.protocol_id,
                metrics=with_shown(e.metrics, shown_of(e.metrics)),
                shown=shown_of(e.metrics) or "fid",
                seconds=view.training_seconds(e.step),
                device_seconds=view.training_device_seconds(e.step),
                grid=e.grid,
                grid_columns=e.grid_columns,
                loss_bins=e.loss_bins,
            )
            for e in view.evaluations
        ],
        device=" + ".join(view.places),
        protocols={
            e.protocol_id: {"protocol": e.protocol, "floor": with_shown(e.floor, shown_of(e.metrics))}
            for e in view.evaluations
            if e.protocol
        },
        studies={study.name: (study.protocol_id, evaluated_budgets(study.asked(view.id))) for study in view.studies},
        asked={study.name: study.asked(view.id) for study in view.studies},
    )
