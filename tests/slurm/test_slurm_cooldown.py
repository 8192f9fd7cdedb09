"""A whole study of equal compute, `sweeps/cooldown_digits.yaml` made small, on one machine and on a real SLURM.

Budgets in FLOPs, five sizes of both families matched in MACs, a rate by a rule of size, and cooldown branches; with
kill -9, and bit for bit the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import environment, evaluations, python_in, weights
from tests.support.slurm_lab import SMALL, Lab

pytestmark = pytest.mark.slow

FEWER = ("flops=2.4e10", "cooldown=0.2", "evaluation.weights=ema", *SMALL, "log_every=2")
STUDY = ("+sweeps=cooldown_digits", "resources.mem_gb=null", *FEWER)
LOCAL = ("-m", *STUDY, "hydra/launcher=local", "hydra.launcher.jobs=2")


def runs_in(folder: Path) -> dict[str, Path]:
    """Readable name with its id -> folder, of 10 trajectories and the branch of each."""
    found = {path.parent.name: path.parent for path in folder.glob("runs/*/run.json")}
    assert len(found) == 20
    assert sum("-cooldown-" in name for name in found) == 10
    return found


def last_weights(run: Path) -> dict[str, str]:
    return weights(run, max(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study under `hydra/launcher=local`, whose launcher is killed twice, its jobs with it."""
    folder = tmp_path_factory.mktemp("local")
    for count in (2, 9):
        with subprocess.Popen(
            [sys.executable, "-m", "fcdm.train", *LOCAL],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as launcher:
            while launcher.poll() is None and len(list(folder.glob("runs/*/records.jsonl"))) < count:
                time.sleep(0.05)
            assert launcher.poll() is None, "killed at work"
            launcher.kill()
    python_in(folder, "-m", "fcdm.train", *LOCAL)
    return folder


def test_on_one_machine_with_kill_9(local: Path, tmp_path: Path) -> None:
    """Two of the branches by themselves, as single runs that nobody disturbs, are the same."""
    rule = ("optimiser.lr_rule=width", "optimiser.lr_power=0.5", "optimiser.lr_base=[fcdm/w40,dit/w96]")
    for model in (["model=fcdm/w48"], ["model=dit/w80", "model.match_macs=fcdm/w32"]):
        words = [*model, "data=digits", *rule, *FEWER]
        python_in(tmp_path, "-m", "fcdm.train", *words)
    alone = [path.parent for path in tmp_path.glob("runs/*/run.json")]
    assert len(alone) == 2
    for run in alone:
        assert last_weights(run) == last_weights(runs_in(local)[run.name])
        assert evaluations(run) == evaluations(runs_in(local)[run.name])


def test_on_slurm_with_kill_9(here: Lab, local: Path) -> None:
    """A parent is killed: its branch, which waited for it, does not train in its place; the same command does both."""
    here.sweep(*STUDY)
    branch, parent = sorted(here.runs.glob("fcdm-w24-*"), key=lambda run: "-cooldown-" not in run.name)
    here.wait(lambda: list((parent / "holders").glob("*.json")), "the parent's start")
    here.kill(here.task_pid(parent))
    here.wait_all_ended()
    (error,) = branch.glob("jobs/*.error.json")
    said = json.loads(error.read_text())["error"]
    assert f"{branch.name} branches from {parent.name} at step 51, and that is trained to " in said
    assert not list(branch.glob("checkpoints/*"))
    again = here.sweep(*STUDY)
    assert "2 submitted, 18 done" in again.stdout, again.stdout
    here.wait_all_ended()
    mine, wanted = runs_in(here.folder), runs_in(local)
    assert mine.keys() == wanted.keys()
    for name, run in mine.items():
        assert last_weights(run) == last_weights(wanted[name]), here.describe()
        assert evaluations(run) == evaluations(wanted[name])
    assert here.status("cooldown_digits").returncode == 0
