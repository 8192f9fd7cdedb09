"""How far the average is behind: closed forms against the engine's own rule, and what a user reads of it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fcdm.config.ema_lag import Lag, ema_decay, ema_lag, lag_warning
from fcdm.config.schema import EMAConfig
from fcdm.engine.ema import update_ema
from fcdm.errors import UserError
from fcdm.evaluate import main as evaluate
from fcdm.jobs.make_jobs import make_jobs
from fcdm.plan.make_plan import make_plan
from fcdm.plan.plan_json import print_json
from fcdm.plan.plan_table import print_tables
from fcdm.plan.warnings import warnings_before_submission
from fcdm.sample import main as sample
from fcdm.slurm.options import SlurmOptions
from tests.support.commands import TINY, Command, composed
from tests.support.tiny_runs import tiny_run


def simulated(ema: EMAConfig, steps: list[int]) -> list[Lag]:
    """By the engine's own update of two made-up weights: 1 at first and 0 for ever, and the number of the step."""
    average = [torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))]
    found = []
    for step in range(1, max(steps) + 1):
        now = [torch.nn.Parameter(torch.tensor([0.0, float(step)], dtype=torch.float64))]
        update_ema(average, now, ema_decay(ema, step))
        if step in steps:
            initial, mean = average[0].tolist()
            found.append(Lag(step, initial, step - mean))
    return found


@pytest.mark.parametrize(
    ("decay", "rampup"),
    [(0.9999, None), (0.9999, 0.1), (0.999, 0.03), (0.99, 0.5), (0.9999, 1.0), (0.5, None), (0.0, None), (1.0, 0.1)],
)
def test_closed_forms_are_the_engines_rule(decay: float, rampup: float | None) -> None:
    steps = [1, 2, 10, 200, 999, 1000, 1001, 3000]
    for wanted in simulated(EMAConfig(decay, rampup), steps):
        found = ema_lag(EMAConfig(decay, rampup), wanted.step)
        assert found.initial == pytest.approx(wanted.initial, rel=2e-3, abs=1e-9)
        assert found.age == pytest.approx(wanted.age, rel=2e-3, abs=1e-9)


def test_a_ramp_that_ends_within_the_training() -> None:
    for wanted in simulated(EMAConfig(0.999, 0.1), [6_931, 6_932, 9_000]):
        found = ema_lag(EMAConfig(0.999, 0.1), wanted.step)
        assert (found.initial, found.age) == (
            pytest.approx(wanted.initial, abs=1e-9),
            pytest.approx(wanted.age, rel=1e-3),
        )


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_length_that_is_a_share_of_the_training(share: float) -> None:
    """Behind by the same share of any budget, and as wide as EDM2's power function average of that exponent
    (arXiv 2312.02696: sigma_rel of gamma, the deviation of a Beta distribution)."""
    ema = EMAConfig(None, share)
    for wanted in simulated(ema, [10, 1000, 4000]):
        found = ema_lag(ema, wanted.step)
        assert (found.initial, found.age) == (
            pytest.approx(wanted.initial, abs=1e-4),
            pytest.approx(wanted.age, rel=2e-3),
        )
    assert ema_lag(ema, 10**7).age / 10**7 == pytest.approx(1 / (1 + math.log(2) / share), rel=1e-4)
    ends = [[torch.nn.Parameter(torch.tensor([0.0], dtype=torch.float64))] for _ in range(2)]
    for step in range(1, 2001):  # the mean and the mean square of the step that a weight is of
        for power, average in enumerate(ends, start=1):
            now = [torch.nn.Parameter(torch.tensor([(step / 2000) ** power], dtype=torch.float64))]
            update_ema(average, now, ema_decay(ema, step))
    mean, square = (average[0].item() for average in ends)
    gamma = math.log(2) / share - 1
    sigma_rel = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
    assert math.sqrt(square - mean**2) == pytest.approx(sigma_rel, rel=0.01)


def test_it_is_a_choice_alike_for_both_families() -> None:
    for model in ("N", "dit/N-2", "S", "dit/XL-2"):
        assert composed(f"model={model}", "ema=share").ema == EMAConfig(None, 0.1)
    with pytest.raises(UserError, match=r"leave the EMA without a length: say ema\.decay=0\.9999"):
        composed("model=N", "ema=share", "ema.rampup=null")


def test_millions_of_steps_take_no_time() -> None:
    assert ema_lag(EMAConfig(0.9999, None), 7_000_000).age == pytest.approx(9_999)
    assert ema_lag(EMAConfig(0.999999, 0.01), 7_000_000).age == pytest.approx(7_000_000 / (1 + 69.31), rel=1e-2)


CASE = ("model=N", "data=imagenet", "ema.rampup=null", "steps=200")
"""The reported one: evaluated, an average that is 98 % initial weights."""


def test_the_reported_case_is_gone_and_asked_for_is_warned_of(tmp_path: Path) -> None:
    assert composed(*CASE[:2], CASE[3]).ema.rampup == 0.1
    jobs = make_jobs([composed(*CASE, f"runs_dir={tmp_path}")], data_needed=False)
    (warning,) = warnings_before_submission(jobs, None)
    assert "to 98 % at step 200: ema.rampup=0.1 (another run), evaluation.weights=raw or more steps" in warning
    for way in ("evaluation.weights=raw", "ema.rampup=0.1", "steps=40_000"):
        assert not warnings_before_submission(make_jobs([composed(*CASE, way)], data_needed=False), None), way


@pytest.mark.parametrize("model", ["N", "M", "dit/N-2", "dit/M-2", "S", "B", "L", "XL", "dit/XL-8"])
def test_the_small_ones_ramp_up_and_the_papers_recipe_stays(model: str) -> None:
    small = model.rpartition("/")[2][0] in "NM"
    assert composed(f"model={model}", "data=imagenet").ema == EMAConfig(0.9999, 0.1 if small else None)
    assert composed(f"model={model}", "data=imagenet", "ema=ramped").ema.rampup == 0.1


def test_the_plan_says_it_for_each_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["model=S", "steps=[200,50_000,400_000]", f"runs_dir={tmp_path}"]
    plan = make_plan(make_jobs([composed(*asked)], data_needed=False), SlurmOptions())
    print_tables(plan, "auto")
    said = capsys.readouterr().out
    assert (
        "EMA 0.9999, no ramp-up: at step 200 98 % initial weights, 198 steps (99 %) behind; at step 50,000 0.7 % "
        "initial weights, 9,932 steps (20 %) behind; at step 400,000 0 % initial weights, 9,999 steps (2 %) behind"
    ) in said
    assert "warning: S-imagenet-256px: the average that is evaluated (ema.decay=0.9999) still is" in said
    print_json(plan)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert [(lag["step"], round(lag["initial"], 4)) for lag in run["averages"]] == [
        (200, 0.9802), (50_000, 0.0067), (400_000, 0.0)
    ]  # fmt: skip


def test_the_start_says_it_before_training(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("model=N", "steps=[2,4]", *TINY)
    first = done.stdout.splitlines()[0]
    assert "EMA 0.9999, ramp-up 0.1: at step 2 0 % initial weights, 0 steps (2 %) behind; at step 4" in first
    assert "warning" not in done.stdout + done.stderr
    done = fcdm("model=N", "ema.rampup=null", "steps=4", *TINY)
    lines = done.stdout.splitlines()
    assert "no ramp-up: at step 4 100 % initial weights, 4 steps (100 %) behind" in lines[0]
    assert "warning: the average that is evaluated" in lines[1]
    assert "FID" in lines[2]


def test_so_does_the_start_of_several(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("-m", "model=N", "ema.rampup=null", "steps=2", "seed=0,1", "hydra/launcher=local", *TINY)
    lines = [line for line in done.stdout.splitlines() if "initial weights" in line]
    assert len(lines) == 2, "one for both"
    assert all(" and 1 more: " in line for line in lines)
    assert "warning: the average that is evaluated" in lines[1]


def test_evaluating_and_sampling_such_an_average_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run, _, _ = tiny_run(tmp_path / "runs", "ema.rampup=null")
    quick = ["samples=20", "sampling_steps=2", "batch_size=10"]
    assert sample([f"{run.name}@4", *quick, "--dry-run"]) == 0
    assert "warning: the average that is evaluated" in capsys.readouterr().out
    assert evaluate([f"{run.name}@4", *quick, "mlflow_uri=off"]) == 0
    assert "100 % at step 4" in capsys.readouterr().err
    assert sample([f"{run.name}@4", *quick, "weights=raw", "--dry-run"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_of_other_weights_it_is_said_whose(tmp_path: Path) -> None:
    config: Any = dataclasses.replace(composed(*CASE), init_from="0" * 64 + "@4")
    assert "the initial weights, those of init_from, to 98 %" in str(lag_warning([(config, 200)]))
