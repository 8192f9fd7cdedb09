"""`docs/fashion.md` says what `analysis/results/` holds: its tables word for word, its laws as far as CPUs agree."""

from __future__ import annotations

import re

import numpy as np

from fcdm.analysis.forecast_notebook import scored_results
from fcdm.analysis.notebook import load_results
from fcdm.analysis.reporting.written_part import marks
from fcdm.analysis.stats.diverged_runs import diverged
from tests.support.commands import ROOT
from tools.result_pages import PAGES

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*\.?\d*(?:e[+-]\d+)?")


def test_the_page_is_what_the_results_say() -> None:
    """numpy's last bits differ with the CPU, so that fitted numbers may differ in their last digit; words may not."""
    begin, end = marks("results")
    page = (ROOT / "docs" / "fashion.md").read_text()
    written = page.partition(begin)[2].partition(end)[0].strip()
    made = PAGES["fashion"]["results"]().strip()
    tables = [part for part in made.split("\n\n") if part.startswith("| | MMACs")]
    assert len(tables) == 2
    assert all(table in written for table in tables)
    assert NUMBER.sub("#", made).split() == NUMBER.sub("#", written).split()
    values = [np.array([float(one.replace(",", "")) for one in NUMBER.findall(text)]) for text in (made, written)]
    close = np.isclose(*values, rtol=0.1, atol=0.05)
    assert close.mean() > 0.97, "draws near an end of what a law allows move most"


def test_every_published_forecast_is_scored_by_the_published_tables() -> None:
    scored = scored_results("fashion")
    assert len(scored) == 8
    assert {one.entry.kind for one in scored} == {"prediction", "continuation"}
    assert all(one.measured is not None for one in scored)
    assert all(one.entry.forced for one in scored), "no hold-out reached so far: each says so"
    for name in ("fashion", "fashion_losses"):
        table = load_results(name)
        assert not diverged(table).any()
        assert set(table["seed"]) == {0, 1, 2}


def test_the_runs_that_diverged_are_published_too() -> None:
    table = load_results("fashion_diverged")
    lost = diverged(table)
    assert table[lost].groupby("model")["run"].nunique().to_dict() == {"fcdm/w18": 2, "fcdm/w24": 2}
    assert (table.loc[lost, "heldout_loss"] > 0.99).all()
    assert set(table["lr"]) == {4e-3}
