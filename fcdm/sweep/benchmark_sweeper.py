"""`python -m fcdm.benchmark -m ...`: the same choices as a training sweep has, each measured instead of trained."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fcdm.config.schema import Config, ResourcesConfig
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.jobs.job import BENCHMARK, BenchmarkJob
from fcdm.runs.benchmark_files import FOLDER, benchmark_name
from fcdm.runs.kept_source import with_sources
from fcdm.runs.protocol import Part
from fcdm.runs.trials import try_codes
from fcdm.sweep.sweeper import StudySweeper

START_S = 240.0
"""Allowed on a cluster besides the time of measuring: start-up, ceilings, a stage that overruns."""


def benchmark_jobs(configs: Iterable[Config], seconds: float, profile: bool) -> list[BenchmarkJob]:
    """One job for each different model, resolution and precision. Raises UserError for a model that does not run."""
    if not 1 <= seconds <= 3600:
        raise UserError(f"seconds={seconds:g} cannot be: from 1 to 3600, for each model")
    configs = [with_sources(config) for config in configs]
    try_codes(configs)
    jobs: dict[Path, BenchmarkJob] = {}
    for config in configs:
        gpus = min(1, config.resources.gpus)
        resources = ResourcesConfig(gpus, 1, (seconds + START_S) / 3600, config.resources.mem_gb, config.resources.cpus)
        evaluation = dataclasses.replace(config.evaluation, where="inline")
        config = dataclasses.replace(
            config, resources=resources, evaluation=evaluation, steps=[1], grids=[], studies=[]
        )
        name = benchmark_name(config).replace(" ", "-").replace("/", "-")
        folder = Path(config.runs_dir) / FOLDER / name
        jobs[folder] = BenchmarkJob(name, folder, (Part(config),), BENCHMARK, seconds, profile)
    if len(jobs) < len(configs):
        print(
            f"{len(configs)} choices are {plural(len(jobs), 'benchmark')}: only the model, its data's shape, the "
            "resolution and the precision tell them apart",
            flush=True,
        )
    return list(jobs.values())


class BenchmarkSweeper(StudySweeper):
    """Hydra's entry (`hydra/sweeper: fcdm_benchmark`), which `python -m fcdm.benchmark` asks for."""

    def __init__(self, seconds: float = 180.0, profile: bool = False) -> None:
        self.seconds, self.profile = seconds, profile

    def sweep(self, arguments: list[str]) -> Any:
        """Measure one after the other here, or submit to SLURM."""
        jobs = benchmark_jobs(self.configs(arguments), self.seconds, self.profile)
        launcher = self.composed.hydra.runtime.choices["hydra/launcher"]
        if launcher == "basic":
            from fcdm.speed.run_benchmark import run_benchmark

            failed = 0
            for job in jobs:
                try:
                    run_benchmark(job)
                except UserError as error:  # of this model: the others may do
                    print(f"failed: {job.name}: {error}", file=sys.stderr)
                    failed += 1
            if failed:
                raise SystemExit(1)
            return
        if launcher != "submitit_slurm":
            raise UserError(
                f"hydra/launcher={launcher} is not for benchmarks: leave it out to measure one after the other on this "
                "machine (side by side they would slow each other down), or say hydra/launcher=submitit_slurm"
            )
        self.launcher.check(list(jobs))
        if self.launcher.launch_jobs(list(jobs)):
            raise SystemExit(1)
