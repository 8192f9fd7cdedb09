"""`python -m fcdm.forecast` by the laws that it fits: from a study on disk to entries, plans and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcdm.forecast import main
from fcdm.ledger.chain import read_ledger
from fcdm.ledger.law_file import read_laws
from fcdm.runs.run_cost import run_cost
from tests.support.measured_study import Law, asked_jobs, by_loss, joint_surface, loss_of, measure, measured_study

MODELS = "fcdm/w8,fcdm/w16,fcdm/w24,fcdm/w32,fcdm/w40"
BUDGETS = (1000, 2000, 4000, 8000)
NO_WARMUP = ("--least-warmups", "0")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose FIDs lie on a known surface, all budgets by one protocol."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    measured_study(runs, MODELS, BUDGETS, law=joint_surface)
    return runs


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, of which only the last two budgets have an FID, as of `+sweeps=fashion`."""
    runs = tmp_path_factory.mktemp("sparse") / "runs"
    measured_study(runs, MODELS, BUDGETS[-2:], law=by_loss, settings=["evaluation.samples=1000"])
    measured_study(runs, MODELS, BUDGETS, law=by_loss, settings=["evaluation.samples=0"])
    return runs


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(source: Path, *words: str) -> tuple[int, str, str]:
        runs = tmp_path / "runs"
        if not runs.exists():
            shutil.copytree(source, runs)
        code = main([*words, f"runs_dir={runs}"])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def truth(runs: Path, model: str, steps: int, law: Law = joint_surface) -> float:
    (job,) = asked_jobs(runs, f"model={model}", f"steps=[{steps}]")
    return law(run_cost(job.config).forward_macs, steps * job.config.batch_size, 2)


def entry(runs: Path) -> dict[str, Any]:
    return dict(json.loads(sorted((runs / "forecasts").glob("0*.json"))[-1].read_text()))


def test_a_larger_model_is_foretold_measured_and_scored(whole: Path, command: Command, tmp_path: Path) -> None:
    words = ("demo", "model=fcdm/w48", "seed=2", "steps=[8000]", "--metric", "fid", *NO_WARMUP)
    code, out, err = command(whole, *words)
    assert code == 0, err
    assert "prediction (no checkpoint of the run existed)" in out
    runs = tmp_path / "runs"
    told, known = entry(runs), truth(runs, "fcdm/w48", 8000)
    low, high = told["new_run"]["quantiles"][1], told["new_run"]["quantiles"][-2]
    assert low < known < high < 1.3 * low
    assert told["fit"]["points"] == 40
    assert told["fit"]["settings"]["form"].startswith("E + A N^-alpha")
    assert set(told["baselines"]) == {"last value", "last two points"}
    assert 1 < told["gap"] < told["validated_gap"]
    (job,) = asked_jobs(runs, *words[1:4])
    measure(job, 8000, law=joint_surface)
    code, out, err = command(whole, "--score", "--json")
    (scored,) = json.loads(out)["forecasts"]
    assert (code, scored["state"]) == (0, "held"), err
    assert scored["skill"]["last value"] > 0
    code, _, err = command(whole, *words)
    assert code == 1
    assert "is no forecast any more: it has been measured" in err


def test_laws_are_written_for_plans_and_reach_as_far_as_they_held(
    whole: Path, command: Command, tmp_path: Path
) -> None:
    code, out, err = command(whole, "demo", "--metric", "fid", *NO_WARMUP)
    assert code == 0, err
    (law,) = read_laws(tmp_path / "runs" / "forecasts")
    assert (law.alpha, law.beta) == pytest.approx((0.5, 0.7), rel=0.05)
    assert law.e == pytest.approx(2, rel=0.05)
    n, images = 1.256e7, 8000 * 128
    said = law.new_run(n, images, 6 * n * images)
    assert said is not None
    assert said.median == pytest.approx(joint_surface(n, images, 2), rel=0.02)
    assert law.new_run(100 * n, images, 600 * n * images) is None
    assert "fid of fcdm = " in out


def test_fids_at_two_budgets_are_foretold_through_the_loss(sparse: Path, command: Command, tmp_path: Path) -> None:
    words = ("demo", "model=fcdm/w48", "seed=2", "steps=[8000]", "evaluation.samples=1000", *NO_WARMUP)
    code, out, err = command(sparse, *words)
    assert code == 0, err
    assert not err
    fid, loss = read_ledger(tmp_path / "runs" / "forecasts").forecasts
    assert (fid.metric, loss.metric) == ("fid", "heldout_loss")
    assert fid.fit["settings"]["through"] == "heldout_loss"
    known = truth(tmp_path / "runs", "fcdm/w48", 8000, by_loss)
    assert fid.new_run.quantiles[0] < known < fid.new_run.quantiles[-1]
    assert loss.new_run.quantiles[0] < loss_of(known) < loss.new_run.quantiles[-1]
    assert loss.fit["points"] == 40, "losses of all budgets, by the protocol that has them"
    assert "held-out loss of one new run" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=fcdm/w96", "resources=cpu", "data=digits", "steps=[8000]"), "further than the largest validated gap"),
        (("model=fcdm/w48", "steps=[64000]"), "further than the largest validated gap"),
        (("model=N,dit/N-2", "steps=[16000]"), "has no run of family dit to fit"),
        (("model=fcdm/w48", "steps=[8000]", "--least-steps", "3000"), "needs 4 sizes with 3 budgets each"),
        (("model=fcdm/w48", "steps=[8000]", "--tuning", "none"), "none"),
    ],
)
def test_what_the_points_do_not_tell_is_one_line(
    whole: Path, command: Command, words: tuple[str, ...], said: str
) -> None:
    code, _, err = command(whole, "demo", *words, "--metric", "fid", *NO_WARMUP)
    assert code == 1
    assert said in err.splitlines()[-1]


def test_what_is_forced_is_marked(whole: Path, command: Command, tmp_path: Path) -> None:
    code, out, err = command(whole, "demo", "model=fcdm/w48", "steps=[64000]", "--metric", "fid", "--force", *NO_WARMUP)
    assert code == 0, err
    assert "forced: " in out
    assert entry(tmp_path / "runs")["forced"]
