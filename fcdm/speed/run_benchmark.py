"""A benchmark's job in this process: measured, written to the device's file, shown."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from fcdm.engine.distributed import Ranks, take_device
from fcdm.engine.environment import segment_facts
from fcdm.jobs.job import BenchmarkJob
from fcdm.runs.benchmark_files import record_benchmark
from fcdm.runs.processes import is_first_process
from fcdm.speed.benchmark_model import ModelBenchmark
from fcdm.speed.ceilings import Ceilings, measure_ceilings
from fcdm.speed.speed_table import print_benchmark

CEILINGS_S = 10.0
FACTS = ("device", "threads", "cpu")
"""Of a segment's: what makes a device another one."""


def run_benchmark(job: BenchmarkJob) -> None:
    """Measure, record after each measurement, print. Raises UserError, also for a device that is not there.

    Of several processes the first does it, undisturbed by the others.
    """
    if not is_first_process():
        return
    config = job.config
    device = take_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    facts = {key: value for key, value in segment_facts(config, Ranks(0, 1, device)).items() if key in FACTS}
    path = record_benchmark(config.runs_dir, facts, {})  # refuses what cannot be written before anything is measured
    trace = job.open().folder / "trace.json.gz" if job.profile else None
    kept: dict[str, Any] = {}

    def keep(name: str, entry: dict[str, Any]) -> None:
        kept[name] = entry
        record_benchmark(config.runs_dir, facts, kept)

    try:
        ModelBenchmark(config, _ceilings(device), device, job.seconds, _note, keep).run(trace)
    finally:
        if kept:
            print_benchmark({**facts, "models": kept})
            print(f"{path}{f', {trace}' if trace and trace.exists() else ''}", flush=True)


def _note(text: str) -> None:
    print(text, flush=True)


@cache
def _ceilings(device: torch.device) -> Ceilings:
    """Once a process."""
    return measure_ceilings(device, CEILINGS_S)
