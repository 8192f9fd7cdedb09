"""A benchmark's job in this process: measured, written to the device's file, shown."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from fcdm.atomic import read_json
from fcdm.engine.distributed import Ranks
from fcdm.engine.environment import segment_facts
from fcdm.jobs.job import BenchmarkJob
from fcdm.runs.benchmark_files import record_benchmark
from fcdm.speed.benchmark_model import ModelBenchmark
from fcdm.speed.ceilings import Ceilings, measure_ceilings
from fcdm.speed.speed_table import print_benchmark

CEILINGS_S = 10.0
FACTS = ("host", "device", "threads", "revision", "torch", "cpu")


def run_benchmark(job: BenchmarkJob) -> None:
    """Measure, record, print. Raises UserError, for a device that is not there too."""
    config = job.config
    device = Ranks.from_environment(config.device).device
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    ceilings = _ceilings(device)
    trace = job.open().folder / "trace.json.gz" if job.profile else None
    benchmark = ModelBenchmark(config, ceilings, device, job.seconds, lambda text: print(text, flush=True))
    name, entry = benchmark.run(trace)
    facts = segment_facts(config, Ranks(0, 1, device))
    path = record_benchmark(config.runs_dir, {key: facts[key] for key in FACTS}, asdict(ceilings), {name: entry})
    content: dict[str, Any] = read_json(path)
    print_benchmark(content, [name])
    print(f"{path}{f', {trace}' if trace else ''}", flush=True)


@cache
def _ceilings(device: torch.device) -> Ceilings:
    """Once a process."""
    return measure_ceilings(device, CEILINGS_S)
