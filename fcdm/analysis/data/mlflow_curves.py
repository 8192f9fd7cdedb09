"""The same curves out of an MLflow store, for people who have the store and not the folders.

Reads what `fcdm.tracking.forward` wrote: its docstring says which tags hold what.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from fcdm import credentials
from fcdm.analysis.data.curves import METRICS, EvaluatedStep, RunCurves, curve, evaluated_budgets, with_shown
from fcdm.errors import UserError
from fcdm.features.distance_names import shown_of
from fcdm.tracking.mlflow_store import EXPERIMENT, missing_package, reason, store_uri


def curves_in_mlflow(uri: str) -> list[RunCurves]:
    """Every run of the experiment `fcdm`. Raises UserError where the store cannot be read."""
    uri = store_uri("", uri)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith("sqlite:///") and not os.path.exists(uri.removeprefix("sqlite:///")):  # noqa: PTH110
        raise UserError(f"no MLflow store at {uri}: make it with `python -m fcdm.sync`, or read the runs' folder")
    import mlflow
    import requests
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # else it tells of every retry
    try:
        client = mlflow.MlflowClient(credentials.whole(uri))
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            raise UserError(f"{uri} has no experiment '{EXPERIMENT}': forward runs to it with `python -m fcdm.sync`")
        found: list[Any] = []
        token = None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                break
        return [_read(uri, client, run) for run in found if "fcdm.run_id" in run.data.tags]
    except ImportError as error:
        raise missing_package(uri, error) from None
    except (mlflow.exceptions.MlflowException, requests.RequestException, SQLAlchemyError, OSError) as error:
        if isinstance(error, requests.ConnectionError | requests.Timeout) or "failed with exception" in str(error):
            raise UserError(f"MLflow at {uri} does not answer: start it, or read the runs' folder") from None
        raise UserError(f"MLflow at {uri} cannot be read: {reason(error)}") from None


def _read(uri: str, client: Any, run: Any) -> RunCurves:
    """`_curves`. Raises UserError, naming the run, where its tags are not what `fcdm.tracking.forward` writes."""
    try:
        return _curves(client, run)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise UserError(
            f"MLflow at {uri}: run '{run.info.run_name}' ({run.info.run_id}) has tags or parameters that cannot be "
            f"read ({why}): forward it again with `python -m fcdm.sync`"
        ) from None


def _curves(client: Any, run: Any) -> RunCurves:
    tags, params = run.data.tags, run.data.params
    headline = tags.get("fcdm.headline", "")

    def history(key: str) -> dict[int, float]:
        if key not in run.data.metrics:
            return {}
        return {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}

    evaluated = []
    devices = tags.get("world_sizes", "")
    trained = history("train_seconds")
    for protocol_id, steps in json.loads(tags.get("fcdm.forwarded", "{}")).get("judged", {}).items():
        suffix = "" if protocol_id == headline else f"/{protocol_id}"
        metrics = {key: history(f"{key}{suffix}") for key in METRICS}
        for step in sorted(steps):
            values = {key: points[step] for key, points in metrics.items() if step in points}
            seconds = trained.get(step)
            # A run that changed its number of devices on the way tells its device-seconds in its folder only.
            device_seconds = seconds * int(devices) if seconds is not None and devices.isdigit() else None
            shown = shown_of(values) or "fid"
            evaluated.append(
                EvaluatedStep(step, protocol_id, with_shown(values, shown), seconds, device_seconds, shown=shown)
            )
    protocols = {k.removeprefix("protocol."): json.loads(v) for k, v in tags.items() if k.startswith("protocol.")}
    for one in evaluated:
        if told := protocols.get(one.protocol_id):
            told["floor"] = with_shown(told["floor"], one.shown)
    studies, by_protocol = {}, {}
    for key, value in tags.items():
        if key.startswith("study."):
            name = key.removeprefix("study.")
            parts = (part.split(": ") for part in value.split("; "))  # the run's own headline stands first
            asked = {protocol: tuple(map(int, budgets.split(","))) for protocol, budgets in parts}
            studies[name] = (tags.get(f"study_protocol.{name}", next(iter(asked))), evaluated_budgets(asked))
            by_protocol[name] = asked
    return RunCurves(
        name=run.info.run_name,
        model=tags["model"],
        family=tags["family"],
        data=tags["data"],
        config={key: value for key, value in params.items() if not key.startswith("cost.")},
        cost={key.removeprefix("cost."): float(value) for key, value in params.items() if key.startswith("cost.")},
        training={key: curve(list(history(key).items())) for key in ("loss", "images_per_s")},
        evaluated=evaluated,
        device=tags.get("places", ""),
        protocols=protocols,
        studies=studies,
        asked=by_protocol,
    )
