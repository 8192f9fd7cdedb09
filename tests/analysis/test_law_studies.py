"""Our studies of laws: their pages say what `analysis/results/` holds, and every forecast is scored by it."""

from __future__ import annotations

import pytest

from fcdm.analysis.data.diverged_runs import diverged
from fcdm.analysis.forecast_notebook import scored_results
from fcdm.analysis.notebook import load_results
from tests.support.written_page import written_and_made
from tools.result_pages import LAW_STUDIES, LOSSES


@pytest.mark.parametrize("study", LAW_STUDIES)
def test_the_page_is_what_the_results_say(study: str) -> None:
    written, made = written_and_made(study, "results")
    tables = [part for part in made.split("\n\n") if part.startswith("|  | MMACs")]
    assert len(tables) == 2
    assert all(table in written for table in tables), "measured, not fitted: word for word"


def test_the_page_of_forecasts_says_what_failed_of_each_study() -> None:
    written, _ = written_and_made("forecast", "own")
    failures = [line for line in written.splitlines() if line.startswith("- ")]
    failed = [one for study in LAW_STUDIES for one in scored_results(study) if one.state == "failed"]
    assert len(failures) == len(failed)
    assert all(one.why in line for one, line in zip(failed, failures, strict=True))


@pytest.mark.parametrize("study", LAW_STUDIES)
def test_every_published_forecast_is_scored_by_the_published_tables(study: str) -> None:
    scored = scored_results(study)
    assert len(scored) == 8
    assert {one.entry.kind for one in scored} == {"prediction", "continuation"}
    assert all(one.measured is not None for one in scored)
    for name in {study, LOSSES.get(study, study)}:
        table = load_results(name)
        assert not diverged(table).any()
        assert set(table["seed"]) == {0, 1, 2}


def test_the_runs_that_diverged_are_published_too() -> None:
    table = load_results("fashion_diverged")
    lost = diverged(table)
    assert table[lost].groupby("model")["run"].nunique().to_dict() == {"fcdm/w18": 2, "fcdm/w24": 2}
    assert (table.loc[lost, "heldout_loss"] > 0.99).all()
    assert set(table["lr"]) == {4e-3}
