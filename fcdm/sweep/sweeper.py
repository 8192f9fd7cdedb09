"""The sweeper: expands the command line and the sweep files' grids, and joins what is asked into jobs."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fcdm.config.schema import Config
from fcdm.credentials import taken_out
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import recorded, refuse_lost_requests, this_command
from fcdm.runs.branches import late_note
from fcdm.runs.identity import science
from fcdm.runs.peers import peers
from fcdm.sweep.compose import Composer
from fcdm.sweep.expand import choices_of
from fcdm.sweep.job_launcher import JobLauncher, StockLauncher, do_frozen_job, tell_of_inline
from fcdm.sweep.points import configs_of


class StudySweeper(Sweeper):
    """Hydra's entry (`hydra/sweeper: fcdm`); with a plain `-m` it is the only sweeper this project uses."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        name = config.hydra.runtime.choices["hydra/launcher"]
        if name != "basic" and (count := peers().count) > 1:
            raise UserError(
                f"hydra/launcher={name} is for one process, which starts or submits the others; this is one of {count} "
                "that srun or torchrun started together: leave those away, or the launcher"
            )
        if config.get("mlflow_uri"):  # of a sweep file: Hydra's own launchers write the configuration into files
            config.mlflow_uri = taken_out(config.mlflow_uri)
        self.composed = config
        self.context = hydra_context
        # Hydra's own launchers call the task function; what they are to do is frozen before.
        launcher: Launcher = Plugins.instance().instantiate_launcher(
            config=config, task_function=do_frozen_job, hydra_context=hydra_context
        )
        self.launcher: JobLauncher = launcher if isinstance(launcher, JobLauncher) else StockLauncher(launcher)

    def sweep(self, arguments: list[str]) -> Any:
        """Compose every choice before anything starts; then hand over to the launcher."""
        jobs = make_jobs(self.configs(arguments), data_needed=not self.launcher.plans_only)
        if not self.launcher.plans_only:
            refuse_lost_requests(jobs)
            _tell_late_branches(jobs)
        self.launcher.check(jobs)
        if not self.launcher.evaluates_apart:
            tell_of_inline(jobs)
        # A plan asks for nothing.
        with contextlib.nullcontext() if self.launcher.plans_only else recorded(jobs, this_command()):
            failed = self.launcher.launch_jobs(jobs)
        if self.launcher.wait(jobs, failed):
            raise SystemExit(1)
        return None

    def configs(self, arguments: list[str]) -> list[Config]:
        """Every choice of the command line, composed and checked. Raises UserError."""
        choices = choices_of(self.context.config_loader, self.composed, arguments)
        return configs_of(Composer(self.context.config_loader, self.composed), choices)


def _tell_late_branches(jobs: list[Job]) -> None:
    for job in jobs:
        with contextlib.suppress(UserError):  # what is damaged is the job's own matter
            if text := late_note(job.run, science(job.config)):
                print(f"note: {text}", file=sys.stderr)
