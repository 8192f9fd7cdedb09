"""Forecasts and their scores in MLflow: sent once, the score when there is one, and nothing of a broken ledger."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fcdm.forecasts.chain import append, entry_path
from fcdm.forecasts.entries import ForecastWithdrawal
from fcdm.tracking.forward import Forwarder
from tests.support.fake_runs import PROTOCOL, evaluate, fid_at, make_run, protocol_id
from tests.support.forecast_entries import an_entry

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves its connections to the collector
]


def stored(runs: Path, table: str) -> dict[str, str | float]:
    """key -> value of all that is told of forecasts."""
    connection = sqlite3.connect(runs / "mlflow.db", timeout=30)
    try:
        return dict(connection.execute(f"select key, value from {table} where key like 'forecast%'").fetchall())
    finally:
        connection.close()


def test_a_forecast_is_forwarded_and_once_it_is_measured_its_score(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = make_run(tmp_path, budgets=(100,), grids=False)
    identity = json.loads((folder / "run.json").read_text())["id"]
    for median, kind in ((50.0, "continuation"), (12.0, "continuation"), (30.0, "continuation"), (40.0, "hold-out")):
        entry = an_entry(median, protocol_id=protocol_id(PROTOCOL), kind=kind)
        append(tmp_path / "forecasts", replace(entry, run=replace(entry.run, id=identity, name=folder.name)))
    append(tmp_path / "forecasts", ForecastWithdrawal(1, "its data were wrong"))
    forwarder = Forwarder(tmp_path)
    assert forwarder.forward().problems == []
    assert stored(tmp_path, "tags") == {
        "forecast.fid.800": "forecast FID 12 (9.28 to 15.52), continuation, entry 2",
    }
    rows = stored(tmp_path, "metrics")
    assert rows["forecast_fid"] == pytest.approx(12)
    assert set(rows) == {"forecast_fid", "forecast_fid_low", "forecast_fid_high"}
    assert forwarder.forward().points == 0, "once"

    evaluate(folder, "N", 800, 4e9, grids=False)
    assert forwarder.forward(changed_only=True).problems == []
    error = stored(tmp_path, "metrics")["forecast_fid_error"]
    assert isinstance(error, float)
    assert 12 / 2.718281828**error == pytest.approx(fid_at("N", 800))
    assert {"forecast_fid_pit", "forecast_fid_crps", "forecast_fid_log_score", "forecast_fid_compute"} < set(
        stored(tmp_path, "metrics")
    )
    assert str(stored(tmp_path, "tags")["forecast.fid.800"]).startswith("forecast FID 12: ")
    assert forwarder.forward().points == 0, "once"

    path = entry_path(tmp_path / "forecasts", 1)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    (problem,) = forwarder.forward().problems
    assert problem.startswith("no forecasts are forwarded: ")
    assert "forecast.fid.800" in stored(tmp_path, "tags"), "what was told stands"
