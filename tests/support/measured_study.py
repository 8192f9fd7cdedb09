"""A study as training leaves it, of real configurations and ids; what was measured lies on a known surface."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from fcdm.jobs.job import Job
from fcdm.jobs.record_study import record_study
from fcdm.runs.run_cost import run_cost
from fcdm.sweep.jobs_asked import jobs_asked

BUDGETS = (100, 200, 400)


def surface(macs: float, images: float, seed: int = 0) -> float:
    """FID: seeds 0 and 1 are 2 per cent apart, others are as the one or the other."""
    return float((2 + 6 * (macs / 4e6) ** -0.4 + 12 * (images / 1e4) ** -0.5) * math.exp(0.01 * (-1) ** seed))


def measure(
    job: Job,
    steps: int,
    factor: float = 1.0,
    when: float | None = None,
    metrics: Sequence[str] = ("fid", "heldout_loss"),
) -> Path:
    """Evaluate a budget: its run is opened, and the evaluation's file written. Its path."""
    part, run = job.parts[0], job.open()
    config = part.config
    fid = factor * surface(run_cost(config).forward_macs, steps * config.batch_size, config.seed)
    path = run.evaluation(steps, part.protocol_id)
    path.parent.mkdir(exist_ok=True)
    content = {
        "step": steps,
        "time": time.time() if when is None else when,
        "protocol_id": part.protocol_id,
        "protocol": part.protocol,
        "metrics": {key: {"fid": fid, "heldout_loss": 0.05 + fid / 1000}[key] for key in metrics},
    }
    path.write_text(json.dumps(content))
    return path


def asked_jobs(runs_dir: Path, *words: str, study: str = "demo") -> list[Job]:
    return jobs_asked([*words, f"study={study}", f"runs_dir={runs_dir}"])


def measured_study(
    runs_dir: Path,
    models: str = "N,M",
    budgets: Sequence[int] = BUDGETS,
    study: str = "demo",
    settings: Sequence[str] = (),
    metrics: Sequence[str] = ("fid", "heldout_loss"),
) -> list[Job]:
    """Two seeds of each model, measured at every budget."""
    words = [f"model={models}", "seed=0,1", f"steps=[{','.join(map(str, budgets))}]", *settings]
    jobs = asked_jobs(runs_dir, *words, study=study)
    record_study(jobs, ["python", "-m", "fcdm.train", "-m", *words])
    for job in jobs:
        for step in budgets:
            measure(job, step, when=1_764_000_000.0 + step, metrics=metrics)
    return jobs
