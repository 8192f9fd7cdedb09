"""Launchers as the sweeper has them: they take whole jobs, composed and checked. A wrapper makes Hydra's own such.

Hydra's (`basic`, `submitit_local`, ...) take a list of overrides for each job, compose it where the job runs, and call
a task function with what that gives. Ours looks at none of it: the one override sets an environment variable for the
time of the call, which names the frozen job.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from fcdm.errors import UserError, traceback_text
from fcdm.jobs.job import Job
from fcdm.jobs.run_job import is_done, train_here
from fcdm.sweep.expand import override_text
from fcdm.sweep.hydra_errors import is_users, one_line
from fcdm.tracking.background import forwarding

JOB_FILE = "FCDM_JOB_FILE"


class JobLauncher(Launcher):
    """`options`: those of `hydra.launcher`, as plain values."""

    plans_only = False
    """Whether it starts nothing: then no data is needed, and no study is recorded."""
    evaluates_apart = False
    """Whether `evaluation=job` gives an evaluation a job of its own."""

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        HydraConfig.instance().set_config(config)

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        raise UserError("this launcher works with hydra/sweeper=fcdm, the default")

    def check(self, jobs: list[Job]) -> None:
        """Refuse what cannot be done, before anything is written. Raises UserError."""

    def launch_jobs(self, jobs: list[Job]) -> int:
        """Do or submit the jobs; returns how many are not done or on their way.

        A UserError says that none was begun: what was asked is forgotten then.
        """
        raise TypeError(f"{type(self).__name__} does not launch")

    def wait(self, jobs: list[Job], failed: int) -> int:
        """Afterwards, where that was asked for, until they are over; returns how many are not done."""
        return failed


def tell_of_inline(jobs: list[Job]) -> None:
    """A note where jobs of their own were asked for evaluations, and there will be none."""
    if any(part.config.evaluation.where == "job" for job in jobs for part in job.parts):
        print(
            "note: evaluation=job is for hydra/launcher=submitit_slurm: here each run evaluates its own budgets",
            file=sys.stderr,
        )


class StockLauncher(JobLauncher):
    """A launcher of Hydra's own, whose task function is `do_frozen_job`. One failed job stops no other."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def launch_jobs(self, jobs: list[Job]) -> int:
        failed: list[tuple[Job, BaseException]] = []
        files: list[tuple[Job, Path]] = []
        for job in jobs:
            try:
                job.open()
                if not is_done(job):
                    files.append((job, job.freeze()))
            except UserError as error:
                failed.append((job, error))
        # Branches after what they branch from.
        waves = [[one for one in files if (one[0].parent_id is not None) == branch] for branch in (False, True)]
        begun = 0
        for wave in filter(None, waves):
            overrides = [[override_text(f"+hydra.job.env_set.{JOB_FILE}", str(file))] for _, file in wave]
            with forwarding(jobs[0].config):
                returns = self.launcher.launch(overrides, initial_job_idx=begun)
            begun += len(wave)
            for (job, _), one in zip(wave, returns, strict=True):
                if _error(one) is None and not isinstance(self.launcher, BasicLauncher):  # others print elsewhere
                    print(f"{job.name}: done: {job.done_text}")
            failed += [(job, cause) for (job, _), one in zip(wave, returns, strict=True) if (cause := _error(one))]
        for job, cause in failed:
            if not is_users(cause):
                print(traceback_text(cause), end="", file=sys.stderr)
            print(f"failed: {job.name}: {one_line(cause)}", file=sys.stderr)
        return len(failed)


def do_frozen_job(composed: DictConfig) -> Exception | None:
    """The task function. Returns what went wrong instead of raising it: Hydra would print its own lines around it."""
    try:
        train_here(Job.load(Path(os.environ[JOB_FILE])), forward=False)
    except Exception as error:
        return error
    return None


def _error(result: JobReturn) -> BaseException | None:
    """What went wrong in a job: our task function returns it; a launcher may have caught another."""
    cause = result.return_value if result.status == JobStatus.COMPLETED else result._return_value
    return cause if isinstance(cause, BaseException) else None
