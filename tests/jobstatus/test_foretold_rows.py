"""`fcdm.status` shows the forecast of a budget, and once that is measured how it came out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fcdm import status
from fcdm.forecasts.chain import append, entry_path
from fcdm.forecasts.entries import ForecastWithdrawal
from tests.support.fake_runs import PROTOCOL, fid_at, make_run, make_study, protocol_id
from tests.support.forecast_entries import an_entry


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run that is asked for 800 steps and measured until 400; both are foretold, 800 thrice: the first is withdrawn,
    the second counts."""
    folder = make_run(tmp_path, budgets=(400,), grids=False)
    make_study(tmp_path, [folder], budgets=(400, 800))
    identity = json.loads((folder / "run.json").read_text())["id"]
    for steps, median in ((400, fid_at("N", 400) * 0.97), (800, 50.0), (800, 12.0), (800, 30.0)):
        entry = an_entry(
            median, steps=steps, protocol_id=protocol_id(PROTOCOL), kind="hold-out" if steps == 400 else "continuation"
        )
        append(tmp_path / "forecasts", replace(entry, run=replace(entry.run, id=identity, name=folder.name)))
    append(tmp_path / "forecasts", ForecastWithdrawal(2, "its data were wrong"))
    return tmp_path


def shown(runs: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert status.main(["--runs", str(runs), *words]) == 0
    return capsys.readouterr().out


def test_a_budget_has_its_forecast_beside_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(runs, capsys).splitlines()
    (done,) = [line for line in lines if "  400  " in line]
    (left,) = [line for line in lines if "  800  " in line]
    assert done.endswith(f"FID {fid_at('N', 400):.2f}, forecast FID {fid_at('N', 400) * 0.97:.4g}: -3.0%, held")
    assert left.endswith("forecast FID 12 (9.28 to 15.52)")
    rows = {row["budget"]: row for row in json.loads(shown(runs, capsys, "--json"))}
    assert rows[800]["forecast"] == "forecast FID 12 (9.28 to 15.52)"


def test_a_ledger_that_was_edited_is_a_line_and_keeps_no_row_away(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = entry_path(runs / "forecasts", 1)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    text = shown(runs, capsys)
    assert f"FID {fid_at('N', 400):.2f}\n" in text
    assert "no forecasts are shown: " in text
    assert "000001.json was changed since it was written" in text
