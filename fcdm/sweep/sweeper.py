"""The sweeper: expands the command line and the sweep files' grids, and joins what is asked into jobs."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study, this_command
from fcdm.sweep.compose import Composer, with_progress
from fcdm.sweep.expand import choices_of
from fcdm.sweep.stock_launcher import do_frozen_job, launch_frozen


class StudySweeper(Sweeper):
    """Hydra's entry (`hydra/sweeper: fcdm`); with a plain `-m` it is the only sweeper this project uses."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.composed = config
        self.context = hydra_context
        # Hydra's own launchers call the task function; what they are to do is frozen before.
        launcher: Launcher = Plugins.instance().instantiate_launcher(
            config=config, task_function=do_frozen_job, hydra_context=hydra_context
        )
        self.launcher: JobLauncher = launcher if isinstance(launcher, JobLauncher) else StockLauncher(launcher)

    def sweep(self, arguments: list[str]) -> Any:
        """Compose every choice before anything starts; then hand over to the launcher."""
        choices = choices_of(self.context.config_loader, self.composed, arguments)
        composer = Composer(self.context.config_loader, self.composed)
        composed = [_compose(composer, choice) for choice in with_progress(choices, "composing")]
        jobs = make_jobs(composed, data_needed=not self.launcher.plans_only)
        self.launcher.check(jobs)
        if not self.launcher.plans_only:
            record_study(jobs, this_command())
        if self.launcher.launch_jobs(jobs):
            raise SystemExit(1)
        return None


def _compose(composer: Composer, choice: list[str]) -> Config:
    try:
        return composer.config(choice)
    except UserError as error:
        raise UserError(f"{error}  [{' '.join(choice)}]") from None


class JobLauncher(Launcher):
    """A launcher as the sweeper has it: it takes whole jobs, composed and checked, instead of override lists."""

    plans_only = False
    """Whether it starts nothing: then no data is needed, and no study is recorded."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        HydraConfig.instance().set_config(config)

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        raise UserError("this launcher works with hydra/sweeper=fcdm, the default")

    def check(self, jobs: list[Job]) -> None:
        """Refuse what cannot be done, before anything is written. Raises UserError."""

    def launch_jobs(self, jobs: list[Job]) -> int:
        """Do or submit the jobs; returns how many are not done or on their way."""
        raise TypeError(f"{type(self).__name__} does not launch")


class StockLauncher(JobLauncher):
    """Hydra's own launchers, such as `basic` and `submitit_local`."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def launch_jobs(self, jobs: list[Job]) -> int:
        return launch_frozen(jobs, self.launcher)
