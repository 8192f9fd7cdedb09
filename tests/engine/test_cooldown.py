"""Branches that cool down, trained for real: the same weights however they came to be, and nothing done twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcdm.runs.run_lock import claim
from tests.support.commands import TINY, Command, environment, evaluations, python_in, records, weights

STEPS = ("model=N", "optimiser.warmup_steps=4", "log_every=4")
ONE = ("steps=24", "cooldown=0.25")
LOCAL = ("-m", "hydra/launcher=local", "hydra.launcher.jobs=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The branch as one run, trained from nothing: there is no parent."""
    folder = tmp_path_factory.mktemp("alone")
    python_in(folder, "-m", "fcdm.train", *STEPS, *ONE, *TINY)
    (run,) = folder.glob("runs/*-cooldown-18-24-*")
    assert len(list(folder.glob("runs/*/run.json"))) == 1
    return run


def branch_in(folder: Path) -> Path:
    (run,) = folder.glob("runs/*-cooldown-18-24-*")
    return run


def parent_in(folder: Path) -> Path:
    (run,) = (path.parent for path in folder.glob("runs/*/run.json") if "-cooldown-" not in path.parent.name)
    return run


def began(run: Path) -> list[tuple[int, str | None]]:
    return [(line["step"], line.get("branched_from")) for line in records(run) if line.get("segment") == "start"]


def losses(run: Path) -> list[tuple[int, float]]:
    """Those of the cooldown, which a branch records."""
    return [(line["step"], line["loss"]) for line in records(run) if "loss" in line and line["step"] > 20]


def test_a_branch_is_what_it_would_be_alone(fcdm: Command, tmp_path: Path, alone: Path) -> None:
    """Under the local launcher: the parent to the start, evaluated by nobody, and the branch from there."""
    done = fcdm(*LOCAL, *STEPS, *ONE, *TINY)
    assert done.returncode == 0, done.stderr
    run, parent = branch_in(tmp_path), parent_in(tmp_path)
    assert run.name == alone.name
    assert began(run)[0] == (18, f"{parent.name}@18")
    assert weights(run, 24) == weights(alone, 24)
    assert evaluations(run) == evaluations(alone)
    assert len(evaluations(run)) == 2, "by the average, and by the raw weights"
    assert losses(run) == losses(alone)
    assert (sorted(path.name for path in parent.glob("checkpoints/*")), evaluations(parent)) == (["step-00000018"], {})
    again = fcdm(*LOCAL, *STEPS, *ONE, *TINY)
    assert again.returncode == 0, again.stderr
    assert "budgets 18 are trained\n" in again.stdout
    assert len(began(run)) == 2, "its two protocols; nothing again"
    shutil.rmtree(run)
    more = fcdm(*LOCAL, *STEPS, *ONE, *TINY, "cooldown=null,0.25")
    assert more.returncode == 0, more.stderr
    assert weights(branch_in(tmp_path), 24) == weights(alone, 24)
    assert weights(parent, 24) != weights(alone, 24), "whose rate goes on"


def test_a_parent_that_passed_the_start_is_left_earlier(fcdm: Command, tmp_path: Path, alone: Path) -> None:
    """Of an older study there may be no checkpoint where the branch leaves: it does the steps in between itself."""
    for steps in ("steps=10", "steps=24"):
        assert fcdm(*STEPS, steps, *TINY).returncode == 0
    parent = parent_in(tmp_path)
    done = fcdm(*LOCAL, *STEPS, *ONE, *TINY)
    assert done.returncode == 0, done.stderr
    assert began(branch_in(tmp_path))[0] == (10, f"{parent.name}@10")
    assert f"begins at step 10, and trains to 18 itself: {parent.name} has passed that" in done.stderr
    assert weights(branch_in(tmp_path), 24) == weights(alone, 24)


def test_a_parent_that_was_trained_with_other_settings_is_refused(fcdm: Command, tmp_path: Path) -> None:
    """Its folder says so: another is another run, and no branch can be asked to leave that."""
    assert fcdm(*STEPS, "steps=18", *TINY).returncode == 0
    config = parent_in(tmp_path) / "config.yaml"
    config.write_text(config.read_text().replace("warmup_steps: 4", "warmup_steps: 5"))
    done = fcdm(*STEPS, *ONE, *TINY)
    assert done.returncode == 1
    assert "config.yaml was changed by hand: optimiser.warmup_steps: 5 (the run is 4)" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not list(branch_in(tmp_path).glob("checkpoints/*"))


def test_a_branch_does_not_train_what_its_parent_is_to_train(fcdm: Command, tmp_path: Path) -> None:
    """The parent comes to nothing (a file where its checkpoints go): the branch does not start, and says why."""
    assert fcdm(*STEPS, "steps=4", *TINY).returncode == 0
    parent = parent_in(tmp_path)
    shutil.rmtree(parent / "checkpoints")
    (parent / "checkpoints").write_text("")
    for launcher in (LOCAL, ("-m",)):
        done = fcdm(*launcher, *STEPS, *ONE, *TINY)
        assert done.returncode == 1, done.stdout
        assert not list(branch_in(tmp_path).glob("checkpoints/*")), done.stdout + done.stderr
        assert parent.name in done.stdout + done.stderr
    (parent / "checkpoints").unlink()
    single = fcdm(*STEPS, *ONE, *TINY)
    assert single.returncode == 1, "the study asks the trajectory for the start"
    assert "branches from" in single.stderr
    assert "python -m fcdm.train -m ..., with the same words, does both" in single.stderr
    assert fcdm("-m", *STEPS, *ONE, *TINY).returncode == 0


def test_kill_9_of_all_of_it_at_any_moment(fcdm: Command, tmp_path: Path, alone: Path) -> None:
    """The launcher and its jobs, again and again; then the same command makes the same of it."""
    words = [*LOCAL, *STEPS, *ONE, *TINY, "cooldown=null,0.25", "checkpoint.every_steps=3"]
    kills = 0
    for wait in (5.0, 7.0, 8.5, 10.0):
        before = _sizes(tmp_path)
        with subprocess.Popen(
            [sys.executable, "-m", "fcdm.train", *words],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as started:
            until = time.monotonic() + wait
            while started.poll() is None and (time.monotonic() < until or _sizes(tmp_path) == before):
                time.sleep(0.05)
            kills += started.poll() is None
            started.kill()
    done = fcdm(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills >= 2
    assert weights(branch_in(tmp_path), 24) == weights(alone, 24)
    assert evaluations(branch_in(tmp_path)) == evaluations(alone)
    assert losses(branch_in(tmp_path)) == losses(alone)
    assert not [path for path in (tmp_path / "runs").rglob(".*") if path.name != ".lock"], "something was left behind"


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.glob("runs/*/records.jsonl")}


def test_a_branch_is_held_where_another_process_trains_its_parent(fcdm: Command, tmp_path: Path) -> None:
    """And it has nothing of its own to begin with: two commands do not train the same steps."""
    assert fcdm(*STEPS, "steps=4", *TINY).returncode == 0
    parent = parent_in(tmp_path)
    with claim(parent):
        done = fcdm(*LOCAL, *STEPS, *ONE, *TINY)
    assert done.returncode == 1
    assert f"{parent.name}: held: by process" in done.stdout
    assert f"{branch_in(tmp_path).name}: held: {parent.name}, which it branches from, is held" in done.stdout
    assert not (branch_in(tmp_path) / "records.jsonl").exists()
