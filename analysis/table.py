"""One tidy table of a study: a row per run and judged step. `python -m analysis.table [--runs DIR] [--study NAME]`.

Results of different protocols are never mixed unnoticed: a table has one protocol.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fcdm.errors import UserError
from fcdm.runs.identity import NOT_IDENTITY
from fcdm.runs.reader import RunView, list_runs, list_studies

METRICS = ("fid", "fid_heldout", "fid_pixels", "fid_pixels_heldout", "heldout_loss")
COLUMNS = (
    *("run", "model", "family", "data", "resolution", "seed", "batch_size", "lr", "steps", "protocol_id"),
    *METRICS,
    *("loss", "parameters", "forward_gmacs", "train_pflops", "images_per_s", "seconds"),
    *("label", "variant", "samples", "floor", "grid", "grid_columns"),
)
"""`seconds`: training's wall time. `images_per_s`: median so far. `label`: the line's name in figures; runs that
differ in nothing but the seed share a `variant`. `floor`: FID of real images. `grid`: picture of the samples."""

INTERNAL = ("variant", "grid", "grid_columns")
"""Columns that are of no use outside."""

NOT_A_VARIANT = ("seed", *NOT_IDENTITY)


@dataclass
class Judged:
    """One evaluation, whatever store it came from."""

    step: int
    protocol_id: str
    metrics: dict[str, float]
    seconds: float | None
    grid: Path | None = None
    grid_columns: int = 1


@dataclass
class RunCurves:
    """What the table needs of one run, whatever store it came from."""

    name: str
    model: str
    family: str
    data: str
    config: dict[str, str]
    """The science config, flat, as texts."""
    cost: dict[str, float]
    training: dict[str, tuple[np.ndarray, np.ndarray]]
    """Key -> (steps, values), in order of steps."""
    judged: list[Judged]
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Protocol id -> {"protocol": {...}, "floor": {...}}."""
    studies: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Study -> (its headline protocol, that of its last command; budgets, by whatever protocol)."""


def tidy_table(source: Path | str, study: str | None = None, protocol: str | None = None) -> pd.DataFrame:
    """One row per run and judged step, with COLUMNS, by label, seed and steps.

    `source`: folder of runs, or MLflow URI (`sqlite:///...`, `http://...`). `study`: only its runs and budgets,
    judged by its headline protocol. `protocol`: an id; needed where there are several and no study says which.
    `attrs["left_out"]` of the table: lines that say which results of other protocols it leaves out unasked.
    Raises UserError where there is nothing, or several protocols with no way to choose.
    """
    if "://" in str(source):
        from analysis.mlflow_source import curves_in_mlflow

        curves = curves_in_mlflow(str(source))
    else:
        if study is not None:
            study_names = [found.name for found in list_studies(source)]
            if study not in study_names:
                raise UserError(f"no study '{study}' in {source}; there: {', '.join(study_names) or 'none yet'}")
        curves = [_curves(view) for view in list_runs(source)]
    if not curves:
        raise UserError(f"no runs in {source} yet: train first, or name another folder with --runs")
    if study is not None:
        there = sorted({name for run in curves for name in run.studies})
        curves = [run for run in curves if study in run.studies]
        if not curves:
            raise UserError(f"study '{study}' has no run in {source} yet; studies there: {', '.join(there) or 'none'}")
    chosen = choose_protocol(curves, study, protocol)
    labels = _labels(curves)
    counted = [
        (run, judged)
        for run in curves
        for judged in run.judged
        if study is None or judged.step in run.studies[study][1]
    ]
    rows = [_row(run, judged, *labels[run.name]) for run, judged in counted if judged.protocol_id == chosen]
    others: dict[str, set[str]] = {}
    for run, judged in counted:
        if judged.protocol_id != chosen:
            others.setdefault(judged.protocol_id, set()).add(run.name)
    if not rows:
        instead = f", only by {' and '.join(sorted(others))} (--protocol ID)" if others else ""
        raise UserError(
            f"no run in {source} has been judged by {chosen} yet{instead}: let a budget be reached and evaluated"
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.sort_values(["label", "seed", "run", "steps"], ignore_index=True)
    table.attrs["left_out"] = [
        f"left out: {len(runs)} run{'s' if len(runs) > 1 else ''} judged by {other}: --protocol {other} draws "
        f"{'them' if len(runs) > 1 else 'it'}"
        for other, runs in sorted(others.items())
        if protocol is None
    ]
    return table


def choose_protocol(curves: Sequence[RunCurves], study: str | None, protocol: str | None) -> str:
    """The one protocol of a table. Raises UserError, with what differs, where there are several to choose from."""
    judged_by = sorted({judged.protocol_id for run in curves for judged in run.judged})
    if protocol is not None:
        if protocol not in judged_by:
            raise UserError(f"nothing was judged by '{protocol}'; there: {', '.join(judged_by) or 'nothing yet'}")
        return protocol
    if study is not None:
        return next(run.studies[study][0] for run in curves)
    if not judged_by:
        raise UserError("no run has been judged yet: let one reach its first budget and be evaluated")
    headlines = {run_study[0] for run in curves for run_study in run.studies.values()} & set(judged_by)
    if len(judged_by) == 1 or len(headlines) == 1:
        return headlines.pop() if len(headlines) == 1 else judged_by[0]
    known = {key: value["protocol"] for run in curves for key, value in run.protocols.items()}
    raise UserError(
        f"the runs were judged by {len(judged_by)} protocols, whose numbers cannot be compared "
        f"({protocol_differences({key: known.get(key, {}) for key in judged_by})}): "
        "choose with --protocol ID or --study NAME"
    )


def protocol_differences(protocols: dict[str, dict[str, Any]]) -> str:
    """`sampling_steps: 25 in ddim25-..., 10 in ddim10-...; ...`: only what is not the same in all."""
    differing = []
    for key in sorted({key for protocol in protocols.values() for key in protocol}):
        values = {name: protocol.get(key, "not recorded") for name, protocol in protocols.items()}
        if len({str(value) for value in values.values()}) > 1:
            differing.append(f"{key}: " + ", ".join(f"{value} in {name}" for name, value in values.items()))
    return "; ".join(differing) or f"not told apart by what was recorded: {', '.join(protocols)}"


def display_name(model: str, family: str) -> str:
    """`dit/XL-2` -> `DiT-XL/2`; `XL` -> `FCDM-XL`: as in the papers."""
    size = model.rsplit("/", 1)[-1]
    return f"DiT-{size.replace('-', '/', 1)}" if family == "dit" else f"{family.upper()}-{size}"


def _labels(curves: Iterable[RunCurves]) -> dict[str, tuple[str, str]]:
    """Run -> (label, variant). A label names what sets a variant apart from its namesakes: `FCDM-N lr=0.001`."""
    by_name: dict[str, dict[str, dict[str, str]]] = {}
    variant_of = {}
    for run in curves:
        config = {key: value for key, value in run.config.items() if key not in NOT_A_VARIANT}
        variant_of[run.name] = variant = ",".join(f"{key}={config[key]}" for key in sorted(config))
        by_name.setdefault(display_name(run.model, run.family), {})[variant] = config
    labels = {}
    for run in curves:
        name = display_name(run.model, run.family)
        variants = by_name[name]
        own = variants[variant_of[run.name]]
        keys = sorted({key for config in variants.values() for key in config})
        differing = [key for key in keys if len({config.get(key) for config in variants.values()}) > 1]
        suffix = "".join(f" {key.rsplit('.', 1)[-1]}={own.get(key, 'none')}" for key in differing)
        labels[run.name] = (name + suffix, variant_of[run.name])
    return labels


def _row(run: RunCurves, judged: Judged, label: str, variant: str) -> dict[str, Any]:
    told = run.protocols.get(judged.protocol_id, {"protocol": {}, "floor": {}})
    batch = int(run.config["batch_size"])
    macs = run.cost["forward_macs"]
    speeds = _until(run, "images_per_s", judged.step)
    losses = _until(run, "loss", judged.step)
    return {
        "run": run.name,
        "model": run.model,
        "family": run.family,
        "data": run.data,
        "resolution": int(run.config["resolution"]),
        "seed": int(run.config["seed"]),
        "batch_size": batch,
        "lr": float(run.config.get("optimiser.lr", "nan")),
        "steps": judged.step,
        "protocol_id": judged.protocol_id,
        **{key: judged.metrics.get(key, np.nan) for key in METRICS},
        "loss": losses[-1] if len(losses) else np.nan,
        "parameters": int(run.cost["parameters"]),
        "forward_gmacs": macs / 1e9,
        # A training step costs three forward passes, a multiply-accumulate two operations (DiT's convention).
        "train_pflops": 3 * 2 * macs * batch * judged.step / 1e15,
        "images_per_s": float(np.median(speeds)) if len(speeds) else np.nan,
        "seconds": np.nan if judged.seconds is None else judged.seconds,
        "label": label,
        "variant": variant,
        "samples": told["protocol"].get("samples", -1),
        "floor": told["floor"].get("fid", np.nan),
        "grid": judged.grid,
        "grid_columns": judged.grid_columns,
    }


def _until(run: RunCurves, key: str, step: int) -> np.ndarray:
    steps, values = run.training.get(key, (np.empty(0), np.empty(0)))
    return values[: np.searchsorted(steps, step, side="right")]


def _curves(view: RunView) -> RunCurves:
    points: dict[str, list[tuple[int, float]]] = {"loss": [], "images_per_s": []}
    for _, (step, _, key, value) in view.training_scalars():
        if key in points:
            points[key].append((step, value))
    return RunCurves(
        name=view.name,
        model=view.model,
        family=view.family,
        data=view.data,
        config=view.flat_config,
        cost=view.cost,
        training={key: curve(found) for key, found in points.items()},
        judged=[
            Judged(e.step, e.protocol_id, e.metrics, view.training_seconds(e.step), e.grid, e.grid_columns)
            for e in view.evaluations
        ],
        protocols={e.protocol_id: {"protocol": e.protocol, "floor": e.floor} for e in view.evaluations if e.protocol},
        studies={study.name: (study.protocol_id, study.budgets(view.id)) for study in view.studies},
    )


def curve(points: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), each of shape (n,), in order of steps."""
    ordered = np.array(sorted(points), dtype=float).reshape(-1, 2)
    return ordered[:, 0], ordered[:, 1]


def main(arguments: list[str] | None = None) -> int:
    """Print the table as CSV."""
    parser = argparse.ArgumentParser(prog="python -m analysis.table", description="The tidy table of a study, as CSV.")
    parser.add_argument("--runs", default="runs", help="folder of the runs, or MLflow URI (default: runs)")
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were judged by several")
    options = parser.parse_args(arguments)
    try:
        table = tidy_table(options.runs, options.study, options.protocol)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    for line in table.attrs["left_out"]:
        print(line, file=sys.stderr)
    table.drop(columns=list(INTERNAL)).to_csv(sys.stdout, index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
