"""`python -m fcdm.benchmark key=value ...`: how fast a model trains and samples here, or on a cluster's GPUs."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fcdm.errors import UserError
from fcdm.paths import place
from fcdm.sample import told
from fcdm.sweep.benchmark_sweeper import benchmark_jobs
from fcdm.sweep.command_line import readable
from fcdm.sweep.compose import one_config
from fcdm.sweep.expand import last_of_each, refuse_unused
from fcdm.sweep.hydra_schema import register_schema

HELP = """python -m fcdm.benchmark [-m] key=value ... [seconds=180] [--profile]
python -m fcdm.benchmark --show [--runs FOLDER]

Measures, for a model at a resolution, on the device where it runs: what the device can do at best (matrix products
in float32, TF32 and bf16; copies); the training step by phase, eager, compiled and with activation checkpointing; its
memory beside what a plan says; the largest micro-batch; sampling with and without guidance in each precision;
decoding; feature extraction; the slowest operators; and what limits the step. It needs no data.

What it measured is kept in <runs_dir>/benchmarks/<device>.json. hydra/launcher=plan then counts with it.

keys, as of python -m fcdm.train; others have no effect on a benchmark, and are refused
  model=XL resolution=512 precision=bf16 objective=flow      what is measured, and model.* and data.*
  micro_batch=32        images in one forward pass (default: 64 on a GPU); batch_size: the most that are tried
  compile=false         do not measure compiled training; true: sample compiled too
  deterministic=false   by the fastest algorithms instead
  evaluation.sampler, evaluation.batch_size, evaluation.features
  device=auto threads=N runs_dir=runs; resources and study for SLURM
  seconds=180           at most about so long for each model: the most telling comes first
  --profile             keep the profiler's trace of a training step (for Perfetto or chrome://tracing)
  --show                what was measured so far, and nothing else

examples
  python -m fcdm.benchmark model=N
  python -m fcdm.benchmark -m model=S,B,L,XL,dit/XL-2
  python -m fcdm.benchmark -m model=XL,dit/XL-2 resolution=256,512 +slurm=h100x4 hydra/launcher=submitit_slurm
"""

USES = (
    *("model", "model.*", "recipe", "resolution", "precision", "batch_size", "micro_batch", "compile", "deterministic"),
    *("data", "data.name", "data.path", "data.channels", "data.classes", "data.downsample", "objective", "diffusion.*"),
    *("data.conditions.*", "data.target", "data.options.*", "data.flip", "optimiser.target", "optimiser.options.*"),
    *("device", "threads", "runs_dir", "study", "resources", "resources.*", "sweeps", "slurm", "slurm.*"),
    *("evaluation.sampler", "evaluation.batch_size", "evaluation.features", "evaluation.features_options.*"),
)
"""Keys and groups that have an effect on a benchmark."""

register_schema()
_failure: Exception | None = None


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 once all is measured, or submitted; 1 after a one-line message."""
    words = sys.argv[1:] if arguments is None else arguments
    if any(word in ("-h", "--help", "help") for word in words):
        print(HELP, end="")
        return 0
    try:
        return told("fcdm.benchmark", lambda: _show(words) if "--show" in words else _run(words))
    except _Interrupted:
        print("fcdm.benchmark: interrupted; what was measured is kept", file=sys.stderr)
        return 130


class _Interrupted(BaseException):
    """Ctrl-C; not KeyboardInterrupt, for which others promise that the same command continues."""


def _run(words: list[str]) -> None:
    sweeper = ["hydra/sweeper=fcdm_benchmark"]
    for word in words:
        key, _, value = word.partition("=")
        if key == "seconds":
            try:
                sweeper.append(f"hydra.sweeper.seconds={float(value)}")
            except ValueError:
                raise UserError(f"seconds={value} is no number: seconds=180 for each model") from None
        elif key == "--profile" and word != key:
            raise UserError(f"{word} is not known: --profile, alone, keeps a trace")
        elif word == "--profile":
            sweeper.append("hydra.sweeper.profile=true")
    rest = readable([word for word in words if word.partition("=")[0] not in ("seconds", "--profile")])
    refuse_unused(rest, USES, "a benchmark")
    sys.argv[1:] = last_of_each([*rest, *sweeper])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to here, where they become one line
    try:
        _measure_one()
    except KeyboardInterrupt:
        raise _Interrupted from None
    if _failure is not None:
        raise _failure


@hydra.main(config_path="pkg://fcdm.conf", config_name="train", version_base="1.3")
def _measure_one(composed: DictConfig) -> None:
    """One configuration, in this process; several (`-m`) are `fcdm.sweep.benchmark_sweeper`'s."""
    global _failure
    try:
        config = one_config("fcdm.benchmark", "model")
        options = HydraConfig.get().sweeper
        (job,) = benchmark_jobs([config], options.seconds, options.profile)
        from fcdm.speed.run_benchmark import run_benchmark

        run_benchmark(job)
    except Exception as error:
        _failure = error


def _show(words: list[str]) -> None:
    """Print what was measured below the folder of runs."""
    rest = [word for word in words if word != "--show"]
    runs = "runs"
    if rest[:1] == ["--runs"] and len(rest) == 2:
        runs = rest[1]
    elif len(rest) == 1 and rest[0].startswith("--runs="):
        runs = rest[0].removeprefix("--runs=")
    elif rest:
        raise UserError(f"{' '.join(rest)} says nothing with --show: --show [--runs FOLDER]")
    from fcdm.runs.benchmark_files import device_files, read_benchmark
    from fcdm.speed.speed_table import print_benchmark

    files = device_files(place(runs))
    if not files:
        raise UserError(f"{runs} has no benchmarks: python -m fcdm.benchmark model=... makes one")
    for file in files:
        content = read_benchmark(file)
        try:
            print_benchmark(content)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{file} is damaged: delete it, or what is not whole in it") from None


if __name__ == "__main__":
    sys.exit(main())
