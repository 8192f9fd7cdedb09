"""What `analysis/forecast.ipynb` shows of a study's laws and of the committed ledger, and of what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import notebook
from fcdm.analysis.forecast_notebook import (
    checklists,
    hold_outs_of_laws,
    joint_results,
    law_pictures,
    law_words,
    ledger_pictures,
    ledger_tables,
    ledger_words,
    scored_results,
)
from fcdm.errors import UserError
from fcdm.forecasts.chain import append
from fcdm.forecasts.entries import ForecastWithdrawal
from tests.support.forecast_entries import an_entry
from tests.support.known_surface import study

SIZES, BUDGETS = np.geomspace(2e7, 3.2e8, 5), (1_000, 2_000, 4_000, 8_000)


def write(folder: Path, table: pd.DataFrame, name: str = "mine") -> None:
    table.drop(columns=["grid", "grid_columns"]).to_csv(folder / f"{name}.csv", index=False)


def test_the_digits_of_one_size_a_family_have_one_line_and_nothing_below() -> None:
    digits = joint_results("digits")
    assert [one.metric for one in digits] == ["heldout_loss", "fid"]
    assert law_words(digits) == ["no joint law: it needs 4 sizes of a family, and no family here has two"]
    assert hold_outs_of_laws(digits) == checklists(digits) == law_pictures(digits) == []


def test_a_study_with_enough_sizes_has_words_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    table = study(2, sizes=SIZES, budgets=BUDGETS, families=("fcdm",), of_seed=0.01, of_evaluation=0.005)
    write(tmp_path, table.assign(heldout_loss=np.nan))
    write(tmp_path, table.assign(fid=np.nan), "losses")
    mine = joint_results("mine", draws=40)
    words = law_words(mine)
    assert words[0].startswith("FCDM: fid = ")
    assert not any("without the largest" in line for line in words)
    (held,), (listed,) = hold_outs_of_laws(mine), checklists(mine)
    assert "Held out of the joint laws of FID" in repr(held)
    assert "40 points of 10 runs" in repr(listed)
    pictures = law_pictures(mine)
    assert [repr(picture).split("\n")[0] for picture in pictures] == [
        f"fid_{kind}" for kind in ("contours", "iso_flop", "optimum", "law_residuals", "predicted")
    ]
    both = joint_results("mine", losses="losses", draws=4)
    assert [(one.metric, set(one.told)) for one in both] == [("heldout_loss", {"FCDM"}), ("fid", {"FCDM"})]
    with pytest.raises(UserError, match="no results 'tuning'"):
        joint_results("mine", tuning="tuning")


def test_the_published_ledger_is_scored_by_the_committed_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    assert ledger_words(scored_results()) == ["no forecast is published yet"]
    assert ledger_tables([]) == ledger_pictures([]) == []
    folder = tmp_path / "forecasts"
    folder.mkdir()
    entry = append(folder, an_entry())
    append(folder, an_entry(run="b"))
    append(folder, ForecastWithdrawal(2, "wrong"))
    row = {"run": entry.run.name, "steps": 800, "protocol_id": entry.protocol_id, "fid": 10.5, "heldout_loss": ""}
    pd.DataFrame([row]).to_csv(tmp_path / "demo.csv", index=False)
    scored = scored_results()
    assert [one.state for one in scored] == ["held", "withdrawn"]
    assert ledger_words(scored)[0] == "2 predictions of FID: 1 held, 0 failed, 1 withdrawn"
    assert len(ledger_tables(scored)) == 2
    (picture,) = ledger_pictures(scored)
    assert picture._repr_png_()[:4] == b"\x89PNG"
    assert scored_results("another") == []
    path = folder / "000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps": 900}))
    with pytest.raises(UserError, match="was changed since it was written"):
        scored_results()
