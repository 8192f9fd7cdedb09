"""Budgets in FLOPs: equal compute for models of any size, as steps of one trajectory, or one line that says why not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.config.said import Said
from fcdm.errors import UserError
from fcdm.runs.flop_budgets import settle_budgets
from fcdm.runs.identity import run_id, science
from fcdm.runs.run_cost import train_flops
from tests.support.commands import TINY, Command, composed

FLOPS = Said(frozenset({"flops"}))


def test_each_model_takes_the_steps_that_spend_them() -> None:
    """By hand: 6 x 3.07339e9 MACs x 256 images are 4.7207 TFLOPs a step of S, of dit/XL-2 182.2025."""
    assert composed("model=S", "flops=[1e17,1e18]").steps == [21_183, 211_832]
    assert composed("model=dit/XL-2", "flops=1e18").steps == [5_488]
    assert composed("model=S", "flops=1e18", "batch_size=512").steps == [105_916]


@given(st.sampled_from(["N", "M", "dit/N-2"]), st.floats(1e11, 1e15), st.sampled_from([16, 100, 128]))
@settings(deadline=None, max_examples=40)
def test_the_nearest_step_is_at_most_half_a_step_off_and_else_it_is_said(model: str, budget: float, batch: int) -> None:
    config = composed(f"model={model}", f"batch_size={batch}")
    config.flops = budget
    notes = settle_budgets(config, FLOPS)
    (steps,) = config.steps
    assert abs(train_flops(config, steps) - budget) <= train_flops(config, 1) / 2 * (1 + 1e-9)
    assert bool(notes) == (abs(train_flops(config, steps) / budget - 1) > 0.01)
    assert config.flops is None


def test_what_whole_steps_miss_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert composed("model=N", "flops=[1e10,1e12]", "seed=11").steps == [7, 719]
    (note,) = capsys.readouterr().err.splitlines()
    assert note == ("note: flops=1e+10 of N: 7 steps are the nearest, 9.73 GFLOPs (-2.7%), since one is 1.39 GFLOPs")


def test_it_is_the_run_of_these_steps() -> None:
    by_flops, by_steps = composed("model=N", "flops=1e12"), composed("model=N", "steps=719")
    assert by_flops == by_steps
    by_flops.data.checksum = by_steps.data.checksum = "0"
    assert run_id(science(by_flops)) == run_id(science(by_steps))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flops=1e12", "steps=3"], "flops=1000000000000.0 and steps=3 both say how long N is trained: leave one"),
        (["flops=1e8"], "less than half a step of N, which takes 1.39e+09 FLOPs at batch_size=128"),
        (["flops=0"], "flops=0 is no number of FLOPs above 0: say flops=1e15"),
        (["flops=[1e12,-1]"], "flops=-1 is no number of FLOPs"),
        (["flops=true"], "flops=True is no number of FLOPs"),
        (["flops=nan"], "flops=nan is no number of FLOPs"),
        (["flops=many"], "flops=many is no number of FLOPs"),
        (["flops=[]"], "flops=[] asks for nothing: say flops=1e15"),
        (["flops=1e12", "resolution=6"], "resolution"),
        (["flops=1e12", "batch_size=0"], "batch_size=0 cannot be"),
    ],
)
def test_what_cannot_be_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        composed("model=N", *words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_equal_compute_across_families_in_the_plan(fcdm: Command) -> None:
    """`-m model=... flops=[...] hydra/launcher=plan`, the other budgets of a grid replaced; nothing is made."""
    asked = ["-m", "model=N,M,dit/N-2,dit/M-2", "flops=[3e11,1e12]", "mlflow_uri=off", "hydra/launcher=plan"]
    shown = fcdm(*asked).stdout
    assert len(re.findall(r" \d{3} G, (?:1 T|999 G) ", shown)) == 4
    runs = json.loads(fcdm(*asked, "hydra.launcher.json=true").stdout)["runs"]
    assert len(runs) == 4
    for run in runs:
        for budget, spent in zip((3e11, 1e12), run["budget_flops"], strict=True):
            assert spent == pytest.approx(budget, rel=0.01)
        assert run["budget_epochs"] == [pytest.approx(steps * 128 / 1438) for steps in run["budgets"]]
    assert "more than 10 epochs (all budgets, up to" not in shown
    assert "more than 10 epochs (5 budgets of 8, up to 64)" in shown


def test_a_study_by_flops_trains_one_trajectory(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("-m", "model=N", "flops=1e9,2e9", *TINY, "hydra/launcher=local")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("N-*")
    assert len(list(run.glob("evaluations/step-*.json"))) == 2
