"""The sweeper: expands the command line and the sweep files' grids, and joins what is asked into jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import traceback
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs, with_own_source
from fcdm.jobs.pin_weights import resolved_sources
from fcdm.jobs.record_study import record_study, this_command
from fcdm.sweep.compose import Composer, with_progress
from fcdm.sweep.hydra_errors import is_users, one_line
from fcdm.sweep.sweep_files import choices_of
from fcdm.tracking.background import forwarding


class StudySweeper(Sweeper):
    """Hydra's entry (`hydra/sweeper: fcdm`); with a plain `-m` it is the only sweeper this project uses."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.composed = config
        self.context = hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            config=config, task_function=task_function, hydra_context=hydra_context
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Compose every choice before anything starts; then hand over to the launcher."""
        choices = choices_of(self.context.config_loader, self.composed, arguments)
        composer = Composer(self.context.config_loader, self.composed)
        composed = [_compose(composer, choice) for choice in with_progress(choices, "composing")]
        plans_only = isinstance(self.launcher, JobLauncher) and self.launcher.plans_only
        jobs = make_jobs(composed, data_needed=not plans_only)
        if isinstance(self.launcher, JobLauncher):
            self.launcher.check(jobs)
        if not plans_only:
            record_study(jobs, this_command())
        if isinstance(self.launcher, JobLauncher):
            failed = self.launcher.launch_jobs(jobs)
        else:
            failed = self._launch_overrides(choices, composed, jobs)
        if failed:
            raise SystemExit(1)
        return None

    def _launch_overrides(self, choices: list[list[str]], composed: list[Config], jobs: list[Job]) -> int:
        """Hydra's own launchers: each takes override lists, and calls the task function with what they compose."""
        wanted = []
        for job in jobs:
            for part in job.parts:
                at = next(i for i, config in enumerate(composed) if _same_request(config, part))
                budgets = ",".join(str(step) for step in part.steps)
                kept = ",".join(str(step) for step in part.keep_steps)
                others = [text for text in choices[at] if not text.startswith("steps=")]
                wanted.append([*others, f"steps=[{budgets}]", f"keep_steps=[{kept}]", *_averages(part)])
        something = any(job.missing(job.open()) for job in jobs)
        with forwarding(jobs[0].config) if something else contextlib.nullcontext():
            returns = self.launcher.launch(wanted, initial_job_idx=0)
        errors = [(names, error) for names, found in zip(wanted, returns, strict=True) if (error := _error(found))]
        for overrides, error in errors:
            if not is_users(error):
                traceback.print_exception(error)
            print(f"failed: {' '.join(overrides)}: {one_line(error)}", file=sys.stderr)
        return len(errors)


def _compose(composer: Composer, choice: list[str]) -> Config:
    try:
        return composer.config(choice)
    except UserError as error:
        raise UserError(f"{error}  [{' '.join(choice)}]") from None


class JobLauncher(Launcher):
    """A launcher of ours: it takes whole jobs, composed and checked, instead of override lists."""

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


def _same_request(config: Config, part: Config) -> bool:
    """Whether the part came of this config: `make_jobs` fills in the rest."""
    data = dataclasses.replace(config.data, checksum=part.data.checksum)
    joined = {key: getattr(part, key) for key in ("steps", "keep_steps", "power_ema")}
    whole = resolved_sources(dataclasses.replace(with_own_source(config), data=data, grids=[], **joined))
    evaluated = dataclasses.replace(whole.evaluation, weights_snapshots=part.evaluation.weights_snapshots)
    return dataclasses.replace(whole, evaluation=evaluated) == part


def _averages(part: Config) -> list[str]:
    """Overrides that say what another part of the run said of its averages."""
    lengths, every = part.power_ema.sigma_rel, part.power_ema.every
    if lengths is None:
        return []
    return [
        f"power_ema.sigma_rel=[{','.join(map(str, lengths))}]",
        f"power_ema.every={'null' if every is None else every}",
    ]


def _error(found: JobReturn) -> BaseException | None:
    """What went wrong in a job: our task function returns it; a launcher may have caught another."""
    if found.status == JobStatus.COMPLETED:
        value = found.return_value
        return value if isinstance(value, BaseException) else None
    cause: BaseException = found._return_value
    return cause
