"""`hydra/launcher=plan` of cooldown branches: what they cost, where they leave, against hand calculations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fcdm.data.image_counts import DIGITS_TRAIN
from fcdm.jobs.make_jobs import make_jobs
from fcdm.plan.make_plan import make_plan
from fcdm.plan.model import Plan
from fcdm.runs.folder import open_run
from fcdm.slurm.options import SlurmOptions
from fcdm.sweep.points import configs_of
from tests.support.commands import TINY, Command, composing

N_MACS = 1_810_176
"""Forward MACs of FCDM-N on an image of 8x8 pixels."""
BATCH = 16
STEP = 6 * N_MACS * BATCH
"""FLOPs of a step: three forward passes of two FLOPs per MAC."""
DRAWN = 2 * 20 * 2 * N_MACS
"""FLOPs of 20 samples by 2 steps."""
STUDY = (*TINY, "model=N", "data=digits", "steps=[20,40]")
BRANCHES = ["N-digits-8px-cooldown-16-20", "N-digits-8px-cooldown-32-40"]


def planned(folder: Path, *words: str, signal_delay_s: int | None = None) -> Plan:
    """The plan of a command whose runs would be in the folder."""
    with composing() as composer:
        configs = configs_of(composer, [[*STUDY, *words, f"runs_dir={folder}"]])
    return make_plan(make_jobs(configs), SlurmOptions(signal_delay_s=signal_delay_s))


def test_a_branch_costs_its_share_alone(fcdm: Command, tmp_path: Path) -> None:
    """With the evaluations of the trajectory as it goes on, and without them."""
    words = ("-m", *STUDY, "hydra/launcher=plan", "hydra.launcher.json=true")
    content: Any = json.loads(fcdm(*words, "cooldown=null,0.2").stdout)
    parent, *branches = content["runs"]
    assert [run["run"].rpartition("-")[0] for run in content["runs"]] == ["N-digits-8px", *BRANCHES]
    assert (parent["budgets"], parent["trained_only"], parent["branch"]) == ([16, 20, 32, 40], [16, 32], None)
    assert parent["left"]["flops"]["training"] == 40 * STEP
    assert parent["left"]["flops"]["sampling"] == 2 * DRAWN, "at 20 and at 40, and nowhere else"
    assert [run["branch"]["start"] for run in branches] == [16, 32]
    for run, steps, budget in zip(branches, (4, 8), (20, 40), strict=True):
        assert run["branch"]["parent"] == parent["run"]
        assert (run["branch"]["begins"], run["branch"]["share"]) == (run["branch"]["start"], 0.2)
        assert run["left"]["flops"]["training"] == run["whole"]["flops"]["training"] == steps * STEP
        assert run["left"]["flops"]["sampling"] == 2 * DRAWN, "by its average and by its raw weights"
        assert (run["budget_flops"], run["trained_only"]) == ([budget * STEP], [])
        assert run["budget_epochs"] == [pytest.approx(budget * BATCH / DIGITS_TRAIN)]
    assert content["branches"]["runs"] == 2
    assert content["branches"]["cpu"]["flops"]["training"] == 12 * STEP
    assert content["totals"]["cpu"]["flops"]["training"] == 52 * STEP
    (saved,) = content["savings"]
    assert saved["flops"]["training"] == (2 * (20 + 40) - 52) * STEP
    assert not list(tmp_path.iterdir())

    content = json.loads(fcdm(*words, "cooldown=0.2").stdout)
    parent = content["runs"][0]
    assert (parent["budgets"], parent["trained_only"]) == ([16, 32], [16, 32])
    assert parent["left"]["flops"] == {"training": 32 * STEP, "sampling": 0, "decoding": 0, "metrics": 0}
    assert parent["averages"] == []
    assert content["totals"]["cpu"]["flops"]["training"] == 44 * STEP
    assert content["savings"][0]["flops"]["training"] == (20 + 40 - 44) * STEP


def test_the_table_says_where_each_leaves(fcdm: Command) -> None:
    done = fcdm("-m", *STUDY, "cooldown=null,0.2", "hydra/launcher=plan")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    parent, *branches = [line for line in lines if line[:1] and line[0] in "123" and "new" in line]
    assert parent[2:8] == ["20,", "40;", "only", "trained:", "16,", "32"]
    assert [line[2:6] for line in branches] == [["#1", "at", "16", "20"], ["#1", "at", "32", "40"]]
    of_it = next(line for line in lines if line[:3] == ["of", "it", "branches"])
    assert of_it[3:5] == ["2.09", "G"]  # 12 x 6 x 1.810 M x 16


@pytest.mark.parametrize(
    ("kept", "begins"), [((8,), (16, 32)), ((16, 20), (16, 32)), ((16, 32, 40), (16, 32)), ((8, 40), (8, 8))]
)
def test_what_the_parent_has_is_where_a_branch_begins(
    tmp_path: Path, kept: tuple[int, ...], begins: tuple[int, ...]
) -> None:
    """It has still to come to 16, to 32, to nothing; and it has passed both without a checkpoint there."""
    parent = planned(tmp_path, "cooldown=0.2").runs[0].job
    for step in kept:
        (open_run(parent.config).checkpoints / f"step-{step:08d}").mkdir(parents=True)
    plan = planned(tmp_path, "cooldown=0.2")
    assert plan.runs[0].left.flops["training"] == max(0, 32 - kept[-1]) * STEP
    branches = plan.runs[1:]
    assert tuple(run.standing.begins for run in branches) == begins
    ends = (20, 40)
    assert [run.left.flops["training"] for run in branches] == [
        (end - begin) * STEP for end, begin in zip(ends, begins, strict=True)
    ]
    # Its own checkpoint is what it goes on from, whatever became of its parent.
    own = branches[1].job
    (open_run(own.config).checkpoints / "step-00000036").mkdir(parents=True)
    shutil.rmtree(parent.folder)
    assert planned(tmp_path, "cooldown=0.2").runs[2].left.flops["training"] == 4 * STEP


@pytest.mark.parametrize("kept", [8, 40])
def test_a_parent_that_was_changed_by_hand_is_told(tmp_path: Path, kept: int) -> None:
    parent = planned(tmp_path, "cooldown=0.2").runs[0].job
    run = open_run(parent.config)
    (run.checkpoints / f"step-{kept:08d}").mkdir(parents=True)
    frozen = run.folder / "config.yaml"
    frozen.write_text(frozen.read_text().replace("seed: 0", "seed: 1"))
    branch = planned(tmp_path, "cooldown=0.2").runs[1]
    assert branch.standing.state == "refused"
    assert "was changed by hand" in branch.standing.text


def test_an_average_longer_than_the_cooldown_is_a_warning(tmp_path: Path) -> None:
    """At step 40 the default average is 5 steps behind, at 20 it is 2."""
    assert planned(tmp_path, "cooldown=0.2").warnings == []
    first, second = planned(tmp_path, "cooldown=0.1").warnings
    assert first.startswith("N-digits-8px-cooldown-18-20-")
    assert "more than the 2 of the cooldown" in first
    assert "more than the 4 of the cooldown" in second


def test_evaluation_jobs_are_of_branches_alone(tmp_path: Path) -> None:
    """A parent that evaluates nothing has no evaluation job, and needs no time for one."""
    where = ("evaluation.where=job", "evaluation.resources.hours=0.001")
    plan = planned(tmp_path, "cooldown=0.2", *where, signal_delay_s=60)
    assert [run.evaluation is None for run in plan.runs] == [True, False, False]
    (warning,) = plan.warnings
    assert warning.startswith(f"{plan.runs[1].job.name} and 1 more: ")
    assert "evaluation.resources.hours" in warning


def test_studies_that_share_a_parent(tmp_path: Path) -> None:
    """Its trajectory once, with a checkpoint where each branch leaves."""
    with composing() as composer:
        choices = [[*STUDY, f"runs_dir={tmp_path}"] for _ in range(2)]
        configs = configs_of(composer, [[*choices[0], "study=a"], [*choices[1], "study=b", "cooldown=0.2"]])
    plan = make_plan(make_jobs(configs), SlurmOptions())
    assert plan.sharing is not None
    a, b = plan.sharing.studies["a"], plan.sharing.studies["b"]
    assert (a.training_flops, b.training_flops) == (40 * STEP, 44 * STEP)
    assert plan.sharing.together.training_flops == 52 * STEP
    each = a.checkpoint_bytes // 2
    assert (b.checkpoint_bytes, plan.sharing.together.checkpoint_bytes) == (4 * each, 6 * each)
    assert (a.evaluations, b.evaluations, plan.sharing.together.evaluations) == (2, 4, 6)


def test_a_share_that_cannot_be_is_one_line(fcdm: Command) -> None:
    done = fcdm("-m", *STUDY, "cooldown=1.5", "hydra/launcher=plan")
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "cooldown=1.5 is longer than the run" in done.stderr


def test_without_data_it_is_planned_too(fcdm: Command) -> None:
    done = fcdm("-m", "model=S", "steps=1000", "cooldown=0.1", "hydra/launcher=plan", "hydra.launcher.json=true")
    content: Any = json.loads(done.stdout)
    parent, branch = content["runs"]
    assert branch["branch"]["parent_id"] is None
    assert branch["branch"]["start"] == 900
    assert branch["left"]["flops"]["training"] * 9 == parent["left"]["flops"]["training"]
