"""What the tests on a real SLURM share: a private cluster, the command line on it, and an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import environment, evaluations, only_run, values, weights
from tools.devcluster.system import missing_packages

PATIENCE = 240.0
"""Seconds until a scenario counts as stuck; they take 5 to 60 on an idle machine."""

SMALL = (
    "batch_size=16",
    "evaluation.samples=20",
    "evaluation.sampling_steps=2",
    "evaluation.batch_size=10",
    "log_every=10",
    "mlflow_uri=off",
)
BUDGETS = (200, 600)
STUDY = ("model=N", f"steps={','.join(map(str, BUDGETS))}", *SMALL)
"""A run of about ten seconds: long enough to be disturbed."""


def require_slurm() -> None:
    """Skip where SLURM's packages are missing; in CI that is a failure."""
    if not (missing := missing_packages()):
        return
    reason = f"SLURM is not complete here ({' '.join(missing)}): make slurm"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Lab:
    """A real SLURM, and commands in a folder of their own."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.runs = folder / "runs"
        self.checkout: Path | None = None
        """Where fcdm is taken from; None: from where the tests run."""

    @property
    def environment(self) -> dict[str, str]:
        more = {"PYTHONPATH": str(self.checkout)} if self.checkout else {}
        return environment(SLURM_CONF=str(self.cluster.conf), COLUMNS="250", **more)

    def command(self, *arguments: str, module: str = "fcdm.train") -> list[str]:
        # -P: else a copy of the code in the working directory would win.
        return [sys.executable, "-P", "-m", module, *arguments]

    def sweep(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """`python -m fcdm.train -m ... hydra/launcher=submitit_slurm`."""
        done = self.run(*self.command("-m", *arguments, "hydra/launcher=submitit_slurm"))
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done

    def status(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command(*arguments, module="fcdm.status"))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )

    def slurm(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ids(self) -> list[str]:
        """All SLURM jobs that the run folders know, oldest first."""
        found = []
        for path in sorted(self.runs.glob("*/jobs/*.slurm.json")):
            found += json.loads(path.read_text())["ids"]
        return found

    def state(self, job: str) -> str:
        """The queue's word where the job is in it, else accounting's."""
        done = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T")
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
        said = self.slurm("sacct", "-n", "-X", "-P", "-j", job, "-o", "State")
        return said.split()[0] if said else ""

    def wait(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, f"{what}: not within {seconds:.0f} s\n{self.describe()}"
            time.sleep(0.2)

    def wait_state(self, job: str, *states: str, seconds: float = PATIENCE) -> None:
        self.wait(lambda: self.state(job) in states, f"job {job} in {states}", seconds)

    def wait_all_ended(self) -> None:
        """Until nothing of these runs is in the queue any more; their states as {id: state}."""
        ids = set(self.ids())

        def ended() -> bool:
            lines = self.slurm("squeue", "-h", "-r", "-o", "%i").split()
            return not ids & set(lines)

        self.wait(ended, "all jobs ended")

    def wait_step(self, step: int, at: int = 0) -> Path:
        """Until the run has recorded this step; its folder."""
        self.wait(lambda: any(_last_step(path) >= step for path in self._records()), f"step {step}")
        return [path.parent for path in self._records() if _last_step(path) >= step][at]

    def _records(self) -> list[Path]:
        return sorted(self.runs.glob("*/records.jsonl"))

    def run_folder(self) -> Path:
        return only_run(self.runs)

    def describe(self) -> str:
        logs = [*self.runs.glob("*/log.txt"), *self.runs.glob("launches/*/*.log")]
        parts = [self.run("squeue", "-r").stdout, self.run("sacct", "-X").stdout]
        return "\n".join([*parts, *(f"--- {path}\n{path.read_text()[-2000:]}" for path in logs)])

    def task_pid(self, run: Path) -> int:
        """The process that holds the run."""
        newest = max((run / "holders").glob("*.json"))
        return int(json.loads(newest.read_text())["pid"])

    @contextmanager
    def paused(self, run: Path) -> Iterator[int]:
        """The process that holds the run stands still: it cannot end before the test has done what it does to it."""
        pid = self.task_pid(run)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)


def _last_step(records: Path) -> int:
    try:
        lines = [json.loads(line) for line in records.read_text().splitlines() if line.endswith("}")]
    except (OSError, ValueError):
        return 0
    return max((int(line["step"]) for line in lines), default=0)


def assert_undisturbed(run: Path, reference: Path) -> None:
    """Final weights bit for bit, each record once and with the same value, the same evaluations."""
    for step in BUDGETS:
        assert weights(run, step) == weights(reference, step)
    mine, wanted = values(run), values(reference)
    # A checkpoint that a resume starts from changes no value; whole windows of losses only.
    assert mine == wanted
    assert evaluations(run) == evaluations(reference)


def starts(run: Path) -> int:
    """How often a process began to work on the run."""
    return sum('"segment": "start"' in line for line in (run / "records.jsonl").read_text().splitlines())


def train_undisturbed(folder: Path) -> Path:
    """The run of STUDY, trained by one process that nobody disturbs."""
    words = ["model=N", f"steps=[{','.join(map(str, BUDGETS))}]", *SMALL]
    subprocess.run(
        [sys.executable, "-m", "fcdm.train", *words],
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
        timeout=240,
    )
    return only_run(folder / "runs")
