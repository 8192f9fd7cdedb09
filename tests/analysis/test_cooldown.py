"""Cooldown branches in tables, laws, ratios, figures and reports: beside rates that go on, never among them unsaid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import claims as claims_command
from fcdm.analysis import plots, report, scaling, tuning
from fcdm.analysis import table as table_command
from fcdm.analysis.data.labels import scales
from fcdm.analysis.data.seed_curves import seed_curves
from fcdm.analysis.data.tidy_table import LOSS_BINS, tidy_table
from fcdm.analysis.figures.draw_frontier import frontier_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.model_size import fid_against_size
from fcdm.analysis.notebook import load_results
from fcdm.analysis.published import published
from fcdm.analysis.reporting.study_facts import study_facts
from fcdm.analysis.stats.claim_sides import pairs_of
from fcdm.analysis.stats.model_pairs import comparisons
from fcdm.analysis.stats.paper_claims import claims
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import fits_of, frontiers_of
from fcdm.analysis.stats.tuning_trials import tune, tuned_as, tuning_cost, untuned
from fcdm.errors import UserError
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.reader import list_runs
from fcdm.tracking.forward import Forwarder
from tests.support.commands import TINY, python_in
from tests.support.fake_branches import GAIN, RAW, RAW_GAIN, make_cooled
from tests.support.fake_runs import PROTOCOL, START, evaluate, fid_at, make_run, make_study, protocol_id

ENDS = (100, 200, 400, 800)
MODELS = ("N", "M", "dit/N-2", "dit/M-2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four models, constant and cooled, one seed each."""
    folder = tmp_path_factory.mktemp("runs")
    for model in MODELS:
        make_cooled(folder, model)
    return folder


# --- tables ------------------------------------------------------------------------------------------


def test_the_branches_of_one_trajectory_are_one_line(tmp_path: Path) -> None:
    parent, *branches = make_cooled(tmp_path)
    table = tidy_table(tmp_path, "cooled")
    cooled = table[table["cooldown"].notna()]
    assert list(cooled["run"]) == [branch.name for branch in branches]  # in order of their ends
    assert list(cooled["steps"]) == list(ENDS)
    assert set(cooled["cooldown"]) == {0.2}
    assert set(cooled["label"]) == {"FCDM-N cooled 20 %"}
    assert cooled["variant"].nunique() == cooled["trajectory"].nunique() == 1
    assert cooled["trajectory"].iloc[0] == f"{parent.name} cooled 20 %"
    going_on = table[table["cooldown"].isna()]
    assert set(going_on["label"]) == {"FCDM-N"}
    assert set(going_on["trajectory"]) == {parent.name}
    constant, curve = seed_curves(table)
    assert (constant.label, curve.label, curve.seeds) == ("FCDM-N", "FCDM-N cooled 20 %", 1)
    assert list(curve.points["fid"]) == pytest.approx([GAIN * fid_at("N", end) for end in ENDS])


def test_each_share_and_each_seed_is_a_trajectory_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_cooled(tmp_path, seed=seed)
    make_cooled(tmp_path / "other", share=0.1)
    for folder in (tmp_path / "other").glob("N-*-cooldown-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    table = tidy_table(tmp_path, protocol=protocol_id(RAW))
    assert dict(table.groupby("label")["trajectory"].nunique()) == {"FCDM-N cooled 10 %": 1, "FCDM-N cooled 20 %": 2}
    assert list(table["cooldown"].drop_duplicates()) == [0.1, 0.2]


def test_other_settings_stand_in_the_label_before_the_cooldown(tmp_path: Path) -> None:
    for lr in (4e-3, 1e-3):
        make_cooled(tmp_path, lr=lr)
    table = tidy_table(tmp_path, "cooled")
    assert list(dict.fromkeys(table["label"])) == [
        "FCDM-N lr=0.001",
        "FCDM-N lr=0.001 cooled 20 %",
        "FCDM-N lr=0.004",
        "FCDM-N lr=0.004 cooled 20 %",
    ]
    assert table.attrs["settings"]["FCDM-N lr=0.001 cooled 20 %"] == {"optimiser.lr": "0.001"}


def test_hours_at_a_branches_end_are_the_trajectorys_and_not_known_without_the_parent(tmp_path: Path) -> None:
    parent, *branches = make_cooled(tmp_path)
    table = tidy_table(tmp_path, "cooled").set_index("run")
    # 50 steps take two seconds; the branch has two devices.
    assert table.loc[branches[-1].name, "seconds"] == pytest.approx(32.0)
    assert table.loc[branches[-1].name, "device_seconds"] == pytest.approx(25.6 + 2 * 6.4)
    shutil.rmtree(parent)
    table = tidy_table(tmp_path, "cooled").set_index("run")
    assert table.loc[branches[-1].name, ["seconds", "device_seconds"]].isna().all()
    assert set(table["trajectory"]) == {"FCDM-N cooled 20 %, seed 0"}


def test_raw_weights_are_left_out_by_name_and_what_is_only_trained_is_not_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, *_ = make_cooled(tmp_path, constant=False)
    table_command.main(["--runs", str(tmp_path), "--study", "cooled"])
    out, err = capsys.readouterr()
    header, *lines = out.splitlines()
    assert {"cooldown", "trajectory"} <= set(header.split(","))
    assert len(lines) == len(ENDS)
    assert err.splitlines() == [
        f"left out: 4 runs evaluated by {protocol_id(RAW)} (weights: ema in {protocol_id(PROTOCOL)}, raw in "
        f"{protocol_id(RAW)}): --protocol {protocol_id(RAW)} draws them"
    ]
    assert parent.name not in out.replace(f"{parent.name} cooled", "")
    table_command.main(["--runs", str(tmp_path), "--study", "cooled", "--protocol", protocol_id(RAW)])
    assert capsys.readouterr().err == ""


def test_by_a_protocol_that_the_study_does_not_ask_for_what_is_only_trained_is_not_missed(tmp_path: Path) -> None:
    _, branch, last = make_cooled(tmp_path, ends=(100, 200), constant=False)
    other = {**PROTOCOL, "sampling_steps": 10}
    evaluate(branch, "N", 100, START, other, grids=False)
    assert tidy_table(tmp_path, "cooled", protocol_id(other)).attrs["missing"] == [
        f"not evaluated yet: FCDM-N cooled 20 %, seed 0, at 200 ({last.name})"
    ]


def test_a_study_that_asks_for_training_alone_says_so_and_has_a_report(tmp_path: Path) -> None:
    parent, *_ = make_cooled(tmp_path, ends=(200,), constant=False)
    path = tmp_path / "studies" / "cooled.json"
    content = json.loads(path.read_text())
    content["requests"] = [one for one in content["requests"] if one["run"] == parent.name]
    path.write_text(json.dumps(content | {"protocol_id": TRAINED_ONLY, "protocol": {}}))
    with pytest.raises(UserError, match="study 'cooled' asks for training alone"):
        tidy_table(tmp_path, "cooled")
    assert "160 trained" in report.make_report(study_facts(tmp_path, "cooled")).html


def test_a_budget_of_a_branch_that_is_not_evaluated_is_missed(tmp_path: Path) -> None:
    *_, last = make_cooled(tmp_path, constant=True)
    for path in (last / "evaluations").glob(f"*-{protocol_id(RAW)}.*"):
        path.unlink()
    lines = (last / "records.jsonl").read_text().splitlines(keepends=True)
    (last / "records.jsonl").write_text("".join(line for line in lines if protocol_id(RAW) not in line))
    assert tidy_table(tmp_path, "cooled").attrs["missing"] == []
    # Of the parent nobody asked raw weights.
    assert tidy_table(tmp_path, "cooled", protocol_id(RAW)).attrs["missing"] == [
        f"not evaluated yet: FCDM-N cooled 20 %, seed 0, at 800 ({last.name})"
    ]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mlflow_tells_the_same_of_branches_as_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'store.db'}"
    make_cooled(folder, ends=(100, 200))
    Forwarder(folder, uri).forward()
    for protocol in (None, protocol_id(RAW)):
        here, there = (tidy_table(source, "cooled", protocol) for source in (folder, uri))
        assert here.attrs["missing"] == there.attrs["missing"] == []
        unlike = [
            "grid",
            "grid_columns",
            "device_seconds",
            *LOSS_BINS,
        ]  # the folder's alone, and that of several devices
        pd.testing.assert_frame_equal(here.drop(columns=unlike), there.drop(columns=unlike))


def test_committed_results_of_before_there_were_branches_resample_runs() -> None:
    table = load_results("digits")
    assert list(table["trajectory"]) == list(table["run"])
    assert table["cooldown"].isna().all()


# --- laws and frontiers ------------------------------------------------------------------------------


def test_cooled_points_are_a_scale_of_their_own_that_always_says_so(runs: Path) -> None:
    table = tidy_table(runs, "cooled")
    assert [scale for scale, _ in scales(table)] == ["", ", cooled 20 %"]
    assert [rows["cooldown"].notna().all() for _, rows in scales(table)] == [False, True]
    assert [scale for scale, _ in scales(table[table["cooldown"].notna()])] == [", cooled 20 %"]
    assert [scale for scale, _ in scales(table.drop(columns="cooldown"))] == [""]


def test_a_familys_frontier_joins_no_cooled_point_with_another(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tidy_table(runs, "cooled")
    made = frontiers_of(table)
    assert list(made) == ["dit", "fcdm", "dit, cooled 20 %", "fcdm, cooled 20 %"]
    assert set(made["fcdm"].curves["model"]) == {"FCDM-N", "FCDM-M"}
    assert set(made["fcdm, cooled 20 %"].curves["model"]) == {"FCDM-N cooled 20 %", "FCDM-M cooled 20 %"}
    scaling.main(["--runs", str(runs), "--study", "cooled"])
    out = capsys.readouterr().out
    assert "FCDM's frontier, cooled 20 %: " in out
    assert "FCDM, cooled 20 % at " in out


def test_the_branches_of_one_trajectory_are_resampled_as_one(tmp_path: Path) -> None:
    ends = (100, 200, 400, 800, 1600, 3200)
    make_cooled(tmp_path, ends=ends)
    alone = fits_of(tidy_table(tmp_path, "cooled"))["FCDM-N cooled 20 %"]
    assert isinstance(alone, Fit)
    assert alone.intervals == {}  # six branches, but one trajectory
    for seed in (1, 2, 3, 4):
        make_cooled(tmp_path, ends=ends, seed=seed)
    several = fits_of(tidy_table(tmp_path, "cooled"))["FCDM-N cooled 20 %"]
    constant = fits_of(tidy_table(tmp_path, "cooled"))["FCDM-N"]
    assert isinstance(several, Fit)
    assert isinstance(constant, Fit)
    assert several.intervals["exponent"] == pytest.approx(constant.intervals["exponent"], rel=1e-3)


# --- ratios and claims -------------------------------------------------------------------------------


def test_cooled_is_compared_with_cooled(runs: Path) -> None:
    found = comparisons(tidy_table(runs, "cooled"))
    assert [(one.a.label, one.b.label) for one in found] == [
        ("FCDM-N", "DiT-N/2"),
        ("FCDM-M", "DiT-M/2"),
        ("FCDM-N cooled 20 %", "DiT-N/2 cooled 20 %"),
        ("FCDM-M cooled 20 %", "DiT-M/2 cooled 20 %"),
    ]
    assert {one.differs for one in found} == {()}
    constant, *_, cooled = pairs_of(tidy_table(runs, "cooled"))
    assert "cooled" not in constant.provisos
    assert cooled.provisos.endswith("; both with a rate cooled down over the last 20 %")


def test_a_pair_of_which_one_alone_is_cooled_is_none_but_where_it_is_asked_for_and_says_so(tmp_path: Path) -> None:
    make_cooled(tmp_path, "N", constant=False)
    dit = make_run(tmp_path, "dit/N-2", grids=False)
    make_study(tmp_path, [dit], "cooled", more=True)
    table = tidy_table(tmp_path, "cooled")
    assert comparisons(table) == []
    (one,) = comparisons(table, [("FCDM-N", "DiT-N/2")])
    assert one.differs == ("a rate cooled down over the last 20 % against a rate that goes on",)
    (pair,) = pairs_of(table, pairs=[("FCDM-N", "DiT-N/2")])
    assert "differing in a rate cooled down over the last 20 % against a rate that goes on" in pair.provisos
    assert "FCDM-N cooled 20 %, published rates that go on" in pair.differences
    # Not even where they are compared for oneself does the paper's claim rest on them.
    papers = claims(table, published(), [("FCDM-N", "DiT-N/2")])
    assert all(one.runs.text.startswith("missing: ") for one in papers if one.key.startswith(("budget", "same_budget")))


def test_of_what_a_pattern_means_cooled_is_compared_with_cooled(runs: Path) -> None:
    table = tidy_table(runs, "cooled")

    def labels(*pattern: str) -> list[tuple[str, str]]:
        (pair,) = [tuple(pattern)]
        return [(one.a.label, one.b.label) for one in comparisons(table, [(pair[0], pair[1])])]

    assert labels("model=N", "model=dit/N-2") == [
        ("FCDM-N", "DiT-N/2"),
        ("FCDM-N cooled 20 %", "DiT-N/2 cooled 20 %"),
    ]
    assert labels("FCDM-N cooled 20 %", "FCDM-N") == [("FCDM-N cooled 20 %", "FCDM-N")]
    assert labels("model=N,cooldown=0.2", "model=M,cooldown=null") == [("FCDM-N cooled 20 %", "FCDM-M")]
    with pytest.raises(UserError, match="are the same, FCDM-N cooled 20 %"):
        labels("FCDM-N cooled 20 %", "model=N,cooldown=0.2")


def test_a_claim_at_a_published_fid_is_refused_to_cooled_points(runs: Path) -> None:
    cooled = pairs_of(tidy_table(runs, "cooled"))[-1]
    assert cooled.differences[-2:] == (
        "FCDM-M cooled 20 %, published rates that go on",
        "DiT-M/2 cooled 20 %, published rates that go on",
    )


# --- tuning ------------------------------------------------------------------------------------------


def test_a_tuning_chooses_among_cooled_ones_for_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr in (4e-3, 1e-3):
        make_cooled(tmp_path, lr=lr)
    tuning.main(["--runs", str(tmp_path), "--study", "cooled"])
    out = capsys.readouterr().out
    assert "FCDM-N: FID at 800 steps, 2 settings, seeds 0" in out
    assert "FCDM-N cooled 20 %: FID at 800 steps, 2 settings, seeds 0" in out
    assert "chosen: model=N optimiser.lr=0.004\n" in out
    assert "chosen: model=N optimiser.lr=0.004 cooldown=0.2\n" in out
    assert "grids differ" not in out


def test_what_was_tuned_without_a_cooldown_is_not_tuned_with_one(tmp_path: Path) -> None:
    trials, own = tmp_path / "trials", tmp_path / "own"
    made = [make_run(trials, lr=lr, keys={"width": 16}, grids=False) for lr in (4e-3, 1e-3)]
    make_study(trials, made, "tuning")
    make_cooled(own, seed=1, constant=False)
    table, tuned = tidy_table(own, "cooled"), tune(tidy_table(trials, "tuning"))
    assert tuned_as(table, tuned) == []
    assert untuned(table, tuned) == ["not tuned: FCDM-N cooled 20 % has no trials there"]


def test_with_a_tuning_a_claim_says_it_of_the_cooled_pair_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, own = tmp_path / "trials", tmp_path / "own"
    for model in ("N", "dit/N-2"):
        for lr in (4e-3, 1e-3):
            make_cooled(trials, model, lr=lr, constant=False, study="tuning")
        make_cooled(own, model, seed=1)
    for folder in trials.glob("*-digits-*"):
        shutil.copytree(folder, own / folder.name, dirs_exist_ok=True)
    shutil.copy(trials / "studies" / "tuning.json", own / "studies" / "tuning.json")
    claims_command.main(["--runs", str(own), "--study", "cooled", "--tuning", "tuning"])
    out = capsys.readouterr().out
    assert "tuned: FCDM-N cooled 20 %: optimiser.lr=0.004, the best of 2 settings on seed 0" in out
    assert "not tuned: FCDM-N has no trials there" in out


def test_the_steps_that_branches_share_cost_a_tuning_once(tmp_path: Path) -> None:
    make_cooled(tmp_path, ends=(400, 800))
    table = tidy_table(tmp_path, "cooled")
    cooled = next(one for one in tune(table) if one.cooldown)
    (line,) = [line for line in tuning_cost(table, table, [cooled]) if "FCDM-N cooled" in line]
    # Of 19.2 and 38.4 device-seconds four fifths are, by steps, the parent's, the larger of which holds the other.
    hours = (0.2 * 19.2 + 0.2 * 38.4 + 0.8 * 38.4) / 3600
    assert f"2 runs, {hours:.3g} device-hours" in line


# --- figures -----------------------------------------------------------------------------------------


def test_figures_tell_cooled_points_by_dark_rims_and_by_name(runs: Path) -> None:
    table = tidy_table(runs, "cooled")
    drawn = fid_against(table, "steps")
    assert drawn is not None
    figure, numbers = drawn
    lines = figure.axes[0].get_lines()
    rims = [line.get_markeredgecolor() for line in lines if len(line.get_xdata()) == len(ENDS)]
    assert sorted(map(str, rims)) == ["0.1"] * 4 + ["white"] * 4
    texts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"FCDM-N", "FCDM-N cooled 20 %"} <= texts
    assert {"FCDM-N", "FCDM-N cooled 20 %"} <= set(numbers["label"])
    assert "real images: 4.1" in texts  # one floor, whatever the rate
    # Where both kinds have a ratio, that of the rates that go on is shown.
    assert figure.axes[0].get_title(loc="right").endswith("FCDM-M against DiT-M/2")
    plt.close(figure)


def test_model_size_and_frontier_have_lines_of_their_own_for_cooled_points(runs: Path) -> None:
    table = tidy_table(runs, "cooled")
    for make in (lambda: fid_against_size(table, "parameters"), lambda: frontier_figure(table)):
        drawn = make()
        assert drawn is not None
        figure, numbers = drawn
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert any("cooled 20 %" in text for text in texts)
        plt.close(figure)
        if "at" in numbers:
            assert set(numbers["at"]) == {"", "cooled 20 %"}
        else:
            best = numbers[numbers["origin"] == "these runs"]
            at_end = best[best["steps"] == 800]
            assert set(at_end["name"]) >= {"FCDM-N", "FCDM-N, cooled 20 %"}  # the lower is not the best of both


def test_published_points_keep_their_place_beside_cooled_ones_alone(tmp_path: Path) -> None:
    made = [
        make_run(tmp_path, model, budgets=(400_000, 800_000), every=100_000, grids=False)
        for model in ("dit/S-2", "dit/B-2")
    ]
    make_study(tmp_path, made, budgets=(400_000, 800_000))
    table = tidy_table(tmp_path, "demo").assign(cooldown=0.2)
    drawn = fid_against_size(table, "forward_gmacs", published())
    assert drawn is not None
    figure, numbers = drawn
    plt.close(figure)
    theirs = numbers[numbers["origin"] == "published"]
    assert len(theirs)
    assert not theirs["name"].str.contains("cooled").any()


def test_every_figure_of_cooled_points_alone_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("N", "dit/N-2"):
        make_cooled(tmp_path / "runs", model, constant=False)
    plots.main(["--runs", str(tmp_path / "runs"), "--study", "cooled", "--out", str(tmp_path / "figures")])
    out = capsys.readouterr().out
    assert "FCDM-N cooled 20 % reaches FID" in out
    assert (tmp_path / "figures" / "fid_vs_steps.png").is_file()
    residuals = pd.read_csv(tmp_path / "figures" / "fit_residuals.csv")
    assert set(residuals.loc[residuals["kind"].notna(), "at"]) == {"cooled 20 %"}


# --- a study that was trained ------------------------------------------------------------------------


def test_a_study_on_the_digits_from_the_command_line_to_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=N", "model.width=8", "steps=[10]", "cooldown=null,0.2", "optimiser.warmup_steps=2", "study=c")
    python_in(tmp_path, "-m", "fcdm.train", "-m", *words, "data=digits", *TINY)
    runs = tmp_path / "runs"
    table = tidy_table(runs, "c")
    assert list(table["label"]) == ["FCDM-N", "FCDM-N cooled 20 %"]
    assert list(table["steps"]) == [10, 10]
    parent = table["run"].iloc[0]
    assert list(table["trajectory"]) == [parent, f"{parent} cooled 20 %"]
    assert table.attrs["missing"] == []
    views = {view.name: view for view in list_runs(runs)}
    branch = views[table["run"].iloc[-1]]
    assert branch.branched_from == (parent, 8)
    before = views[parent].training_seconds(8)
    assert before is not None
    assert table["seconds"].iloc[-1] > before > 0
    report.main(["c", "--runs", str(runs), "--out", str(tmp_path / "page.html")])
    assert f"{parent} at 8" in (tmp_path / "page.html").read_text()
    assert "not evaluated yet" not in capsys.readouterr().out


# --- reports -----------------------------------------------------------------------------------------


def test_a_report_sets_cooled_beside_constant_and_raw_beside_average(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, *_ = make_cooled(tmp_path / "runs", ends=(100, 200))
    report.main(["cooled", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "page.html")])
    capsys.readouterr()
    (table,) = [
        one for one in report.make_report(study_facts(tmp_path / "runs", "cooled")).tables if "cooldown" in one.name
    ]
    row = dict(zip(table.columns, map(str, table.rows[1]), strict=True))
    fid = fid_at("N", 200)
    assert row["Model"] == "FCDM-N cooled 20 %"
    assert (row["Steps"], row["Seeds"], row["Cooldown (steps)"]) == ("200", "1", "40")
    for column, gain in (("Not cooled", 1.0), ("Cooled", GAIN), ("Cooled, raw weights", RAW_GAIN)):
        assert float(row[column]) == pytest.approx(gain * fid, rel=1e-3)
    # An average of decay 0.999 from the first step on: d (1 - d^n) / (1 - d) steps.
    assert float(row["Average's lag (steps)"]) == pytest.approx(0.999 * (1 - 0.999**200) / 0.001, abs=0.5)
    assert float(row["Branch alone (PFLOPs)"]) == pytest.approx(6 * 4_100_000 * 128 * 40 / 1e15, rel=1e-3)
    assert row["Leaves (parent and step)"] == f"{parent.name} at 160"
    page = (tmp_path / "page.html").read_text()
    assert 'id="cooldown"' in page
    assert "evaluated-by-trained" not in page
    assert "160 trained" in page
    assert f"page-cooldown-{protocol_id(PROTOCOL)}.tex" in {path.name for path in tmp_path.iterdir()}


def test_what_a_branch_cost_is_counted_without_its_parents_steps(tmp_path: Path) -> None:
    parent, branch = make_cooled(tmp_path, ends=(800,))
    costs = next(one for one in report.make_report(study_facts(tmp_path, "cooled")).tables if one.name == "cost")
    flops = {str(row[0]): str(row[costs.columns.index("Training PFLOPs")]) for row in costs.rows}
    per_step = 6 * 4_100_000 * 128 / 1e15
    assert float(flops[parent.name]) == pytest.approx(800 * per_step, rel=1e-3)
    assert float(flops[branch.name]) == pytest.approx(160 * per_step, rel=1e-3)
    assert float(flops["all"]) == pytest.approx(960 * per_step, rel=1e-3)


def test_a_report_without_branches_says_nothing_of_them(tmp_path: Path) -> None:
    make_study(tmp_path, [make_run(tmp_path, grids=False)])
    made = report.make_report(study_facts(tmp_path, "demo"))
    assert 'id="cooldown"' not in made.html
    assert not any("cooldown" in table.name for table in made.tables)


def test_a_branch_that_was_evaluated_by_raw_weights_alone_has_a_table_of_these(tmp_path: Path) -> None:
    make_cooled(tmp_path, ends=(100, 200), constant=False)
    path = tmp_path / "studies" / "cooled.json"
    content = json.loads(path.read_text())
    content["requests"] = [one for one in content["requests"] if one["protocol_id"] != protocol_id(PROTOCOL)]
    path.write_text(json.dumps(content | {"protocol_id": protocol_id(RAW), "protocol": RAW}))
    (table,) = [one for one in report.make_report(study_facts(tmp_path, "cooled")).tables if "cooldown" in one.name]
    row = dict(zip(table.columns, map(str, table.rows[0]), strict=True))
    assert (row["Not cooled"], row["Cooled"], row["Average's lag (steps)"]) == ("–", "–", "–")
    assert float(row["Cooled, raw weights"]) == pytest.approx(RAW_GAIN * fid_at("N", 100), rel=1e-3)


def test_seeds_are_averaged_over_their_branches(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_cooled(tmp_path, ends=(100,), seed=seed)
    (table,) = [one for one in report.make_report(study_facts(tmp_path, "cooled")).tables if "cooldown" in one.name]
    ((*cells,),) = table.rows
    row = dict(zip(table.columns, cells, strict=True))
    mean = float(np.mean([fid_at("N", 100, seed) for seed in (0, 1)]))
    assert row["Seeds"] == "2"
    assert row["Cooled"].mean == pytest.approx(GAIN * mean)  # type: ignore[union-attr]
