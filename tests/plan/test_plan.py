"""`hydra/launcher=plan` as its user meets it, and its numbers against hand calculations."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fcdm.config.presets import load_preset
from fcdm.config.schema import Config
from fcdm.cost.model_cost import model_cost
from fcdm.data.digits import load_digits_split
from fcdm.engine.evaluated_loss import BINS
from fcdm.errors import UserError
from fcdm.features.classifier import StoreClassifier
from fcdm.features.digits_cnn import DigitsCNN
from fcdm.formatting import bytes_text, duration_text, flops_text, number_text, plural, steps_text
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import data_is_here, make_jobs
from fcdm.models import build_model
from fcdm.plan import evaluation_flops, remaining
from fcdm.plan.estimate import (
    GPU_PROCESS_BYTES,
    PROCESS_BYTES,
    START_UP_S,
    Paces,
    host_bytes,
    job_cost,
    process_memory,
    useful_seconds,
)
from fcdm.plan.estimate import evaluation_flops as evaluation_flops_of
from fcdm.plan.gpus import DEFAULT_MFU, DEVICES, device_named, known_device
from fcdm.plan.make_plan import make_plan
from fcdm.plan.model import Plan
from fcdm.plan.plan_table import print_tables
from fcdm.plan.warnings import warnings_before_submission
from fcdm.runs.benchmark_files import Benchmarks
from fcdm.runs.folder import Run
from fcdm.runs.run_cost import run_cost, saved_bytes
from fcdm.runs.run_lock import claim
from fcdm.runs.throughput import Speeds
from fcdm.slurm.client import JobInfo
from fcdm.slurm.ledger import add_id, new_launch, write_launch
from fcdm.slurm.options import PlanOptions, SlurmOptions
from fcdm.slurm.resources import request_of
from fcdm.sweep.compose import Composer
from fcdm.sweep.expand import expand
from tests.support.commands import TINY, Command, composed, composing, environment, only_run, records
from tests.support.shape_store import tiny_pixels

LITERAL = ("-m", "model=S,B,L,XL", "resolution=256,512", "hydra/launcher=plan")
S_MACS, DECODER_MACS, INCEPTION_MACS = 3_073_392_640, 311_093_641_216, 5_711_168_096
"""Forward MACs of FCDM-S on 32x32 latents, of the decoder onto 256 pixels, of the feature network."""


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing() as found:
        yield found


@pytest.fixture
def jobs(composer: Composer, tmp_path: Path) -> Any:
    """`jobs("model=S,B", "seed=0,1")`: the jobs of a sweep, whose runs would be in tmp_path/runs."""

    def make(*arguments: str) -> list[Job]:
        choices = expand([*arguments, f"runs_dir={tmp_path / 'runs'}"], [])
        return make_jobs([composer.config(choice) for choice in choices], data_needed=False)

    return make


def plan_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- the command -----------------------------------------------------------------------------------------------


def test_the_literal_command_anywhere_without_data_makes_nothing(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm(*LITERAL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    rows = [line for line in done.stdout.splitlines() if "imagenet-256px" in line or "imagenet-512px" in line]
    assert sum("no data here" in line for line in rows) == 8
    (xl,) = [line.split() for line in rows if line.split()[1] == "XL-imagenet-256px" and "no data here" not in line]
    assert xl[2:6] == ["39.6", "E", "1.61", "E"]
    assert "imagenet is not on this machine: what is done already cannot be told" in done.stdout
    assert f"assumed MFU {DEFAULT_MFU:g} of the H100's 989.4 TFLOP/s in bf16" in done.stdout
    assert "Nothing was started or submitted." in done.stdout
    assert "XL-imagenet-512px: needs about 86.1 GB for each GPU, and the H100 has 80 GB" in done.stdout
    assert "…" not in done.stdout


def test_it_starts_without_torch() -> None:
    probe = (
        f"import sys, runpy\nsys.argv = ['fcdm.train', *{list(LITERAL)!r}]\n"
        "try:\n    runpy.run_module('fcdm.train', run_name='__main__')\n"
        "except SystemExit as done:\n    assert done.code == 0, done.code\n"
        "heavy = {'torch', 'mlflow', 'sklearn', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    probed = subprocess.run(
        [sys.executable, "-W", "error", "-c", probe], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert probed.returncode == 0, probed.stderr


def test_numbers_by_hand(fcdm: Command) -> None:
    """FCDM-S to 400K steps: FID-50K by 250 steps, on one GPU at 40 % of its peak."""
    options = ("hydra.launcher.json=true", "hydra.launcher.gpu=a100", "hydra.launcher.mfu=0.4")
    content = plan_json(fcdm("-m", "model=S", "steps=100000,400000", "hydra/launcher=plan", *options))
    (run,) = content["runs"]
    assert run["budgets"] == [100_000, 400_000]
    assert run["resources"]["gpus_per_node"] == 1
    expected = {
        "training": 6 * S_MACS * 256 * 400_000,
        "sampling": 2 * (2 * 50_000 * 250 * S_MACS),
        "decoding": 2 * (2 * 50_000 * DECODER_MACS),
        "metrics": 2 * (2 * 50_000 * INCEPTION_MACS),
    }
    assert run["left"]["flops"] == expected
    peaks = {"training": 312e12, "sampling": 156e12, "decoding": 156e12, "metrics": 19.5e12}  # bf16, TF32, fp32
    for kind, flops in expected.items():
        assert run["left"]["hours"][kind] == pytest.approx(flops / (0.4 * peaks[kind]) / 3600)
    wall = sum(run["left"]["hours"].values())
    assert run["wall_hours"] == pytest.approx(wall)
    assert run["starts"] == -(-wall * 3600 // (24 * 3600 - START_UP_S - 120))
    assert content["totals"]["gpu"]["hours"]["training"] == run["left"]["hours"]["training"]
    (saved,) = content["savings"]
    assert saved["flops"]["training"] == 6 * S_MACS * 256 * 100_000
    assert saved["flops"]["sampling"] == 0
    assert content["gpu"] == "A100"
    assert content["mfu"] == 0.4


def test_guidance_doubles_sampling_alone(jobs: Any) -> None:
    (one,), (two,) = jobs("model=S"), jobs("model=S", "evaluation.guidance_scale=1.5")
    paces = Paces(None, None, Speeds("nowhere"), Benchmarks("nowhere"))
    request = make_plan([one], PlanOptions()).runs[0].request
    plain, guided = (
        job_cost(job.config, 1, remaining.evaluations_of(job), paces, request, request) for job in (one, two)
    )
    assert guided.flops["sampling"] == 2 * plain.flops["sampling"]
    assert {**guided.flops, "sampling": 0} == {**plain.flops, "sampling": 0}


def test_a_reader_that_stops_reading_is_no_failure(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fcdm.train -m model=S,B hydra/launcher=plan | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_evaluation_jobs_are_shown_on_their_own(fcdm: Command) -> None:
    arguments = ("model=XL", "evaluation=job", "evaluation.resources.gpus=2", "hydra.launcher.json=true")
    (run,) = plan_json(fcdm("-m", *arguments, "hydra/launcher=plan"))["runs"]
    hours = run["left"]["hours"]
    assert run["wall_hours"] == pytest.approx(hours["training"] / 4)
    evaluation = hours["sampling"] + hours["decoding"] + hours["metrics"]
    assert run["evaluation_job"]["gpus_per_node"] == 2
    assert run["evaluation_job"]["wall_hours"] == pytest.approx(evaluation / 2)
    table = fcdm("-m", *arguments[:3], "hydra/launcher=plan").stdout
    assert "4 GPUs, 24 h; evaluated on 2 GPUs, 24 h" in table


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("hydra.launcher.gpu=h1000", "hydra.launcher.gpu=h1000 is not known: did you mean H100?"),
        ("hydra.launcher.mfu=1.5", "hydra.launcher.mfu=1.5 cannot be"),
        ("hydra.launcher.rows=some", "hydra.launcher.rows=some is not known: auto, all, groups"),
        ("data.downsample=12", "is not a multiple of 12"),
        ("model=Q", "model=Q is not known"),
        ("data.path=.", "is no store"),
    ],
)
def test_bad_input_is_one_line(fcdm: Command, tmp_path: Path, option: str, says: str) -> None:
    refused = fcdm("-m", "model=S", option, "hydra/launcher=plan")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert says in refused.stderr
    assert refused.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_costs_nothing_and_what_is_measured_is_used(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=[4,8]", *TINY).returncode == 0
    run = only_run(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    asked = ("-m", "model=N,M", "steps=4,8,20", *TINY, "hydra/launcher=plan")
    content = plan_json(fcdm(*asked, "hydra.launcher.json=true"))
    assert sorted(tmp_path.rglob("*")) == before
    first, second = content["runs"]
    assert (first["run"], first["state"], first["trained"]) == (run.name, "started", 8)
    assert first["judged"] == [4, 8]
    cost = json.loads((run / "run.json").read_text())["cost"]
    assert first["left"]["flops"]["training"] == 12 * cost["train_flops_per_step"]
    assert first["left"]["flops"]["sampling"] == 2 * 20 * 2 * cost["forward_macs"]
    speeds = [line["images_per_s"] for line in records(run) if "images_per_s" in line]
    measured = statistics.median(speeds[1:]) * cost["train_flops_per_image"]  # FLOP/s
    for kind, flops in first["left"]["flops"].items():
        assert first["left"]["hours"][kind] == pytest.approx(flops / measured / 3600)
    assert any("images/s measured on cpu" in text and run.name in text for text in content["hours_from"])
    assert second["state"] == "new"
    assert second["left"]["hours"]["training"] is None  # never invented
    assert second["wall_hours"] is None
    assert any(text.startswith("not measured, so without hours: M 8px") for text in content["hours_from"])
    saved = {item["by"]: item["flops"]["training"] for item in content["savings"]}
    assert saved["parts of runs done or in flight already"] == 8 * cost["train_flops_per_step"]

    table = fcdm(*asked).stdout
    assert "4, 8 done; 20" in table
    done = fcdm("-m", "model=N", "steps=4,8", *TINY, "hydra/launcher=plan")
    assert "done: trained and evaluated" in done.stdout
    assert "cost" not in done.stdout  # nothing left
    assert "done already: 1 of 1 runs" in done.stdout
    lost = fcdm("-m", "model=N", "steps=6", *TINY, "hydra/launcher=plan")
    assert lost.returncode == 0
    assert "refused: steps=6 cannot be evaluated any more" in " ".join(lost.stdout.split())


def test_many_runs_are_grouped_and_all_on_request(fcdm: Command) -> None:
    asked = ("-m", "model=N,dit/N-2", "seed=range(0,31)", "hydra/launcher=plan")
    grouped = fcdm(*asked).stdout
    assert "31 runs" in grouped
    assert "62 runs in 2 groups" in grouped
    everything = fcdm(*asked, "hydra.launcher.rows=all").stdout
    assert everything.count("N-digits-8px-") == 2 * 31
    assert "seed=30" in everything


# --- tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [100, 200])
def test_tables_fit_and_cut_nothing(jobs: Any, width: int) -> None:
    plan = make_plan(jobs("model=S,XL,dit/XL-2,N", "steps=50_000,400_000", "seed=0,1"), PlanOptions())
    out = io.StringIO()
    print_tables(plan, "auto", Console(file=out, width=width, force_terminal=True, color_system=None))
    text = out.getvalue()
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for number in ("39.6 E", "72.9 E", "3.23 E", "62.2 P", "total on CPUs"):
        assert number in text
    titles = [line.strip() for line in text.splitlines() if line.startswith("cost: ")]
    hours = "GPU-hours (on CPUs: hours of processes)"
    assert titles == (["cost: FLOPs", f"cost: {hours}"] if width == 100 else [f"cost: FLOPs and {hours}"])


def test_numbers_as_texts() -> None:
    assert [flops_text(value) for value in (0, 1.5e6, 999.6e15, 39.6e18, 4e21)] == [
        *("0", "1.5 M", "1 E", "39.6 E", "4,000 E")
    ]
    numbers = {0: "0", 1e-5: "<0.001", 0.0123: "0.012", 12.3: "12.30", 1234.5: "1,234"}
    assert {value: number_text(value) for value in numbers} == numbers
    assert number_text(None) == "?"
    assert [duration_text(seconds) for seconds in (4, 60, 90, 1800, 3600, 12_600, 87_480, 172_799, 259_200, 4e6)] == [
        *("4 s", "1 min", "1.5 min", "30 min", "1 h", "3.5 h", "24.3 h", "48 h", "3 days", "46 days")
    ]
    assert [bytes_text(count) for count in (1640, 24e6, 999.6e6, 86.07e9, 1.5e12)] == [
        "1.64 kB",
        "24 MB",
        "1 GB",
        "86.1 GB",
        "1.5 TB",
    ]
    assert [steps_text(steps) for steps in (400, 400_000, 2_352_000, 7e6)] == ["400", "400K", "2.352M", "7M"]
    assert [plural(1, "job"), plural(1438, "job"), plural(2, "process", "processes")] == [
        "1 job",
        "1,438 jobs",
        "2 processes",
    ]


def test_runs_of_one_name_say_what_tells_them_apart(jobs: Any) -> None:
    plan = make_plan(jobs("model=N,M", "optimiser.lr=1e-3,2e-3", "ema.rampup=null,0.1"), PlanOptions())
    assert [run.differs for run in plan.runs][:2] == [
        "optimiser.lr=0.001 ema.rampup=null",
        "optimiser.lr=0.001 ema.rampup=0.1",
    ]
    assert {run.differs for run in make_plan(jobs("model=N,M"), PlanOptions()).runs} == {""}
    # where many keys vary, each run by what is unusual of it
    many = jobs("model=N", "seed=0")
    for key in ("seed=1", "batch_size=64", "model.grn=false", "optimiser.lr=1e-3", "ema.decay=0.5"):
        many += jobs("model=N", key)
    assert [run.differs for run in make_plan(many, PlanOptions()).runs] == [
        "as most others", "seed=1", "batch_size=64", "model.grn=false", "optimiser.lr=0.001", "ema.decay=0.5",
    ]  # fmt: skip


def test_a_model_that_is_not_its_preset_says_so(jobs: Any, fcdm: Command) -> None:
    matched = jobs("model=L,dit/L-2", "model.match_macs=L")
    assert [run.differs for run in make_plan(matched, PlanOptions()).runs] == ["", "model.width=784"]
    alone = jobs("model=L", "model.feed_forward=true", "model.match_macs=L")
    assert make_plan(alone, PlanOptions()).runs[0].differs == "model.width=396 model.feed_forward=true"
    seeds = make_plan(jobs("model=N", "model.kernel_size=5", "seed=0,1"), PlanOptions()).runs
    assert [run.differs for run in seeds] == ["model.kernel_size=5 seed=0", "model.kernel_size=5 seed=1"]
    named = ("-m", "model=N", "model.kernel_size=5", "seed=0,1", "hydra/launcher=plan", "hydra.launcher.rows=groups")
    assert "2 runs model.kernel_size=5" in fcdm(*named).stdout


def test_of_runs_of_one_name_it_is_said_which(fcdm: Command) -> None:
    asked = ("-m", "model=L", "model.kernel_size=7,9", "resources.hours=24", "hydra/launcher=plan")
    plan = fcdm(*asked).stdout
    assert "(L-imagenet-256px, #2)" in plan
    assert "warning: L-imagenet-256px (model.kernel_size=9): needs about" in plan
    assert "(L-imagenet-256px model.kernel_size=9)" in fcdm(*asked, "hydra.launcher.rows=groups").stdout


# --- what is on its way, what is measured ----------------------------------------------------------------------


def measured_run(job: Job, device: str, speeds: list[float], world_size: int = 1, **facts: Any) -> Run:
    """The job's run as training leaves it, with these `images_per_s`."""
    config = dataclasses.replace(job.config, data=dataclasses.replace(job.config.data, checksum="a" * 64))
    run = make_jobs([config], data_needed=False)[0].open()
    lines: list[dict[str, Any]] = [
        {"segment": "start", "step": 0, "device": device, "world_size": world_size, "threads": 1, **facts}
    ]
    lines += [{"step": 50 * number, "images_per_s": speed} for number, speed in enumerate(speeds, 1)]
    run.records.write_text("".join(json.dumps({"time": 1e9 + n, **line}) + "\n" for n, line in enumerate(lines)))
    return run


def training_hours(plan: Plan) -> list[float | None]:
    return [run.left.hours(["training"]) for run in plan.runs]


def test_hours_come_from_the_records_of_like_runs(jobs: Any) -> None:
    (job,) = jobs("model=S", "seed=5")
    run = measured_run(job, "NVIDIA H100 80GB HBM3", [10.0, 900.0, 1000.0, 1100.0], world_size=2)
    plan = make_plan(jobs("model=S,B", "seed=0"), PlanOptions())
    (s, b) = plan.runs
    # 500 images/s and GPU: the first record, which saw the warm-up, does not count.
    assert s.left.hours(["training"]) == pytest.approx(256 * 400_000 / 500 / 3600)
    mfu = 500 * 6 * S_MACS / 989.4e12
    assert plan.paces[0] == (
        "training: S 256px batch 256 bf16: 1,000 images/s measured on 2 x NVIDIA H100 80GB HBM3, "
        f"MFU {mfu:.2f} ({run.name})"
    )
    # Sampling computes in TF32: the same share of another peak. In float32 where that is asked.
    sampling = 2 * 50_000 * 250 * S_MACS
    assert s.left.hours(["sampling"]) == pytest.approx(sampling / (mfu * 494.7e12) / 3600)
    (exact,) = make_plan(jobs("model=S", "evaluation.precision=fp32"), PlanOptions()).runs
    assert exact.left.hours(["sampling"]) == pytest.approx(sampling / (mfu * 66.9e12) / 3600)
    assert b.left.hours(["training"]) == pytest.approx(b.left.flops["training"] / (0.1 * 989.4e12) / 3600)
    # Another GPU, precision or batch: not measured.
    assumed = 6 * S_MACS * 256 * 400_000 / (0.1 * 312e12) / 3600
    assert training_hours(make_plan(jobs("model=S"), PlanOptions(gpu="A100"))) == [pytest.approx(assumed)]
    for other in ("precision=tf32", "batch_size=512", "resolution=512", "model.kernel_size=5"):
        assert ": S " not in " ".join(make_plan(jobs("model=S", other), PlanOptions()).paces)
    assert training_hours(make_plan(jobs("model=S", "optimiser.lr=1"), PlanOptions())) == training_hours(plan)[:1]


def test_a_run_on_as_many_gpus_tells_most_and_cpus_tell_nothing_of_gpus(jobs: Any) -> None:
    measured_run(jobs("model=XL", "seed=1")[0], "NVIDIA H100 80GB HBM3", [1.0, 400.0], world_size=4)
    time.sleep(0.01)
    measured_run(jobs("model=XL", "seed=2")[0], "NVIDIA H100 80GB HBM3", [1.0, 110.0], world_size=1)
    time.sleep(0.01)
    measured_run(jobs("model=XL", "seed=3")[0], "cpu", [1.0, 1.0], cpu="AMD EPYC")
    (hours,) = training_hours(make_plan(jobs("model=XL"), PlanOptions()))
    assert hours == pytest.approx(256 * 400_000 / 100 / 3600)
    (on_cpus,) = make_plan(jobs("model=XL", "resources=cpu"), PlanOptions()).runs
    assert on_cpus.left.hours(["training"]) == pytest.approx(256 * 400_000 / 1.0 / 3600)
    assert on_cpus.left.hours(["sampling"]) is None  # fp32 on a CPU: nothing is known of it
    measured_run(jobs("model=S", "precision=fp32")[0], "cpu", [1.0, 1.0], cpu="AMD EPYC")
    (same,) = make_plan(jobs("model=S", "precision=fp32", "resources=cpu"), PlanOptions()).runs
    flops_per_s = 1.0 * 6 * S_MACS
    assert same.left.hours(["sampling"]) == pytest.approx(2 * 50_000 * 250 * S_MACS / flops_per_s / 3600), "no TF32"


def test_damaged_runs_tell_nothing(jobs: Any) -> None:
    run = measured_run(jobs("model=S", "seed=1")[0], "NVIDIA H100 80GB HBM3", [1.0, 2.0])
    run.records.write_bytes(b"\xff\n{}\n{}\n")
    broken = run.folder.parent / "S-imagenet-256px-00000000"
    broken.mkdir()
    (broken / "run.json").write_text("[]")
    assert "assumed" in make_plan(jobs("model=S"), PlanOptions()).paces[0]


def test_a_held_run_is_in_flight(jobs: Any) -> None:
    (job,) = jobs("model=N")
    run = job.open()
    with claim(run.folder):
        plan = make_plan([job], PlanOptions())
    (row,) = plan.runs
    assert (row.standing.state, row.starts) == ("in flight", 0)
    assert "held by process" in row.standing.text
    assert row.left.total_flops() == 0
    assert [reason for reason, _ in plan.savings] == ["in flight already: 1 of 1 runs"]
    assert plan.warnings == []


class FakeSlurm:
    """A queue in which every job waits."""

    ids: ClassVar[list[str]] = []

    def __init__(self, conf: str | None = None) -> None:
        pass

    def queue(self) -> dict[str, JobInfo]:
        return {name: JobInfo(name, "PENDING") for name in self.ids}


def _submitted(job: Any, tmp_path: Path, name: str) -> None:
    """What the SLURM launcher leaves."""
    job.open()
    file = job.freeze()
    jobs = [str(file.relative_to(tmp_path / "runs"))]
    write_launch(new_launch(tmp_path / "runs"), [{"script": "0.sh", "work": "all", "jobs": jobs}])
    add_id(file, name)


def test_what_is_queued_is_in_flight(jobs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remaining, "Slurm", FakeSlurm)
    (job,) = jobs("model=N", "steps=100,200")
    _submitted(job, tmp_path, "7_0")
    monkeypatch.setattr(FakeSlurm, "ids", ["7_0"])
    (row,) = make_plan([job], PlanOptions()).runs
    assert (row.standing.state, row.standing.text) == ("in flight", "in the queue as 7_0")
    # More is asked for: what is queued is not counted again.
    (more,) = jobs("model=N", "steps=100,200,300")
    (row,) = make_plan([more], PlanOptions()).runs
    assert row.standing.text == "a part is in the queue as 7_0"
    assert [step for _, step in row.standing.evaluations] == [300]
    assert row.standing.train_to == 300
    assert row.standing.steps_left == 100, "the rest is on its way"


def test_a_queue_that_cannot_be_asked_is_a_note(jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (job,) = jobs("model=N")
    _submitted(job, tmp_path, "7_0")
    note, epochs = make_plan([job], PlanOptions()).notes
    assert "more than 10 epochs (all budgets, up to 71.2)" in epochs
    assert note.startswith(f"what waits in a queue cannot be told: whether {job.name} is in a queue already")
    assert "there is no SLURM on this machine" in note


def test_parts_that_differ_at_runtime_only_are_evaluated_once(jobs: Any) -> None:
    (job,) = jobs("model=N", "micro_batch=8,16", "steps=10")
    assert len(job.parts) == 2
    assert len(remaining.evaluations_of(job)) == 1
    (two,) = jobs("model=N", "evaluation.seed=0,1", "steps=10")
    assert len(remaining.evaluations_of(two)) == 2


def test_a_second_space_costs_its_features_alone(jobs: Any) -> None:
    """Samples and held-out losses of both are drawn and computed once; the pixels of digits cost nothing."""
    (job,) = jobs("model=N", "evaluation.features=digits-cnn,pixels", "steps=[10,20]")
    (one,) = jobs("model=N", "evaluation.features=digits-cnn", "steps=[10,20]")
    (pixels,) = jobs("model=N", "evaluation.features=pixels", "steps=[10,20]")
    both, alone, apart = (make_plan([each], PlanOptions()).runs[0].whole.flops for each in (job, one, pixels))
    assert both == alone
    assert apart["sampling"] == alone["sampling"], "without the other, its own samples"
    assert make_plan([job], PlanOptions()).notes == [
        "evaluated in digits-cnn and pixels: of the same samples, drawn and decoded once"
    ]
    (inception,) = jobs("model=S", "evaluation.reference=x.npz", "steps=[10]")
    asked = inception.config
    once = evaluation_flops_of(asked)
    second = evaluation_flops_of(asked, samples_are_drawn=True)
    assert second == {"sampling": 0, "decoding": 0, "metrics": 2 * 50_000 * INCEPTION_MACS}
    assert once["metrics"] == second["metrics"]
    assert once["decoding"] > 0


def test_a_module_of_ones_own_that_is_called_like_dinov2_is_none(jobs: Any) -> None:
    (job,) = jobs("model=S", "evaluation.reference=x.npz", "steps=[10]")

    def macs(features: str) -> int:
        evaluation = dataclasses.replace(job.config.evaluation, features=features)
        return evaluation_flops.extractor_macs(dataclasses.replace(job.config, evaluation=evaluation))

    assert macs("dinov2_mine.F") == 0
    assert macs("dinov2-pil") == macs("dinov2") > 0


def test_jobs_of_data_that_is_elsewhere(jobs: Any, composer: Composer) -> None:
    (job,) = jobs("model=S")
    assert not data_is_here(job.config)
    (known,) = jobs("model=S", "data.checksum=abc")
    assert known.config.data.checksum == "abc"
    with pytest.raises(UserError, match=r"fcdm\.prepare"):
        make_jobs([composer.config(["model=S"])])
    with pytest.raises(UserError, match="digits come at"):
        jobs("model=N", "resolution=12")


# --- warnings --------------------------------------------------------------------------------------------------

H100 = DEVICES["H100"]


def test_memory_that_cannot_fit_comes_with_what_would(jobs: Any) -> None:
    many = jobs("model=XL", "resolution=512", "seed=0,1,2")
    (text,) = warnings_before_submission(many, H100, mfu=1.0)
    cost = model_cost(load_preset("XL"), channels=4, side=64, classes=1000)
    assert text.startswith(
        "XL-imagenet-512px (seed=0) and 2 more: needs about 86.1 GB for each GPU, and the H100 has 80 GB"
    )
    for way in ("micro_batch=32 (", "activation_checkpointing=true (", "resources.gpus=8 ("):
        assert way in text
    fixed, each = cost.training_bytes_parts("bf16", activation_checkpointing=False)
    assert f"micro_batch=32 ({(fixed + 32 * each) / 1e9:.3g} GB)" in text
    # Each of these ways is silent.
    for way in ("micro_batch=32", "activation_checkpointing=true", "resources.gpus=8"):
        assert not warnings_before_submission(jobs("model=XL", "resolution=512", way), H100, mfu=1.0)
    assert not warnings_before_submission(many, None)


def test_a_state_that_does_not_fit_says_so(jobs: Any) -> None:
    small = dataclasses.replace(H100, memory_gb=12)
    (text,) = warnings_before_submission(jobs("model=XL"), small, mfu=1.0)
    assert "its state alone does not fit" in text


def test_memory_of_a_process_on_cpus(jobs: Any) -> None:
    (text,) = warnings_before_submission(jobs("model=N", "resources.mem_gb=0.5"), None)
    assert "resources.mem_gb=0.5 gives it 500 MB" in text
    assert "resources.mem_gb=1" in text
    assert not warnings_before_submission(jobs("model=N,M,dit/N-2,dit/M-2"), None)


def test_memory_of_a_process_on_cpus_has_the_copy_that_is_written(jobs: Any) -> None:
    (job,) = jobs("model=M", "power_ema.sigma_rel=[0.05,0.1]")
    parameters = run_cost(job.config).parameters
    cpu = request_of(job.config.resources, SlurmOptions())
    gpu = request_of(dataclasses.replace(job.config.resources, gpus=1), SlurmOptions())
    fixed = [process_memory(job.config, request).fixed for request in (cpu, gpu)]
    assert fixed == [PROCESS_BYTES + 4 * (7 + 6) * parameters, 4 * 7 * parameters]


def test_host_memory_of_jobs_on_gpus(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = jobs("model=XL")
    parameters, four = run_cost(job.config).parameters, request_of(job.config.resources, SlurmOptions())
    # Four processes; the copy of weights, EMA and two moments, or each process's model twice, whichever is more.
    assert host_bytes(job.config, four) == 4 * GPU_PROCESS_BYTES + 4 * 8 * parameters
    one = dataclasses.replace(four, tasks_per_node=1)
    assert host_bytes(job.config, one) == GPU_PROCESS_BYTES + 16 * parameters
    assert host_bytes(job.config, one, trains=False) == GPU_PROCESS_BYTES + 8 * parameters
    need = math.ceil(host_bytes(job.config, four) / 1e9)

    (text,) = warnings_before_submission(jobs("model=XL", f"resources.mem_gb={need - 1}"), None)
    assert f"and resources.mem_gb={need - 1} is less: resources.mem_gb={need}" in text
    assert not warnings_before_submission(jobs("model=XL", f"resources.mem_gb={need}"), None)
    apart = jobs("model=N", "evaluation=job", "evaluation.resources.gpus=1", "evaluation.resources.mem_gb=3")
    (text,) = warnings_before_submission(apart, None)
    assert "evaluation.resources.mem_gb=3 is less: evaluation.resources.mem_gb=5" in text

    def told(*words: str) -> str:
        print_tables(make_plan(jobs(*words), SlurmOptions()), "all", Console(width=200))
        return capsys.readouterr().out

    assert f"Host memory of a node in GB, an estimate: XL {need}, S " in told("model=XL,S")
    assert "Host memory" not in told("model=XL", f"resources.mem_gb={need}")
    assert "Host memory" not in told("model=N")


def test_a_large_checkpoint_leaves_less_time_for_work(jobs: Any) -> None:
    (job,) = jobs("model=XL", "resources.hours=1")
    request, options = request_of(job.config.resources, SlurmOptions()), SlurmOptions()
    grace = 30 + math.ceil(16 * run_cost(job.config).parameters / 100e6)
    assert grace > 120
    assert useful_seconds(request, options, saved_bytes(job.config)) == 3600 - START_UP_S - grace
    assert useful_seconds(request, options, 0) == 3600 - START_UP_S - 120
    (run,) = make_plan([job], options).runs
    assert run.wall_hours is not None
    assert run.starts == math.ceil(3600 * run.wall_hours / (3600 - START_UP_S - grace))


def test_a_batch_that_does_not_divide(jobs: Any) -> None:
    (text,) = warnings_before_submission(jobs("model=S", "resources.gpus=3"), H100, mfu=1.0)
    assert "batch_size=256 does not divide over 3 processes" in text


def test_time_limits(jobs: Any) -> None:
    late = SlurmOptions(signal_delay_s=120)
    (text,) = warnings_before_submission(jobs("model=S", "resources.hours=0.02"), H100, 0.4, late)
    assert "a start of 120 s (resources.hours) leaves 0 s of work (30 s to start up, and SLURM signals 120 s" in text
    (text,) = warnings_before_submission(jobs("model=S", "resources.hours=0.05"), H100, 0.4, late)
    assert (
        "starts of 3 min (resources.hours), of which all but 2.5 min are usable, for 1.5 h of work; "
        "it is requeued each time" in text
    )
    short = SlurmOptions(timeout_min=1, signal_delay_s=15)
    (text,) = warnings_before_submission(jobs("model=S"), H100, 0.4, short)
    assert "starts of 1 min (hydra.launcher.timeout_min), of which all but 45 s are usable" in text
    few = SlurmOptions(max_num_timeout=1)
    (text,) = warnings_before_submission(jobs("model=L"), H100, 0.02, few)
    assert "hydra.launcher.max_num_timeout=1 requeues it 1 times only" in text
    texts = warnings_before_submission(jobs("model=L", "evaluation=job"), H100, 0.02)
    assert [("evaluation.resources.hours" in text) for text in texts] == [False, True]
    # Hours that are neither measured nor guessed say nothing.
    assert not warnings_before_submission(jobs("model=L"), None)


# --- costs against torch ---------------------------------------------------------------------------------------


def counted_macs(module: nn.Module, *shape: int) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module.to("meta")(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.body(x)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x.flatten(2).mT) for layer in self.layers[:3])
        return x + self.layers[3]((q @ k.mT) @ v).mT.view(x.shape)  # type: ignore[no-any-return]


def vae_decoder() -> nn.Sequential:
    """The public decoder's layers with weights, without its GroupNorms."""

    def level(c_in: int, c_out: int, last: bool) -> list[nn.Module]:
        layers: list[nn.Module] = [_Residual(c_in, c_out), _Residual(c_out, c_out), _Residual(c_out, c_out)]
        return layers if last else [*layers, nn.Upsample(scale_factor=2), nn.Conv2d(c_out, c_out, 3, padding=1)]

    return nn.Sequential(
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 512, 3, padding=1),
        _Residual(512, 512),
        _Attention(512),
        _Residual(512, 512),
        *level(512, 512, False),
        *level(512, 512, False),
        *level(512, 256, False),
        *level(256, 128, True),
        nn.Conv2d(128, 3, 3, padding=1),
    )


@pytest.mark.parametrize("side", [8, 32, 64])
def test_decoder_macs_are_torchs(side: int) -> None:
    with torch.device("meta"):
        decoder = vae_decoder()
    # 49,490,199 with 34,304 in GroupNorms: what is published for the decoder and its 1x1 convolution (checkpoints of
    # sd-vae-ft-ema; 49,490,179 without that). So this is that architecture.
    widths = [512] * 5 + [512] * 12 + [512, 256, 256, 256, 256, 256] + [256, 128, 128, 128, 128, 128] + [128]
    assert sum(p.numel() for p in decoder.parameters()) + 2 * sum(widths) == 49_490_199
    assert evaluation_flops.vae_decoder_macs(side) == counted_macs(decoder, 4, side, side)


def test_a_store_of_another_downsample_can_be_planned() -> None:
    """It was refused, and with it every submission: the decoder's FLOPs were known of the SD-VAE alone."""
    flops = {
        downsample: evaluation_flops.decoding_macs(composed("model=S", f"data.downsample={downsample}"))
        for downsample in (4, 8, 16)
    }
    assert flops[8] == evaluation_flops.vae_decoder_macs(32)
    assert all(0.5 * flops[8] < one < 2 * flops[8] for one in flops.values())


def test_inception_macs_are_the_published_ones() -> None:
    """torchvision lists 5.713 GMACs for its inception_v3, whose last Linear (2048 x 1000) FID leaves out."""
    assert (evaluation_flops.inception_macs() + 2048 * 1000) / 1e9 == pytest.approx(5.713, abs=5e-4)
    assert evaluation_flops.inception_macs() == INCEPTION_MACS


def test_inception_macs_are_torchs() -> None:
    assert evaluation_flops.inception_macs() == counted_macs(_Inception(), 3, 299, 299)


def _branch(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def _pooled(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(c_in, c_out, 1))


class _Branches(nn.Module):
    """Branches side by side, their results joined."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class _Inception(nn.Sequential):
    """The convolutions of Inception-v3 (figure 5, 6, 7 and table 1 of arXiv 1512.00567, channels of its release)."""

    def __init__(self) -> None:
        conv = nn.Conv2d

        def a(c_in: int, pooled: int) -> nn.Module:
            return _Branches(
                conv(c_in, 64, 1),
                _branch(conv(c_in, 48, 1), conv(48, 64, 5, padding=2)),
                _branch(conv(c_in, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, padding=1)),
                _pooled(c_in, pooled),
            )

        def c(m: int) -> nn.Module:
            row, column = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
            double = [
                conv(768, m, 1),
                conv(m, m, **column),
                conv(m, m, **row),
                conv(m, m, **column),
                conv(m, 192, **row),
            ]
            return _Branches(
                conv(768, 192, 1),
                _branch(conv(768, m, 1), conv(m, m, **row), conv(m, 192, **column)),
                _branch(*double),
                _pooled(768, 192),
            )

        def e(c_in: int) -> nn.Module:
            def split() -> nn.Module:
                return _Branches(conv(384, 384, (1, 3), padding=(0, 1)), conv(384, 384, (3, 1), padding=(1, 0)))

            return _Branches(
                conv(c_in, 320, 1),
                _branch(conv(c_in, 384, 1), split()),
                _branch(conv(c_in, 448, 1), conv(448, 384, 3, padding=1), split()),
                _pooled(c_in, 192),
            )

        seven = [conv(768, 192, 1), conv(192, 192, (1, 7), padding=(0, 3)), conv(192, 192, (7, 1), padding=(3, 0))]
        super().__init__(
            *(conv(3, 32, 3, 2), conv(32, 32, 3), conv(32, 64, 3, padding=1), nn.MaxPool2d(3, 2)),
            *(conv(64, 80, 1), conv(80, 192, 3), nn.MaxPool2d(3, 2)),
            *(a(192, 32), a(256, 64), a(288, 64)),
            _Branches(
                conv(288, 384, 3, 2),
                _branch(conv(288, 64, 1), conv(64, 96, 3, padding=1), conv(96, 96, 3, 2)),
                nn.MaxPool2d(3, 2),
            ),
            *(c(128), c(160), c(160), c(192)),
            _Branches(
                _branch(conv(768, 192, 1), conv(192, 320, 3, 2)),
                _branch(*seven, conv(192, 192, 3, 2)),
                nn.MaxPool2d(3, 2),
            ),
            *(e(1280), e(2048)),
        )


def test_what_the_digits_need_is_what_the_engine_does() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = DigitsCNN()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.features(x)

    assert evaluation_flops.digits_cnn_macs() == counted_macs(Features(), 1, 8, 8)
    split = load_digits_split()
    assert (len(split.train_images), len(split.heldout_images)) == (
        evaluation_flops.DIGITS_TRAIN,
        evaluation_flops.DIGITS_HELDOUT,
    )
    assert evaluation_flops.HELDOUT_BINS == BINS


def test_dinov2_macs_are_torchs() -> None:
    from transformers import Dinov2Config, Dinov2Model

    values = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 224}
    with torch.device("meta"):
        network = Dinov2Model(Dinov2Config(**values, attn_implementation="eager"))
    assert evaluation_flops.dinov2_macs(width=64, layers=2) == counted_macs(network, 3, 224, 224)
    assert evaluation_flops.dinov2_macs() / 1e9 == pytest.approx(81, abs=0.5)


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (28, 1), (32, 3), (64, 3)])
def test_the_classifiers_macs_are_torchs(side: int, channels: int) -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = StoreClassifier(channels, side, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.features(x)

    assert evaluation_flops.classifier_macs(side, channels) == counted_macs(Features(), channels, side, side)


def test_a_store_is_planned_with_its_own_features_and_held_out_images(tmp_path: Path) -> None:
    store = tiny_pixels(tmp_path / "store", side=16)
    with composing() as composer:
        words = ["model=N", f"data.path={store}", "evaluation.samples=100"]
        config, pixels = (composer.config([*words, *more]) for more in ([], ["evaluation.features=pixels"]))
    heldout = 10 * 60 * 7
    assert evaluation_flops.metrics_macs(pixels, forward_macs=7) == heldout
    of_samples = 100 * 2 * evaluation_flops.classifier_macs(16, 1)
    assert evaluation_flops.metrics_macs(config, forward_macs=7) == heldout + of_samples


def test_losses_are_planned_by_their_images(tmp_path: Path) -> None:
    """Of as many that are trained on too, and no more than are held out; samples that are not drawn cost nothing."""
    words = ["model=N", f"data.path={tiny_pixels(tmp_path / 'store', side=16)}", "evaluation.samples=0"]
    with composing() as composer:
        whole, some, more = (composer.config([*words, *said]) for said in ([], [SOME], [SOME.replace("20", "99")]))
        elsewhere = composer.config(["model=N", "data=pixels", "data.path=not-here", "evaluation.samples=0", SOME])
    forward = run_cost(whole).forward_macs
    for config, images in ((whole, 60), (some, 2 * 20), (more, 2 * 60), (elsewhere, 2 * 20)):
        metrics = 2 * 10 * images * run_cost(config).forward_macs
        assert evaluation_flops_of(config) == {"sampling": 0, "decoding": 0, "metrics": metrics}
    assert forward == run_cost(some).forward_macs


SOME = "evaluation.loss_images=20"


def test_losses_take_as_long_as_the_models_other_forward_passes(jobs: Any) -> None:
    """Where samples are drawn in TF32, and not as long as features, which are in float32."""
    asked = ("model=N", "steps=[10]", "resources=gpu1", "evaluation.samples=0", "evaluation.precision=tf32")
    (job,) = jobs(*asked)
    cost = make_plan([job], PlanOptions(gpu="H100")).runs[0].whole
    assert cost.flops["metrics"] == 2 * 10 * evaluation_flops.DIGITS_HELDOUT * run_cost(job.config).forward_macs
    wanted = cost.flops["metrics"] / (DEFAULT_MFU * DEVICES["H100"].flops_per_s("tf32"))
    assert cost.seconds["metrics"] == pytest.approx(wanted)


@pytest.mark.parametrize(("name", "channels", "side"), [("N", 1, 8), ("S", 4, 32), ("dit/S-2", 4, 32)])
def test_checkpointed_activations_are_what_autograd_keeps(name: str, channels: int, side: int) -> None:
    """All but the one block that is there again during the backward pass."""
    config = load_preset(name)
    shape = {"channels": channels, "side": side, "classes": 10}
    model = build_model(config, **shape, learn_sigma=True, activation_checkpointing=True).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept(batch: int) -> int:
        found: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            x = torch.randn(batch, channels, side, side)
            model(x, torch.zeros(batch), torch.zeros(batch, dtype=torch.int64))
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    cost = model_cost(config, **shape)
    between = cost.checkpointed_bytes_per_image - 4 * cost.largest_block
    assert between == pytest.approx((kept(3) - kept(1)) / 2, rel=0.05)
    assert cost.checkpointed_bytes_per_image < cost.activation_bytes_per_image / 2


def test_the_papers_hardware_fits() -> None:
    """FCDM-XL at 64 images a GPU with activation checkpointing trained on 24 GB (arXiv 2603.09408)."""
    cost = model_cost(load_preset("XL"), channels=4, side=32, classes=1000)
    fixed, per_image = cost.training_bytes_parts("bf16", activation_checkpointing=True)
    assert fixed + 64 * per_image < 24e9
    assert cost.training_bytes_parts("fp32", False) == (cost.state_bytes, cost.activation_bytes_per_image)


def test_devices_by_the_names_that_people_and_torch_use() -> None:
    names = {
        "h100": "H100",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H100 PCIe": "H100-PCIe",
        "NVIDIA H200": "H200",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA A100-SXM4-40GB": "A100-40GB",
        "NVIDIA A100-PCIE-40GB": "A100-40GB",
        "NVIDIA GeForce RTX 4090": "RTX-4090",
        "rtx4090": "RTX-4090",
        "NVIDIA L40S": "L40S",
    }
    assert {name: device_named(name).name for name in names} == names
    for unknown in ("NVIDIA L40", "Tesla V100-SXM2-16GB", "NVIDIA GeForce RTX 4090 Laptop GPU", "cpu"):
        assert known_device(unknown) is None
    assert all(device.bf16 >= device.tf32 >= device.fp32 and device.source for device in DEVICES.values())


def test_a_typed_config_is_what_jobs_are_made_of(jobs: Any) -> None:
    assert all(isinstance(job.config, Config) for job in jobs("model=S,N"))
