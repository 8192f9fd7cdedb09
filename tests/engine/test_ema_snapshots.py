"""Power function averages of a real run: resumed bit for bit, other lengths after the fact, and what cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from fcdm.config.ema_profiles import Kept
from fcdm.config.schema import Config, PowerEMAConfig
from fcdm.engine.ema_snapshots import PowerAverages, synthesised
from fcdm.engine.host_copy import Groups, HostCopy
from fcdm.engine.post_hoc_ema import gamma_from_sigma_rel, last_update
from fcdm.engine.state import TrainState
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.folder import open_run
from fcdm.runs.protocol import protocol_of
from tests.support.commands import TINY, Command, composing, environment, evaluations, only_run, weights

POWER = ("model=N", "steps=[20,40]", *TINY, "power_ema.every=5", "evaluation.weights=power:0.08")
TWO, THREE = "power_ema.sigma_rel=[0.05,0.10]", "power_ema.sigma_rel=[0.10,0.05,0.08]"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run that tracks 0.08 itself, beside 0.05 and 0.10."""
    folder = tmp_path_factory.mktemp("tracked")
    command = [sys.executable, "-m", "fcdm.train", *POWER, THREE]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=240)
    return only_run(folder / "runs")


def snapshot(run: Path, step: int) -> dict[str, str]:
    """Checksums of a snapshot's files."""
    manifest = json.loads((run / "ema" / f"step-{step:08d}" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[name].double() - b[name].double()).square().sum() for name in a) ** 0.5)


def test_kill_9_and_another_length_afterwards(fcdm: Command, tmp_path: Path, tracked: Path) -> None:
    """Killed, it ends with the averages of a run that was not; and 0.08, made of 0.05 and 0.10, is the tracked one."""
    command = [sys.executable, "-m", "fcdm.train", *POWER, TWO, "checkpoint.every_steps=7"]
    started = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    # After the checkpoint of step 28 and the snapshot of 30, which is then replayed.
    while started.poll() is None and not list(tmp_path.glob("runs/*/ema/step-00000030")):
        time.sleep(0.01)
    started.kill()
    started.communicate()
    run = only_run(tmp_path / "runs")
    assert not (run / "checkpoints" / "step-00000040").exists(), "it was killed too late to show anything"
    (run / "ema" / ".tmp-left-behind").mkdir()
    # The lengths are not said again: what is tracked goes on. The weights to evaluate are.
    done = fcdm(*POWER)
    assert done.returncode == 0, done.stderr
    both = ("power-0.05.safetensors", "power-0.1.safetensors", "model.safetensors", "ema.safetensors")
    for step in (20, 40):
        assert {name: weights(run, step)[name] for name in both} == {
            name: weights(tracked, step)[name] for name in both
        }
    for step in range(5, 41, 5):
        wanted = snapshot(tracked, step)
        assert snapshot(run, step) == {name: wanted[name] for name in ("0.05.safetensors", "0.1.safetensors")}
    assert not [path for path in run.rglob("*") if path.name.startswith(".")], "something was left behind"

    for step, most in ((20, 0.05), (40, 0.015)):
        mine, direct = (
            next(json.loads(path.read_text()) for path in (folder / "evaluations").glob(f"step-{step:08d}-*.json"))
            for folder in (run, tracked)
        )
        assert mine["protocol"]["weights"] == "power:0.08"
        assert (mine["protocol"]["weights_snapshots"], direct["protocol"]["weights_snapshots"]) == (
            "0.05,0.1 every 5",
            "0.05,0.08,0.1 every 5",
        )
        assert mine["protocol_id"] != direct["protocol_id"], "two numbers are two protocols"
        assert direct["average"]["error"] == pytest.approx(0, abs=1e-5)
        assert 0 < mine["average"]["error"] < most
        assert mine["average"]["snapshots"] == step // 5
        assert mine["metrics"]["heldout_loss"] == pytest.approx(direct["metrics"]["heldout_loss"], rel=most)
    # The weights themselves: to the promised share of how far the average lies from the nearest kept one.
    made = synthesised(run / "ema", 40, 0.08, Kept((0.05, 0.1), 5))
    files = {
        length: load_file(tracked / "ema" / "step-00000040" / f"{length}.safetensors")
        for length in ("0.05", "0.08", "0.1")
    }
    apart = distance(files["0.1"], files["0.08"])
    assert distance(made.weights, files["0.08"]) < 0.05 * apart


def test_a_run_that_began_without_cannot_have_them(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=2", *TINY).returncode == 0
    run = only_run(tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    refused = fcdm("model=N", "steps=4", *TINY, "power_ema.sigma_rel=[0.05]")
    assert refused.returncode == 1
    assert "has tracked none in its 2 steps" in refused.stderr
    assert refused.stderr.strip().count("\n") == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before
    assert len(evaluations(run)) == 1


def test_they_are_no_part_of_a_run_s_id(tracked: Path) -> None:
    without = make_jobs([config("model=N", *TINY)])[0]
    assert tracked.name == without.name


def config(*overrides: str) -> Config:
    with composing() as composer:
        return composer.config(list(overrides))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["power_ema.sigma_rel=[0.05,0.4]"], r"power_ema\.sigma_rel: .* between 0\.0001 and 0\.2887 .* not 0\.4"),
        (["power_ema.sigma_rel=[0.05,5e-2]"], "names a length twice"),
        (["power_ema.every=0"], "power_ema.every=0 cannot be"),
        (["power_ema.every=5"], "power_ema.every=5 has no effect: the run tracks no averages"),
        (["power_ema.every=5", "power_ema.sigma_rel=[]"], "power_ema.every=5 has no effect"),
        (["evaluation.weights=power:long"], "write ema .* raw, or power:0.08"),
        (["evaluation.weights=emma"], "evaluation.weights=emma is not known"),
        (["evaluation.weights=power:0.9"], "evaluation.weights: .* not 0.9"),
        (["evaluation.weights=power:0.08", "power_ema.sigma_rel=[]"], "power_ema.sigma_rel=\\[\\] keeps none"),
        (["evaluation.weights=power:0.08"], "at step 800 is made of snapshots, and there will be none"),
        (
            ["evaluation.weights=power:0.2", TWO, "power_ema.every=200"],
            r"power:0\.2 at step 800 cannot be made of 4 snapshots: 21\.7 % of its profile would be missed, and 5 % is",
        ),
        (
            ["evaluation.weights=power:0.12", TWO, "steps=[100,800]", "power_ema.every=100"],
            "at step 100 .* 1 snapshots",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        make_jobs([config("model=N", f"runs_dir={tmp_path}", *overrides)])
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_protocol_says_of_which_snapshots() -> None:
    """Whatever changes them changes the id; other budgets of the run, which keep snapshots too, do not."""

    def asked(*more: str) -> str:
        (job,) = make_jobs([config("model=N", "steps=800", "evaluation.weights=power:0.08", *more)])
        return job.parts[0].protocol_id

    plain = asked(TWO, "power_ema.every=100")
    others = [asked(THREE, "power_ema.every=100"), asked(TWO, "power_ema.every=50")]
    assert len({plain, *others}) == 3
    assert asked(TWO, "power_ema.every=100", "steps=[150,420,800]") == plain
    assert "weights_snapshots" not in make_jobs([config("model=N", TWO)])[0].parts[0].protocol


def test_more_snapshots_than_are_named_change_nothing(tmp_path: Path, tracked: Path) -> None:
    """As another command's budgets leave them; and one that is named and not there is told."""
    shutil.copytree(tracked / "ema", tmp_path / "ema")
    kept = Kept((0.05, 0.1), 10)
    before = synthesised(tmp_path / "ema", 40, 0.08, kept)
    for step in (5, 15, 25, 35):
        shutil.rmtree(tmp_path / "ema" / f"step-{step:08d}")
    after = synthesised(tmp_path / "ema", 40, 0.08, kept)
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    with pytest.raises(UserError, match=r"needs snapshots that are not in .*: of step 5, 15, 25, 35\."):
        synthesised(tmp_path / "ema", 40, 0.08, Kept((0.05, 0.1), 5))


def test_a_run_that_was_killed_before_its_first_snapshot(tmp_path: Path) -> None:
    """What it tracks, and how often it keeps it, is read off its checkpoint."""
    begun = make_jobs([config("model=N", f"runs_dir={tmp_path}", *TINY, TWO, "power_ema.every=50")])[0].config
    run = open_run(begun)
    state = TrainState.create(begun, torch.device("cpu"))
    state.step = 7
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimiser.step()
    checkpoint = state.save(run.checkpoints)
    (again,) = make_jobs(
        [config("model=N", f"runs_dir={tmp_path}", *TINY, "steps=400", "evaluation.weights=power:0.08")]
    )
    assert again.config.evaluation.weights_snapshots == "0.05,0.1 every 50"
    assert again.id == run.id
    resumed = TrainState.create(again.config, torch.device("cpu"))
    resumed.restore(checkpoint, PowerEMAConfig())
    assert resumed.power.due(50)
    assert not resumed.power.due(60)


CPU = torch.device("cpu")


def go_on() -> None:
    """Nobody wants the writing to end."""


class Tied(nn.Module):
    """One weight of two names, and a buffer that is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("freqs", torch.randn(3))


def test_tied_weights_stay_tied_in_a_snapshot(tmp_path: Path) -> None:
    model = Tied()
    averages = PowerAverages([0.1], model)
    for step in range(1, 4098):
        model.first.weight.data.fill_(step)
        averages.update(list(model.parameters()), step)
    assert last_update(4097) < 4097
    averages.snapshot(model, 4097, HostCopy(CPU))(tmp_path, go_on)
    (file,) = tmp_path.rglob("*.safetensors")
    saved = load_file(file)
    assert torch.equal(saved["first.weight"], saved["second.weight"])
    assert (saved["first.weight"] > averages.groups()["power-0.1"]["first.weight"]).all()


def test_a_snapshot_copies_the_weights_once_whatever_lengths_there_are(tmp_path: Path) -> None:
    """Kept room included: of 4 and 8 MB of weights, one copy and one of each average."""

    def copied(lengths: list[float]) -> int:
        model, host = nn.Linear(1 << 10, 1 << 10, bias=False), Counting(CPU)
        averages = PowerAverages(lengths, model)
        averages.snapshot(model, 4097, host)(tmp_path / str(len(lengths)), go_on)
        return host.bytes // (1 << 22)

    assert [copied([0.05]), copied([0.05, 0.1]), copied([0.05, 0.1, 0.15])] == [2, 3, 4]


class Counting(HostCopy):
    """Counts what is copied."""

    bytes = 0

    def of(self, groups: Groups) -> Groups:
        self.bytes += sum(tensor.nbytes for members in groups.values() for tensor in members.values())
        return super().of(groups)


def test_averages_begin_as_the_weights_that_training_begins_from() -> None:
    """All that is saved with a model, also what is no parameter and was drawn from another seed."""
    torch.manual_seed(1)
    source = Tied()
    torch.manual_seed(2)
    averages = PowerAverages([0.05, 0.1], Tied())
    averages.start_from(source.state_dict())
    for group in averages.groups().values():
        assert all(torch.equal(group[name], tensor) for name, tensor in source.state_dict().items())


def jobs(*choices: list[str]) -> list[Job]:
    return make_jobs([config("model=N", *choice) for choice in choices])


def test_the_parts_of_a_run_agree_on_what_is_tracked() -> None:
    (job,) = jobs([TWO], ["evaluation.weights=power:0.05"])
    assert [part.config.power_ema.sigma_rel for part in job.parts] == [[0.05, 0.1]] * 2
    with pytest.raises(UserError, match=r"cannot be swept: \[0.05\] and \[0.05,0.1\] are asked of one run"):
        jobs([TWO], ["power_ema.sigma_rel=[0.05]", "evaluation.samples=50"])
    with pytest.raises(UserError, match=r"power_ema.every cannot be swept: 5 and 10 are asked of one run"):
        jobs([TWO, "power_ema.every=5"], ["power_ema.every=10", "evaluation.samples=50"])


def test_a_length_has_one_protocol_however_it_is_written() -> None:
    asked = [config("model=N", f"evaluation.weights=power:{text}", TWO) for text in ("0.08", "8e-2", "0.080")]
    assert {protocol_of(one)["weights"] for one in asked} == {"power:0.08"}
    assert protocol_of(config("model=N"))["weights"] == "ema"


@given(step=st.integers(1, 2_000_000))
def test_updates_come_often_enough(step: int) -> None:
    """Never a thousandth of the steps ago, nor 64; and each update is its own last."""
    last = last_update(step)
    assert 0 <= step - last < 64
    assert (step - last) * 1000 < max(step, 1000)
    assert last_update(last) == last
    assert last_update(step) >= last_update(step - 1)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.15])
def test_averages_of_thousands_of_steps(tmp_path: Path, sigma_rel: float) -> None:
    """Against the profile's own integrals, at a step where the last update is behind; a snapshot changes nothing."""
    steps = 5003
    generator = torch.Generator().manual_seed(1)
    path = torch.cumsum(0.01 * torch.randn(steps, generator=generator), 0)
    model = nn.Linear(1, 1, bias=False)
    averages = PowerAverages([sigma_rel], model)
    assert last_update(steps) == 5000
    for step in range(1, steps + 1):
        model.weight.data.fill_(path[step - 1])
        averages.update(list(model.parameters()), step)
    before = averages.groups()[f"power-{sigma_rel:g}"]["weight"].clone()
    averages.snapshot(model, steps, HostCopy(CPU))(tmp_path / "ema", go_on)
    assert torch.equal(averages.groups()[f"power-{sigma_rel:g}"]["weight"], before)
    (file,) = (tmp_path / "ema").rglob("*.safetensors")
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    expected = (share ** (gamma_from_sigma_rel(sigma_rel) + 1)).diff() @ path.double()
    assert abs(load_file(file)["weight"].item() - float(expected)) < 0.1 * 0.01, "a tenth of one step's move"
    assert abs(float(before) - float(expected)) > 1e-7, "the snapshot is brought up to its step"
