"""`python -m fcdm.benchmark`, the file that it writes, and the plan that counts with it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from fcdm.config.schema import Config
from fcdm.data.dataset import open_dataset
from fcdm.engine.environment import cpu_name
from fcdm.errors import UserError
from fcdm.plan.estimate import Paces
from fcdm.plan.gpus import DEFAULT_MFU
from fcdm.runs.benchmark_files import Benchmarks, benchmark_file, benchmark_like, record_benchmark
from fcdm.runs.run_cost import run_cost
from fcdm.runs.throughput import Speeds
from fcdm.slurm.resources import Resources
from fcdm.speed.benchmark_model import ModelBenchmark
from fcdm.speed.ceilings import Ceilings
from fcdm.speed.operations import StepProfile, what_limits
from fcdm.speed.roofline import KindOfWork, Roofline
from fcdm.speed.stopwatch import seconds_per_call
from fcdm.speed.training_speed import PHASES, Trainer
from tests.support.commands import Command, composed, environment

CPU = torch.device("cpu")
H100 = {"device": "NVIDIA H100 80GB HBM3", "cpu": "", "threads": 8}
CEILINGS = {"flops_per_s": {"fp32": 50e12, "tf32": 400e12, "bf16": 800e12}, "bytes_per_s": 3e12}
GPU = Resources(1, 1, 1, 60, None, None)


def entry(config: Config, training: float = 240e12, sampling: float = 300e12) -> dict[str, Any]:
    """As a benchmark of the configuration that reached so many FLOPs a second."""
    return {
        "name": f"{config.model.name} {config.resolution}px",
        "kind": config.model.kind,
        "like": benchmark_like(config),
        "precision": "bf16",
        "forward_macs": run_cost(config).forward_macs,
        "extractor": config.evaluation.features,
        "ceilings": CEILINGS,
        "torch": "2.11.0",
        "training": [
            {"images": 64, "compiled": False, "activation_checkpointing": False, "flops_per_s": training / 2},
            {"images": 64, "compiled": True, "activation_checkpointing": False, "flops_per_s": training},
            {"images": 128, "compiled": True, "activation_checkpointing": False, "flops_per_s": 1.25 * training},
            {"images": 64, "compiled": False, "activation_checkpointing": True, "flops_per_s": training / 3},
        ],
        "sampling": [
            {"precision": "bf16", "guided": False, "flops_per_s": sampling},
            {"precision": "bf16", "guided": True, "flops_per_s": 1.1 * sampling},
        ],
        "features": {"flops_per_s": 20e12},
        "decoding": {"precision": "tf32", "flops_per_s": 90e12},
    }


def paces(runs: Path, gpu: str | None = None, mfu: float | None = None) -> Paces:
    return Paces(gpu, mfu, Speeds(runs), Benchmarks(runs))


def recorded(runs: Path, *configs: Config) -> None:
    record_benchmark(runs, H100, {config.model.name: entry(config) for config in configs})


def test_a_plan_counts_with_the_benchmark_of_the_very_model_and_says_so(tmp_path: Path) -> None:
    config = composed("model=XL", "evaluation.precision=bf16", "micro_batch=64")
    recorded(tmp_path, config)
    training = paces(tmp_path).of(config, "training", GPU)
    assert training is not None
    assert (training.flops_per_s, training.assumed) == (240e12, False)
    assert training.text == (
        "XL 256px benchmarked on NVIDIA H100 80GB HBM3: 240 TFLOP/s in bf16, MFU 0.30 of its measured peak"
    )
    assert rate(tmp_path, config, "sampling") == 300e12
    assert rate(tmp_path, config, "metrics") == 20e12
    assert rate(tmp_path, config, "decoding") == 90e12
    in_float32 = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, precision="fp32"))
    assert rate(tmp_path, in_float32, "decoding") is None, "what was measured in TF32 says nothing of float32"


def test_guidance_and_checkpointing_take_their_own_rates(tmp_path: Path) -> None:
    config = composed("model=XL", "evaluation.precision=bf16")
    recorded(tmp_path, config)
    guided = dataclasses.replace(
        config,
        activation_checkpointing=True,
        evaluation=dataclasses.replace(config.evaluation, guidance_scale=1.5),
    )
    both = paces(tmp_path)
    assert [both.of(one, "sampling", GPU).flops_per_s for one in (config, guided)] == pytest.approx([300e12, 330e12])  # type: ignore[union-attr]
    assert rate(tmp_path, guided, "training") == 80e12
    for word, flops in (("compile=false", 120e12), ("compile=true", 300e12), ("micro_batch=64", 240e12)):
        assert rate(tmp_path, composed("model=XL", word), "training") == flops, word
    assert rate(tmp_path, config, "training") == 300e12, "compile=null is compiled on a GPU"


def rate(runs: Path, config: Config, kind: str) -> float | None:
    """FLOP/s that a plan counts with; None: a guess."""
    pace = paces(runs).of(config, kind, GPU)
    assert pace is not None
    return None if pace.assumed else pace.flops_per_s


def test_what_was_not_measured_of_one_model_hides_nothing_of_another(tmp_path: Path) -> None:
    cut_off = entry(composed("model=XL"))
    del cut_off["sampling"], cut_off["features"], cut_off["decoding"]
    other = composed("model=L", "evaluation.precision=bf16")
    record_benchmark(tmp_path, H100, {"XL": cut_off, "L": entry(other)})
    assert rate(tmp_path, other, "sampling") == 300e12
    digits = dataclasses.replace(other, evaluation=dataclasses.replace(other.evaluation, features="digits-cnn"))
    both = paces(tmp_path)
    assert not both.of(other, "metrics", GPU).assumed  # type: ignore[union-attr]
    assert both.of(digits, "metrics", GPU).assumed, "another extractor is another network"  # type: ignore[union-attr]


def test_the_nearest_is_nearest_in_ratio(tmp_path: Path) -> None:
    tiny, large = composed("model=N", "precision=bf16"), composed("model=L")
    recorded(tmp_path, tiny, large)
    nearest = paces(tmp_path).of(composed("model=B"), "training", GPU)
    assert nearest is not None
    assert nearest.text.startswith("L 256px (the nearest of its family)"), "N has a 6,700th of B's FLOPs"


def test_another_model_takes_the_nearest_of_its_family_and_never_of_the_other(tmp_path: Path) -> None:
    recorded(tmp_path, composed("model=S"), composed("model=XL"))
    nearest = paces(tmp_path).of(composed("model=L"), "training", GPU)
    assert nearest is not None
    assert "XL 256px (the nearest of its family)" in nearest.text
    other = paces(tmp_path).of(composed("model=dit/XL-2"), "training", GPU)
    assert other is not None
    assert other.assumed
    assert f"assumed MFU {DEFAULT_MFU:g}" in other.text


def test_a_named_gpu_or_share_comes_before_what_was_measured_elsewhere(tmp_path: Path) -> None:
    config = composed("model=XL")
    recorded(tmp_path, config)
    assert paces(tmp_path, gpu="H100").of(config, "training", GPU).flops_per_s == 300e12  # type: ignore[union-attr]
    assert paces(tmp_path, gpu="A100").of(config, "training", GPU).assumed  # type: ignore[union-attr]
    assert paces(tmp_path, mfu=0.5).of(composed("model=L"), "training", GPU).assumed  # type: ignore[union-attr]
    on_cpus = Resources(1, 1, 0, 60, None, 1)
    assert paces(tmp_path).of(config, "training", on_cpus) is None


def test_damaged_files_tell_nothing(tmp_path: Path) -> None:
    config = composed("model=XL")
    recorded(tmp_path, config)
    folder = tmp_path / "benchmarks"
    (folder / "torn.json").write_text('{"device": "NVIDIA H')
    (folder / "other.json").write_text('{"models": {"a": 3}}')
    (folder / "empty.json").write_text('{"device": "cpu"}')
    assert rate(tmp_path, config, "training") == 300e12


def test_a_damaged_file_is_refused_before_anything_is_measured_and_never_replaced(
    fcdm: Command, tmp_path: Path
) -> None:
    recorded(tmp_path / "runs", composed("model=XL"))
    facts = {"device": "cpu", "threads": 1, "cpu": cpu_name()}
    torn = benchmark_file(tmp_path / "runs", facts)
    torn.write_text('{"models": {"N"')
    done = fcdm("model=N", "device=cpu", "threads=1", "seconds=1", module="fcdm.benchmark")
    assert done.returncode == 1
    assert f"{torn.name} is damaged" in done.stderr
    assert "images/s" not in done.stdout
    assert torn.read_text() == '{"models": {"N"'
    shown = fcdm("--show", module="fcdm.benchmark")
    assert shown.returncode == 1
    assert "is damaged" in shown.stderr


def test_two_that_end_at_once_both_stand_in_the_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda n: record_benchmark(tmp_path, H100, {f"m{n}": {}}), range(16)))
    assert {path.name for path in paths} == {"nvidia-h100-80gb-hbm3.json"}
    assert set(json.loads(paths[0].read_text())["models"]) == {f"m{n}" for n in range(16)}


def test_a_limit_of_nothing_times_one_call() -> None:
    calls: list[int] = []
    assert seconds_per_call(lambda: calls.append(1), CPU, 0.0) > 0
    assert len(calls) == 1


def test_the_largest_batch_is_what_ran_not_what_was_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("model=N")
    trainer = Trainer(config, open_dataset(config, CPU), CPU)
    real = trainer.step
    ran: list[int] = []

    def step(images: int, compiled: bool, checkpointing: bool) -> None:
        ran.append(images)
        if images > 16:
            raise torch.OutOfMemoryError
        real(images, compiled, checkpointing)

    monkeypatch.setattr(trainer, "step", step)
    found = trainer.largest_batch(False, 1000)
    assert (found.images, found.bounded) == (16, True)
    assert ran == [128, 64, 32, 16]
    small = trainer.largest_batch(False, 8)
    assert (small.images, small.bounded) == (8, False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One benchmark of two models by the command line."""
    folder = tmp_path_factory.mktemp("benchmark")
    words = ["-m", "model=N,dit/N-2", "micro_batch=8", "seconds=8", "device=cpu", "threads=1", "--profile"]
    done = subprocess.run(
        [sys.executable, "-m", "fcdm.benchmark", *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    return folder, done


@pytest.mark.slow
def test_the_command_measures_writes_and_shows(measured: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = measured
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (path,) = (folder / "runs" / "benchmarks").glob("*.json")
    content = json.loads(path.read_text())
    assert (content["device"], content["threads"]) == ("cpu", 1)
    fcdm_n, dit_n = content["models"].values()
    assert set(fcdm_n["ceilings"]["flops_per_s"]) == {"fp32", "tf32", "bf16"}
    assert (fcdm_n["name"], dit_n["name"]) == ("N 8px", "dit/N-2 8px")
    first = fcdm_n["training"][0]
    assert (first["images"], first["compiled"], first["activation_checkpointing"]) == (8, False, False)
    assert tuple(first["phases_s"]) == PHASES
    cost = run_cost(composed("model=N"))
    assert first["flops_per_s"] == pytest.approx(first["images_per_s"] * cost.train_flops_per_image)
    assert fcdm_n["expected"]["launches"] > 100
    assert fcdm_n["operators"]
    assert "N 8px fp32" in done.stdout
    assert "matrix products" in done.stdout
    traces = list((folder / "runs" / "benchmarks").glob("*/trace.json.gz"))
    assert len(traces) == 2
    assert not list((folder / "runs").glob("*/run.json")), "a benchmark is no run"


@pytest.mark.slow
def test_the_plan_of_this_machine_has_hours_where_it_had_none(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = measured

    def plan(runs: str) -> dict[str, Any]:
        words = ["-m", "model=N", f"runs_dir={runs}", "hydra/launcher=plan", "hydra.launcher.json=true"]
        command = [sys.executable, "-m", "fcdm.train", *words]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        content: dict[str, Any] = json.loads(done.stdout)
        return content

    assert plan("elsewhere")["runs"][0]["left"]["hours"]["training"] is None
    (run,) = plan("runs")["runs"]
    content = json.loads(next((folder / "runs" / "benchmarks").glob("*.json")).read_text())
    best = max(
        way["flops_per_s"]
        for way in next(iter(content["models"].values()))["training"]
        if not way["activation_checkpointing"]
    )
    assert run["left"]["hours"]["training"] == pytest.approx(run["left"]["flops"]["training"] / best / 3600)
    assert any("N 8px benchmarked on cpu" in text for text in plan("runs")["hours_from"])


@pytest.mark.slow
def test_what_was_measured_is_shown_again(measured: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = measured
    command = [sys.executable, "-m", "fcdm.benchmark", "--show"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "dit/N-2 8px fp32" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=N", "seconds=0"], "seconds=0 cannot be"),
        (["model=N", "seconds=soon"], "seconds=soon is no number"),
        (["model=N", "--profile=true"], "--profile=true is not known"),
        (["model=N", "stepz=3"], "stepz"),
        (["model=N", "seed=3"], "seed has no effect on a benchmark: leave seed=3 away"),
        (["model=N", "evaluation=job"], "evaluation has no effect on a benchmark"),
        (["model=N", "hydra/launcher=local"], "needs -m"),
        (["-m", "model=N", "hydra/launcher=local"], "side by side they would slow each other down"),
        (["-m", "model=N", "hydra/launcher=plan"], "hydra/launcher=plan is not for benchmarks"),
        (["model=N", "device=cuda"], "torch sees no CUDA device here"),
        (["--show"], "runs has no benchmarks"),
        (["--show", "model=N"], "model=N says nothing with --show"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(fcdm: Command, tmp_path: Path, words: list[str], says: str) -> None:
    if "device=cuda" in words and torch.cuda.is_available():
        pytest.skip("there is one")
    done = fcdm(*words, module="fcdm.benchmark")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("fcdm.benchmark: ")
    assert says in line
    assert not (tmp_path / "runs").exists()


def measured_in_no_time(notes: list[str], seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    """What is kept of a model of which, by default, only the first measurement and the operators have time."""
    config = dataclasses.replace(composed("model=N"), micro_batch=16, **more)
    kept: dict[str, Any] = {}
    ceilings = Ceilings({"fp32": 1e11, "tf32": 1e11, "bf16": 1e11}, 1e10)
    ModelBenchmark(config, ceilings, CPU, seconds, notes.append, kept.__setitem__).run()
    (found,) = kept.values()
    return dict(found)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """No step of more images than this finds memory."""
    real = Trainer.step

    def step(self: Trainer, images: int, *ways: Any) -> None:
        if images > most:
            raise torch.OutOfMemoryError
        real(self, images, *ways)

    monkeypatch.setattr(Trainer, "step", step)


def test_where_the_usual_batch_does_not_fit_a_smaller_one_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 4)
    notes: list[str] = []
    found = measured_in_no_time(notes)
    assert [way["images"] for way in found["training"]] == [4]
    assert found["left_out"][:2] == ["16 images a pass: out of memory", "8 images a pass: out of memory"]
    assert "sampling: no time was left" in found["left_out"]
    assert notes[0] == "N 8px: not measured: 16 images a pass: out of memory"


def test_where_not_even_one_image_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(monkeypatch, 0)
    with pytest.raises(UserError, match="not even one image can be trained on: 1 images a pass: out of memory"):
        measured_in_no_time([])


def test_a_measurement_that_fails_is_said_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, no deterministic variant: whatever it is, the rest may tell all the same."""

    def none(*_: Any) -> None:
        raise RuntimeError("Failed to find\na C compiler")

    monkeypatch.setattr(Trainer, "largest_batch", none)
    monkeypatch.setattr("fcdm.speed.benchmark_model.measure_sampling", none)
    found = measured_in_no_time([], 1000.0, compile=False)
    assert "sampling: RuntimeError: Failed to find a C compiler" in found["left_out"]
    assert "the largest micro-batch: RuntimeError: Failed to find a C compiler" in found["left_out"]
    assert [way["activation_checkpointing"] for way in found["training"][:2]] == [False, True]
    assert not any(way["compiled"] for way in found["training"]), "compile=false measures none"
    assert found["features"]["precision"] == "fp32"


def expected(moved: float, flops: float) -> Roofline:
    kind = KindOfWork()
    kind.add(moved, flops)
    return Roofline(1, {"products": kind})


@pytest.mark.parametrize(
    ("data", "busy", "moved", "flops", "limit"),
    [
        (0.5, 1.0, 1.0, 1.0, "host"),
        (0.1, 0.5, 1.0, 1.0, "launches"),
        (0.1, 0.9, 3e12, 1e14, "bandwidth"),
        (0.1, 0.9, 1e12, 8e14, "products"),
        (0.1, None, 1e12, 8e14, "products"),
    ],
)
def test_what_limits_a_step(data: float, busy: float | None, moved: float, flops: float, limit: str) -> None:
    phases = {"data": data, "forward": 0.3, "backward": 0.5, "optimiser": 0.05, "EMA": 0.05}
    seen = StepProfile([], None if busy is None else 1000.0, busy)
    ceilings = Ceilings({"bf16": 8e14}, 3e12)
    assert what_limits(phases, seen, expected(moved, flops), ceilings, "bf16") == limit
