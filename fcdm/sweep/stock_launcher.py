"""Hydra's own launchers, `basic`, `submitit_local` and others: each is handed frozen jobs, as ours are.

Such a launcher takes one list of overrides for each job, composes it wherever the job runs, and calls a task function
with the result. Ours looks at nothing of that: the one override sets an environment variable for the time of the call,
which names the job's file.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.run_job import is_done, train_here
from fcdm.sweep.expand import override_text
from fcdm.sweep.hydra_errors import is_users, one_line
from fcdm.tracking.background import forwarding

JOB_FILE = "FCDM_JOB_FILE"


def launch_frozen(jobs: list[Job], launcher: Launcher) -> int:
    """Do the jobs by a launcher that calls `do_frozen_job`; returns how many failed. One does not stop the others."""
    failed: list[tuple[Job, BaseException]] = []
    left: list[Job] = []
    overrides: list[list[str]] = []
    for job in jobs:
        try:
            job.open()
            if not is_done(job):
                overrides.append([override_text(f"+hydra.job.env_set.{JOB_FILE}", str(job.freeze()))])
                left.append(job)
        except UserError as error:
            failed.append((job, error))
    if left:
        with forwarding(left[0].config):
            returns = launcher.launch(overrides, initial_job_idx=0)
        failed += [(job, cause) for job, result in zip(left, returns, strict=True) if (cause := _error(result))]
    for job, cause in failed:
        if not is_users(cause):
            traceback.print_exception(cause)
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
    if result.status == JobStatus.COMPLETED:
        value = result.return_value
        return value if isinstance(value, BaseException) else None
    cause: BaseException = result._return_value
    return cause
