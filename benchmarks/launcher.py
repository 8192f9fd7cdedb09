"""Our SLURM launcher against the stock one: many trivial runs on a private SLURM, side by side in one go.

    python benchmarks/launcher.py [--runs 200]

A trivial run starts, reads its configuration and finds nothing to do. Ours are made so by laying their evaluations
into the run folders between submission and start (the jobs are held meanwhile, which is left out of the times).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


from fcdm.atomic import write_json  # noqa: E402
from fcdm.jobs.job import Job  # noqa: E402
from fcdm.slurm.ledger import list_tasks  # noqa: E402
from tools.devcluster.cluster import DevCluster  # noqa: E402


@dataclass
class Result:
    """Seconds; `per_minute`: jobs from the first start to the last end."""

    returned: float
    cpu: float
    per_minute: float
    job: float
    """Mean time of a job, start to end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        cluster = DevCluster(Path(folder) / "cluster", nodes=2, cpus=2, gpus=0)
        cluster.up()
        try:
            environment = {**os.environ, **cluster.environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            stock = measure_stock(Path(folder) / "stock", runs, environment)
            ours = measure_ours(Path(folder) / "ours", runs, environment)
        finally:
            cluster.down()
    print(f"{runs} trivial runs on 2 make-believe nodes of 2 CPUs   (jobs start to end, mean)")
    for name, found in (("stock", stock), ("ours", ours)):
        print(
            f"  {name:6} returns after {found.returned:6.1f} s, {found.cpu:5.1f} s of CPU; "
            f"{found.per_minute:5.0f} jobs a minute, {found.job:.2f} s a job"
        )
    print(
        f"  ours / stock: time to return {ours.returned / stock.returned:.2f}, CPU {ours.cpu / stock.cpu:.2f}, "
        f"time a job {ours.job / stock.job:.2f}"
    )
    return 0


def measure_stock(folder: Path, runs: int, environment: dict[str, str]) -> Result:
    folder.mkdir()
    words = [sys.executable, str(ROOT / "benchmarks" / "plain_launcher.py"), "-m", "hydra/sweeper=basic"]
    words += ["hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=1"]
    words += ["hydra.launcher.timeout_min=30", "model=N", f"seed={_seeds(runs)}"]
    returned, cpu = _timed(words, folder, environment)
    return Result(returned, cpu, *_jobs(runs, environment, folder))


def measure_ours(folder: Path, runs: int, environment: dict[str, str]) -> Result:
    folder.mkdir()
    words = [sys.executable, "-P", "-m", "fcdm.train", "-m", "hydra/launcher=submitit_slurm"]
    words += ["hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=30", "model=N", "steps=1", "mlflow_uri=off"]
    words += ["+hydra.launcher.additional_parameters.hold=true", f"seed={_seeds(runs)}"]
    returned, cpu = _timed(words, folder, environment)
    tasks = list_tasks(folder / "runs")
    assert len(tasks) == runs
    for task in tasks:
        job = Job.load(task.job_file)
        job.run.evaluations.mkdir(exist_ok=True)
        path = job.run.evaluation(1, job.parts[0].protocol_id)
        write_json(path, {"metrics": {"fid": 1.0}})
    array = tasks[0].ids[0].split("_")[0]
    subprocess.run(["scontrol", "release", array], env=environment, check=True)
    while subprocess.run(["squeue", "-h"], env=environment, capture_output=True, check=True).stdout.strip():
        time.sleep(1)
    logs = [task.log.read_text() for task in tasks]
    assert all("nothing is left to do" in text for text in logs)
    return Result(returned, cpu, *_jobs(runs, environment, folder))


def _seeds(runs: int) -> str:
    return ",".join(map(str, range(runs)))


def _timed(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of the command and its children)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _jobs(runs: int, environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """(jobs a minute, mean seconds a job) of the jobs that were started from below `folder`."""
    time.sleep(3)  # accounting lags
    layout = "Start,End,State,WorkDir"
    words = ["sacct", "-n", "-X", "-P", "-S", "now-1hours", "-o", layout]
    said = subprocess.run(
        words, env={**environment, "SLURM_TIME_FORMAT": "%s"}, capture_output=True, text=True, check=True
    )
    times = []
    for line in said.stdout.splitlines():
        start, end, state, where = line.split("|")
        if where.startswith(str(folder)):
            assert state == "COMPLETED", line
            times.append((float(start), float(end)))
    assert len(times) == runs, (len(times), runs)
    span = max(end for _, end in times) - min(start for start, _ in times)
    return 60 * runs / max(span, 1.0), sum(end - start for start, end in times) / runs


if __name__ == "__main__":
    sys.exit(main())
