"""Forecasts by the joint law of a study of a known surface: what is written is true of it, and plans say the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fcdm.analysis.stats.study_forecast import JointTeller
from fcdm.forecast import main
from fcdm.forecasts.chain import read_ledger
from fcdm.forecasts.law_file import read_laws
from fcdm.jobs.job import Job
from fcdm.runs.run_cost import run_cost
from tests.support import known_surface
from tests.support.measured_study import measured_study, surface

SIZES = "fcdm/w16,fcdm/w24,fcdm/w32,fcdm/w40,fcdm/w48"
BUDGETS = (1000, 2000, 4000, 8000)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Job], JointTeller]:
    """Five sizes, four budgets, two seeds; and what fits them, once."""
    runs = tmp_path_factory.mktemp("joint") / "runs"
    return runs, measured_study(runs, SIZES, BUDGETS), JointTeller(draws=60)


def test_a_larger_size_is_foretold_within_the_validated_gap_and_refused_beyond(
    study: tuple[Path, list[Job], JointTeller], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _, teller = study
    words = ["demo", f"runs_dir={runs}", "--metric=fid"]
    assert main([*words, "model=fcdm/w48", "steps=[6000,16000,1600000]", "seed=2"], teller) == 1
    told = capsys.readouterr()
    assert "further than the largest validated gap" in told.err
    assert "--force forecasts all the same" in told.err
    inside, further = read_ledger(runs / "forecasts").forecasts
    assert (inside.kind, further.kind) == ("interpolation", "prediction")
    for entry in (inside, further):
        truth = surface(entry.run.forward_macs, entry.images) * math.exp(-0.01)
        low, high = entry.law.interval(0.95)
        assert low < truth < high
        assert entry.new_run.interval(0.95)[0] < low
        assert entry.law.median == pytest.approx(truth, rel=0.03)
        at_one = min(entry.curve, key=lambda point: abs(point[0] - 1))
        assert at_one == pytest.approx((1, entry.law.median), rel=0.01)
    assert further.gap == pytest.approx(2)
    assert further.validated_gap is not None
    assert further.validated_gap >= 2
    assert further.seed_deviation == pytest.approx(0.014, abs=0.001)
    assert further.baselines["last value"].median == pytest.approx(
        surface(further.run.forward_macs, 8000 * 128), rel=0.02
    )
    settings = further.fit["settings"]
    assert settings["form"] == "E + A N^-alpha + B D^-beta"
    assert settings["cuts"]["least_steps"] == 1000
    assert (further.fit["points"], settings["group"]) == (40, "FCDM")
    assert main([*words, "model=fcdm/w48", "steps=1600000", "seed=2", "--force"], teller) == 0
    (forced,) = read_ledger(runs / "forecasts").forecasts[2:]
    assert "further than the largest validated gap" in forced.forced[0]


def test_a_hold_out_leaves_the_size_out_of_the_fit(
    study: tuple[Path, list[Job], JointTeller], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _, teller = study
    words = ["demo", f"runs_dir={runs}", "--ledger", str(tmp_path), "--metric=fid", "model=fcdm/w48", "steps=8000"]
    assert main([*words, "--hold-out=size", "--force"], teller) == 0
    (entry,) = read_ledger(tmp_path).forecasts
    assert (entry.kind, entry.fit["points"]) == ("hold-out", 32)
    capsys.readouterr()
    assert main(["--score", "--ledger", str(tmp_path), "--runs", str(runs)]) == 0
    assert "1 hold-out" in capsys.readouterr().out


def test_plans_say_what_the_ledger_says(study: tuple[Path, list[Job], JointTeller], tmp_path: Path) -> None:
    """Of every quantile: inside what was fitted, at a gap in images alone, and at one in images and compute."""
    runs, jobs, teller = study
    words = ["demo", f"runs_dir={runs}", "--ledger", str(tmp_path), "--metric=fid"]
    for model in ("fcdm/w16", "fcdm/w48"):
        assert main([*words, f"model={model}", "steps=[6000,16000]", "seed=3"], teller) == 0
    assert main(words, teller) == 0
    (law,) = read_laws(tmp_path)
    entries = read_ledger(tmp_path).forecasts
    assert len(entries) == 4
    for entry in entries:
        macs, images = entry.run.forward_macs, entry.images
        planned = law.new_run(macs, images, 6.0 * macs * images)
        assert planned is not None
        spread = math.log(entry.new_run.quantiles[-1] / entry.new_run.quantiles[0])
        assert planned.logs == pytest.approx(entry.new_run.logs, abs=0.03 * spread)
    macs, images = run_cost(jobs[-1].config).forward_macs, 8000 * 128
    assert law.new_run(macs, 100 * images, 600.0 * macs * images) is None
    assert law.common["model.family"] == "fcdm"


def test_a_distance_with_few_budgets_is_foretold_through_the_loss(tmp_path: Path) -> None:
    """Losses at every budget by one protocol, FID at the last two by another: as a study that has to save does it."""
    runs = tmp_path / "runs"
    few = ("evaluation.samples=500",)
    measured_study(runs, SIZES, BUDGETS, metrics=["heldout_loss"])
    measured_study(runs, SIZES, BUDGETS[2:], settings=few)
    words = ["demo", f"runs_dir={runs}", "model=fcdm/w48", "steps=16000", "seed=2"]
    assert main([*words, *few, "--metric=fid"], JointTeller(draws=60)) == 0
    (entry,) = read_ledger(runs / "forecasts").forecasts
    truth = surface(entry.run.forward_macs, entry.images) * math.exp(-0.01)
    low, high = entry.new_run.interval(0.95)
    assert low < truth < high
    assert entry.new_run.median == pytest.approx(truth, rel=0.04)
    assert "through" in entry.fit["settings"]
    assert entry.protocol["samples"] == 500
    assert entry.fit["points"] == 40 + 20
    assert entry.gap == pytest.approx(2)
    assert main(["demo", f"runs_dir={runs}", "--metric=fid"], JointTeller(draws=60)) == 0
    (law,) = read_laws(runs / "forecasts")
    macs = entry.run.forward_macs
    planned = law.new_run(macs, entry.images, 6.0 * macs * entry.images)
    assert planned is not None
    assert law.protocol_id == entry.protocol_id
    assert planned.logs == pytest.approx(entry.new_run.logs, abs=0.01)


def test_a_law_is_fitted_once_though_a_budget_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    monkeypatch.setattr("fcdm.analysis.stats.study_forecast.validate", lambda points, **how: fits.append(points))
    table = known_surface.study(2, sizes=known_surface.FEW_SIZES, families=("fcdm",))
    table.loc[3, "fid"] = math.nan
    teller = JointTeller()
    for rows in (table, table.copy()):
        with pytest.raises(AttributeError):  # of a validation that is none
            teller.laws_of(rows, "fid")
    assert len(fits) == 1
    table.loc[4, "fid"] *= 1.01
    with pytest.raises(AttributeError):
        teller.laws_of(table, "fid")
    assert len(fits) == 2, "other values are another law"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=dit/N-2", "steps=8000"), "no run of family dit"),
        (("model=fcdm/w48", "steps=9000", "seed=3", "--least-steps=3000"), "a joint law needs"),
        (("model=fcdm/w48", "steps=9000", "seed=3", "--tuning=tuned"), "no study 'tuned'"),
    ],
)
def test_what_the_points_do_not_tell_is_one_line(
    study: tuple[Path, list[Job], JointTeller], words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", f"runs_dir={study[0]}", "--metric=fid", *words]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("fcdm.forecast: ")) == ("", 1)
    assert said in told.err
