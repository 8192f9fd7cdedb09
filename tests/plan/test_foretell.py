"""`hydra/launcher=plan` beside the law of a study: what the budgets that it reaches will come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fcdm.forecast import main
from fcdm.plan.make_plan import make_plan
from fcdm.plan.model import Plan
from fcdm.plan.plan_json import print_json
from fcdm.plan.plan_table import print_tables
from fcdm.slurm.options import PlanOptions
from tests.support.measured_study import asked_jobs, measured_study, surface
from tests.support.simple_teller import SimpleTeller


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of N and M until 400 steps, and its laws."""
    folder = tmp_path_factory.mktemp("plan") / "runs"
    measured_study(folder)
    assert main(["demo", f"runs_dir={folder}"], SimpleTeller()) == 0
    return folder


def plan_of(runs: Path, *words: str) -> Plan:
    return make_plan(asked_jobs(runs, *words), PlanOptions())


def table(plan: Plan, capsys: pytest.CaptureFixture[str]) -> str:
    """As a pipe has it, without line breaks."""
    print_tables(plan, "all")
    return " ".join(capsys.readouterr().out.split())


def test_budgets_that_a_law_reaches_have_their_forecast_beside_the_cost(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three budgets one is measured and one is out of reach."""
    plan = plan_of(runs, "model=M", "steps=[400,1600,400000]")
    print_json(plan)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    fid, loss = run["forecasts"]
    assert (fid["steps"], fid["metric"], fid["name"], fid["study"]) == (1600, "fid", "FID", "demo")
    assert (loss["steps"], loss["metric"], loss["name"]) == (1600, "heldout_loss", "held-out loss")
    macs = plan.runs[0].whole.flops["training"] / (6 * 128 * 400_000)
    assert fid["median"] == pytest.approx(surface(macs, 1600 * 128), rel=0.1)
    low, high = (fid["quantiles"][level] for level in ("0.1", "0.9"))
    text = table(plan, capsys)
    assert f"1,600: {fid['median']:.3g} ({low:.3g} to {high:.3g})" in text
    assert "forecast: FID of one new run with its 80 % interval, by the law of demo" in text


@pytest.mark.parametrize("other", ["batch_size=64", "model=dit/N-2", "evaluation.samples=30"])
def test_of_other_runs_than_those_that_were_fitted_nothing_is_foretold(
    runs: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(runs, "model=N", "steps=1600", other)
    assert not plan.runs[0].forecasts
    assert "forecast" not in table(plan, capsys)


def test_laws_that_cannot_be_read_are_a_note(runs: Path) -> None:
    path = runs / "forecasts" / "demo.law.json"
    text = path.read_text()
    try:
        path.write_text(text.replace('"alpha"', '"beta0"'))
        (note,) = [note for note in plan_of(runs, "model=N", "steps=1600").notes if "foretold" in note]
    finally:
        path.write_text(text)
    assert note.startswith("nothing is foretold: ")
    assert "python -m fcdm.forecast demo makes it anew" in note
