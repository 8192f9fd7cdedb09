"""Nothing is lost when a job dies, and what it leaves is what an undisturbed run leaves, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.commands import ROOT, TINY, Command, environment, evaluations, only_run, records, values, weights

STEPS = "steps=[20,40]"
SLOW = ("evaluation.samples=200", "checkpoint.every_steps=7", "checkpoint.keep=2", "log_every=3")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "fcdm.train", "model=N", STEPS, *TINY, *SLOW]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=240)
    return only_run(folder / "runs")


def test_kill_9_at_any_moment(fcdm: Command, tmp_path: Path, undisturbed: Path) -> None:
    draw = random.Random(7)
    command = [sys.executable, "-m", "fcdm.train", "model=N", STEPS, *TINY, *SLOW]
    kills = 0
    for _ in range(12):
        started = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # Not before it works on the run, then at a moment of its own each time.
        claims = len(list(tmp_path.glob("runs/*/holders/*.json")))
        last = max(tmp_path.glob("runs/*/holders/*.json"), default=None)
        while started.poll() is None and max(tmp_path.glob("runs/*/holders/*.json"), default=None) == last:
            time.sleep(0.02)
        try:
            _, error = started.communicate(timeout=draw.uniform(0.5, 4.0))
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            kills += 1
            assert len(list(tmp_path.glob("runs/*/holders/*.json"))) >= claims
            continue
        assert started.returncode == 0, error
        break
    done = fcdm("model=N", STEPS, *TINY, *SLOW)
    assert done.returncode == 0, done.stderr
    assert kills >= 2
    run = only_run(tmp_path / "runs")
    assert weights(run, 20) == weights(undisturbed, 20)
    assert weights(run, 40) == weights(undisturbed, 40)
    assert values(run) == values(undisturbed)
    assert evaluations(run) == evaluations(undisturbed)
    assert not [path for path in run.rglob("*") if path.name.startswith(".")], "something was left behind"


FALLING = ("optimiser.schedule=inverse_sqrt", "optimiser.decay_from=8", "optimiser.warmup_steps=4", "ema=share")


def test_budgets_stay_one_trajectory_where_the_rate_falls_and_the_average_grows(fcdm: Command, tmp_path: Path) -> None:
    """Trained to 12 and on to 24, or to 24 at once: the same weights and averages."""
    for runs, budgets in (("parts", ["steps=12", "steps=[12,24]"]), ("whole", ["steps=[12,24]"])):
        for steps in budgets:
            done = fcdm("model=N", steps, *TINY, *FALLING, f"runs_dir={runs}")
            assert done.returncode == 0, done.stderr
    parts, whole = only_run(tmp_path / "parts"), only_run(tmp_path / "whole")
    assert parts.name == whole.name
    for step in (12, 24):
        assert weights(parts, step) == weights(whole, step)
    constant = fcdm("model=N", "steps=12", *TINY, *FALLING[2:], "runs_dir=constant")
    assert constant.returncode == 0, constant.stderr
    assert weights(only_run(tmp_path / "constant"), 12) != weights(whole, 12)


def test_a_broken_newest_checkpoint_is_passed_over_with_a_warning(
    fcdm: Command, tmp_path: Path, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed.parent, tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    newest = run / "checkpoints" / "step-00000040" / "model.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-100] ^= 1
    newest.write_bytes(raw)
    done = fcdm("model=N", "steps=[20,40,44]", *TINY, *SLOW)
    assert done.returncode == 0, done.stderr
    assert "step-00000040" in done.stdout
    assert {step for step, key in values(run) if key == "fid"} == {20, 40, 44}
    assert [line["step"] for line in records(run) if line.get("segment") == "start"][-1] < 40
    # Replayed to the same place: bit for bit what was broken.
    assert weights(run, 40) == weights(undisturbed, 40)


def test_a_full_disk_while_saving_keeps_the_old_checkpoint(fcdm: Command, tmp_path: Path, undisturbed: Path) -> None:
    """A real limit on file sizes, which root meets too; in the size of one checkpoint file."""
    shutil.copytree(undisturbed.parent, tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    code = (
        "import resource, sys, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        f"sys.argv = ['fcdm.train', 'model=N', 'steps=60', *{[*TINY, *SLOW]!r}];"
        "runpy.run_module('fcdm.train', run_name='__main__')"
    )
    failed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert failed.returncode == 1
    assert "larger than is allowed" in failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert weights(run, 40) == weights(undisturbed, 40)
    assert not list((run / "checkpoints").glob(".*"))
    assert fcdm("model=N", "steps=60", *TINY, *SLOW).returncode == 0


def test_micro_batches_and_two_processes_give_the_same_weights(
    fcdm: Command, tmp_path: Path, undisturbed: Path
) -> None:
    parts = fcdm("model=N", STEPS, *TINY, *SLOW, "micro_batch=5", "runs_dir=parts")
    assert parts.returncode == 0, parts.stderr
    two = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"),
            *("fcdm.train", "model=N", STEPS, *TINY, *SLOW, "micro_batch=3", "runs_dir=two"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert two.returncode == 0, two.stderr
    for name in ("parts", "two"):
        run = only_run(tmp_path / name)
        assert run.name == undisturbed.name
        for file in ("model.safetensors", "ema.safetensors"):
            expected = load_file(undisturbed / "checkpoints" / "step-00000040" / file)
            found = load_file(run / "checkpoints" / "step-00000040" / file)
            for key, tensor in expected.items():
                # Adam divides rounding noise by itself where gradients are nearly 0, hence the absolute part.
                torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=3e-4, msg=f"{name} {file} {key}")
        for (step, key), value in values(undisturbed).items():
            if key in ("loss", "heldout_loss", "fid", "fid_pixels"):
                assert values(run)[step, key] == pytest.approx(value, rel=1e-2), (name, step, key)
    start = next(line for line in records(only_run(tmp_path / "two")) if line.get("segment") == "start")
    assert start["world_size"] == 2


def test_the_thread_count_of_the_last_segment_is_restored_or_its_change_said(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=2", *TINY, OMP_NUM_THREADS="1").returncode == 0
    assert fcdm("model=N", "steps=4", *TINY, OMP_NUM_THREADS="2").returncode == 0
    run = only_run(tmp_path / "runs")
    assert [line["threads"] for line in records(run) if line.get("segment") == "start"] == [1, 1]
    changed = fcdm("model=N", "steps=6", "threads=2", *TINY)
    assert "continues with threads 2, before it was 1" in changed.stdout


MEASURED = """
import json, sys
from pathlib import Path
import torch
from fcdm.engine.checkpoint import latest_checkpoint
from fcdm.engine.state import TrainState
from fcdm.runs.checkpoints import read_manifest
from tests.support.commands import composed

config = composed("model=dit/N-2", "model.width=512", "model.heads=8", "model.depth=5")
folder = Path(sys.argv[2])
state = TrainState.create(config, torch.device("cpu"))

def now(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

if sys.argv[1] == "save":
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimiser.step()
    state.step = 1
    state.save(folder)
else:
    for parameter in state.model.parameters():  # what each page of the state holds is there before
        parameter.data.add_(1)
    before = now("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    path = latest_checkpoint(folder, print)
    state.restore(path, config.power_ema)
    moments = sum(t.nbytes for kept in state.optimiser.state.values() for t in kept.values())
    size = sum(facts["bytes"] for facts in read_manifest(path)["files"].values())
    print(json.dumps([now("VmHWM") - before - moments, size]))
"""


def test_a_resume_needs_little_memory_beside_the_state(tmp_path: Path) -> None:
    """Not the whole checkpoint a second time: a file at a time, and that only as mapped pages."""

    def run(what: str) -> str:
        words = [sys.executable, "-c", MEASURED, what, str(tmp_path)]
        return subprocess.run(
            words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=True
        ).stdout

    run("save")
    more, size = json.loads(run("restore"))
    assert size > 200e6
    assert more < 0.7 * size, f"{more / size:.2f} of the checkpoint"


SECOND_READS_NOTHING_TWICE = """
import os, runpy, sys
from fcdm.engine import checkpoint
from fcdm.runs import checkpoints

def refuse(*_):
    raise AssertionError("the second rank verifies checksums")

if os.environ["RANK"] == "1":
    checkpoint.verify = checkpoint.verify_all = checkpoints.verify = checkpoints.verify_all = refuse
sys.argv = ["fcdm.train", *sys.argv[1:]]
runpy.run_module("fcdm.train", run_name="__main__")
"""


def test_two_ranks_pass_over_a_broken_newest_checkpoint_together(tmp_path: Path, undisturbed: Path) -> None:
    """The first rank reads and tells; the second, which trusts it, would take the newest."""
    shutil.copytree(undisturbed.parent, tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    newest = run / "checkpoints" / "step-00000040" / "ema.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-100] ^= 1
    newest.write_bytes(raw)
    script = tmp_path / "train.py"
    script.write_text(SECOND_READS_NOTHING_TWICE)
    two = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(script), "model=N", "steps=[20,40,44]", *TINY, *SLOW),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("step-00000040 is broken") == 1
    assert [line["step"] for line in records(run) if line.get("segment") == "start"] == [0, 35]
    assert weights(run, 44)
