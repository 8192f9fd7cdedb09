"""Laws and forecasts in the report, `analysis.plots` and `analysis.scaling`: where a study has them, else not."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import plots, report, scaling
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.figures.recipes import law_recipes
from fcdm.analysis.law_options import add_law_options, law_settings
from fcdm.analysis.reporting.cell_tables import CellTable
from fcdm.analysis.reporting.forecast_section import forecast_section
from fcdm.analysis.reporting.forecast_tables import checklist, coverage_cells, held_out_cells, ledger_cells
from fcdm.analysis.reporting.html import HTML
from fcdm.analysis.reporting.latex import latex_table
from fcdm.analysis.reporting.page import page
from fcdm.analysis.reporting.study_facts import StudyFacts, study_facts
from fcdm.analysis.stats.joint_laws import hold_out_table
from fcdm.analysis.stats.metric_laws import LawSettings, MetricLaws, laws_by_metric, through_loss_lines
from fcdm.analysis.stats.study_forecast import JointTeller
from fcdm.forecast import main as forecast
from fcdm.forecasts.study_scores import study_scores
from fcdm.laws.cuts import Cuts
from tests.support.browser import measure as measure_page
from tests.support.commands import ROOT
from tests.support.fake_runs import make_run, make_study
from tests.support.known_surface import study
from tests.support.measured_study import asked_jobs, measure, measured_study

SIZES, BUDGETS = "fcdm/w16,fcdm/w24,fcdm/w32,fcdm/w40,fcdm/w48", (1000, 2000, 4000, 8000)
FEW = LawSettings(draws=40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sizes; forecasts of their largest further on: one came out, one is not there yet, one is withdrawn."""
    folder = tmp_path_factory.mktemp("foretold") / "runs"
    measured_study(folder, SIZES, BUDGETS)
    words = ["demo", f"runs_dir={folder}", "--metric=fid", "model=fcdm/w48", "steps=16000", "seed=2,3,4"]
    assert forecast(words, JointTeller(draws=40)) == 0
    assert forecast([f"runs_dir={folder}", "--withdraw=3", "--why=wrong seed"]) == 0
    (job,) = asked_jobs(folder, "model=fcdm/w48", "steps=16000", "seed=2", study="later")
    measure(job, 16_000)
    return folder


@pytest.fixture(scope="module")
def facts(runs: Path) -> StudyFacts:
    return study_facts(runs, "demo")


@pytest.fixture(scope="module")
def made(facts: StudyFacts) -> tuple[HTML, list[CellTable], list[str]]:
    found = forecast_section(facts, FEW)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def laws(facts: StudyFacts) -> list[MetricLaws]:
    table = facts.by_protocol[0].table
    assert table is not None
    return laws_by_metric(table, facts.losses, FEW)


# --- a study with laws ---------------------------------------------------------------------------------


def test_the_report_has_the_laws_hold_outs_figures_ledger_and_checklist(
    made: tuple[HTML, list[CellTable], list[str]],
) -> None:
    part, tables, told = made
    order = ["<h3>Joint laws of size and data", "Held out of the joint laws of held-out loss"]
    order += ["<h3>Figures of laws and forecasts", "<h3>The ledger", "<h3>Checklist"]
    places = [part.index(words) for words in order]
    assert places == sorted(places)
    ids = re.findall(r'<figure id="([^"]*)"', part)
    kinds = ("contours", "iso_flop", "optimum", "law_residuals", "predicted")
    assert set(ids) >= {f"{metric}_{kind}" for metric in ("fid", "heldout_loss") for kind in kinds}
    assert "forecast_calibration" in ids
    assert "FCDM: fid = " in part
    assert "without the largest size, at" not in part  # that is the table's
    names = [f"{kind}-{metric}" for metric in ("heldout_loss", "fid") for kind in ("held-out", "checklist")]
    assert [table.name for table in tables] == [*names, "forecast-coverage", "forecasts"]
    assert any("predictions of FID: 1 held, 0 failed, 1 unscored, 1 withdrawn" in line for line in told)
    for table in tables:
        assert latex_table(table).count("&") >= len(table.rows)


def test_nothing_of_it_stands_out_of_a_telephone_or_of_paper(
    made: tuple[HTML, list[CellTable], list[str]], tmp_path: Path
) -> None:
    whole = tmp_path / "page.html"
    whole.write_text(page("demo", [("Forecasts", made[0])], "what it is about"))
    for width, printed in ((390, False), (688, True)):
        seen = measure_page(whole, tmp_path, width, printed=printed)
        assert (seen.width, seen.out) == (width, [])


def cells_of(table: CellTable, question: str) -> list[str]:
    (row,) = [row for row in table.rows if row[0] == question]
    return [str(cell) for cell in row[1:]]


def test_the_checklist_answers_what_was_fitted_cut_held_out_tuned_and_counted(laws: list[MetricLaws]) -> None:
    (of_fid,) = (one for one in laws if one.metric == "fid")
    table = checklist(of_fid)
    assert table.columns == ("Asked", "FCDM")
    text = {str(row[0]): str(row[1]) for row in table.rows}
    assert text["Form"] == "E + A N^-alpha + B D^-beta"
    assert text["Points"] == "40 points of 10 runs"
    assert "5 sizes" in text["N"]
    assert "128K to 1.024M, 4 budgets of a size; up to 7" in text["D"]
    assert text["Cut"].startswith("the first 10 % of a run, points below 1,000 steps or 10 warm-ups: ")
    assert "the largest size: 4 cells; the largest budget: 5 cells" in text["Held out"]
    assert text["Tuned"] == "not told"
    assert "6 N D" in text["Counted"]
    assert "variable projection" in text["Optimiser"]
    assert "40 draws of whole runs" in text["Intervals"]
    assert "Student's t with" in text["Intervals"]
    assert text["Second form"].startswith("E + ((A N^-alpha)")
    assert "at the largest size and budget" in text["Second form"]
    tuned = checklist(MetricLaws(of_fid.metric, of_fid.name, of_fid.table, of_fid.laws, LawSettings(tuning="lrs")))
    assert cells_of(tuned, "Tuned") == ["learning rates by study lrs"]


def test_the_hold_outs_are_those_of_the_law(laws: list[MetricLaws]) -> None:
    (of_fid,) = (one for one in laws if one.metric == "fid")
    numbers = hold_out_table(of_fid.laws)
    rows = held_out_cells(of_fid).rows
    assert len(rows) == len(numbers) == 10
    assert [str(row[4]) for row in rows] == [f"{value:.4g}" for value in numbers["measured"]]
    assert {str(row[1]) for row in rows} == {"size", "budget", "both"}


def test_the_ledger_stands_with_counts_and_exact_intervals(facts: StudyFacts) -> None:
    scored = facts.forecasts
    assert [one.state for one in scored] == ["held", "unscored", "withdrawn"]
    (row,) = coverage_cells(scored).rows
    assert row[:3] == ["prediction", "FID", "1 held, 1 unscored, 1 withdrawn"]
    assert str(row[5]) in ("1 of 1 (3% to 100%)", "1 of 1 (2% to 100%)")
    table = ledger_cells(scored)
    assert [str(row[0]) for row in table.rows] == ["1", "", "", "2", "3"]  # the first with its two baselines
    assert table.rows[-1][-1] == "withdrawn: wrong seed"


def test_what_is_forecast_and_not_measured_is_hollow_in_the_contours(
    facts: StudyFacts, laws: list[MetricLaws], tmp_path: Path
) -> None:
    """And each figure is a file with the CSV of its numbers, by the function of `analysis.plots`."""
    chosen = {
        name: make
        for name, make in law_recipes(laws, facts.forecasts).items()
        if name in ("fid_contours", "fid_predicted", "forecast_calibration")
    }
    table = facts.by_protocol[0].table
    assert table is not None
    one_point = table[:1]
    one_point.attrs = table.attrs
    written, left_out = plots.draw(one_point, tmp_path, of_laws=chosen)
    assert {tmp_path / f"{name}{suffix}" for name in chosen for suffix in (".png", ".pdf", ".csv")} <= set(written)
    contours = pd.read_csv(tmp_path / "fid_contours.csv")
    (target,) = contours[contours["kind"] == "target"].to_dict("records")
    assert target["images"] == 16_000 * 128
    assert pd.read_csv(tmp_path / "fid_predicted.csv")["state"].eq("unscored").sum() == 1
    assert "fid_predicted: left out: 1 withdrawn forecast" in left_out


# --- a study without -----------------------------------------------------------------------------------


def test_a_study_of_one_size_a_family_says_nothing_and_one_of_two_says_why_folded(tmp_path: Path) -> None:
    one = [make_run(tmp_path / "one", model) for model in ("N", "dit/N-2")]
    make_study(tmp_path / "one", one)
    assert forecast_section(study_facts(tmp_path / "one", "demo")) is None
    two = [make_run(tmp_path / "two", model) for model in ("N", "M", "dit/N-2")]
    make_study(tmp_path / "two", two)
    found = forecast_section(study_facts(tmp_path / "two", "demo"))
    assert found is not None
    part, tables, told = found
    assert "a joint law needs 4 sizes with 3 budgets each at least" in part
    assert re.sub(r"<details.*?</details>", "", part, flags=re.DOTALL) == ""
    assert (tables, told) == ([], [])


def test_a_ledger_that_was_edited_by_hand_is_said_and_the_page_made(runs: Path, tmp_path: Path) -> None:
    make_study(tmp_path, [make_run(tmp_path, "N", evaluated=False)])
    entry = (runs / "forecasts" / "000001.json").read_text()
    (tmp_path / "forecasts").mkdir()
    content = {**json.loads(entry), "kind": "interpolation"}
    (tmp_path / "forecasts" / "000001.json").write_text(json.dumps(content))
    html = report.make_report(study_facts(tmp_path, "demo")).html
    (part,) = re.findall(r'<section id="forecasts">.*?</section>', html, re.DOTALL)
    assert "000001.json was changed since it was written" in part


def test_forecasts_of_another_study_stand_in_its_report_alone(runs: Path) -> None:
    assert len(study_scores(runs, "demo")) == 3
    assert study_scores(runs, "later") == []


def test_scaling_says_why_there_is_no_joint_law(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--runs", str(runs), "--study", "demo", "--least-steps", "5000"])
    said = capsys.readouterr().out
    assert "Joint laws of size and data" in said
    assert said.count("no joint law of FID: FCDM: a joint law needs 4 sizes with 3 budgets each at least") == 1
    assert "points below 5,000 steps" in said
    assert scaling.main(["--runs", str(runs), "--study", "demo", "--tuning", "nothing"]) == 1
    assert "no study 'nothing'" in capsys.readouterr().err


def test_the_tuning_study_may_be_its_table_where_the_runs_are_gone(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_law_options(parser)
    path = ROOT / "analysis" / "results" / "fashion_hyperparameters.csv"
    settings = law_settings(parser.parse_args(["--tuning", str(path)]), tmp_path)
    assert settings.tuning == "fashion_hyperparameters"
    assert settings.tuned is not None
    best = {one.name: one.best.values for one in settings.tuned if one.best}
    assert best["FCDM-w8"] == {"lr": "0.004"}
    empty = tmp_path / "empty.csv"
    empty.write_text("run,model\n")
    for wrong, said in ((empty, "empty.csv has no row"), (tmp_path / "x.csv", "x.csv: no such file")):
        assert scaling.main(["--runs", str(runs), "--study", "demo", "--tuning", str(wrong)]) == 1
        assert said in capsys.readouterr().err


# --- several families, scales and metrics -----------------------------------------------------------------


def test_a_family_without_a_law_stands_beside_one_with_and_scales_share_no_e() -> None:
    table = study(2, sizes=np.geomspace(2e7, 3.2e8, 5), budgets=BUDGETS, of_seed=0.01, of_evaluation=0.005)
    fcdm = table[table["family"] == "fcdm"]
    cooled = fcdm.assign(cooldown=0.2, run=fcdm["run"] + "-cooled", label=fcdm["label"] + " cooled 20 %")
    few = table[(table["family"] == "dit") & table["model"].isin(["dit/01-2", "dit/02-2"])]
    mixed = pd.concat([fcdm, cooled, few], ignore_index=True)
    (laws,) = laws_by_metric(mixed, None, FEW, ("fid",))
    assert set(laws.told) == {"FCDM", "FCDM, cooled 20 %"}
    (reason,) = laws.reasons
    assert reason.startswith("no joint law of FID: DiT/2: a joint law needs 4 sizes")
    assert not any("one E" in line for line in laws.lines())  # the two are of different scales
    assert checklist(laws).columns == ("Asked", "FCDM", "FCDM, cooled 20 %")


def test_a_distance_at_one_budget_is_told_by_no_law_and_not_through_the_loss() -> None:
    table = study(2, sizes=np.geomspace(2e7, 3.2e8, 5), budgets=BUDGETS, families=("fcdm",), of_seed=0.01)
    last = table["fid"].where(table["steps"] == BUDGETS[-1])
    found = laws_by_metric(table.assign(fid=last), None, FEW)
    assert [bool(one.told) for one in found] == [True, False]
    assert "budgets of each size: 1, 1, 1, 1, 1" in found[1].reasons[0]
    (line,) = through_loss_lines(found)
    assert line.startswith("FCDM: FID is not forecast through the loss: a map from loss to a distance needs 4 sizes")
    assert set(law_recipes(found)) == {
        f"heldout_loss_{kind}" for kind in ("contours", "iso_flop", "optimum", "law_residuals", "predicted")
    }


def test_what_was_not_measured_has_no_laws(tmp_path: Path) -> None:
    make_study(tmp_path, [make_run(tmp_path, "N")])
    table = tidy_table(tmp_path, "demo")
    found = laws_by_metric(table.assign(heldout_loss=np.nan), None, LawSettings(Cuts(least_steps=10)))
    assert [one.metric for one in found] == ["fid"]
    assert not found[0].told
    assert found[0].reasons == []
    assert law_recipes(found) == {}
