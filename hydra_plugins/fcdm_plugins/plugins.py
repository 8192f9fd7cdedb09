"""Hydra finds plugins under `hydra_plugins` only: these few lines point into `fcdm.sweep`.

No dataclasses here: Hydra 1.3 executes this file without putting it into sys.modules, which they need.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from fcdm.jobs.job import Job
from fcdm.sweep.benchmark_sweeper import BenchmarkSweeper
from fcdm.sweep.job_launcher import JobLauncher
from fcdm.sweep.ladder_source import PLACE, SCHEME, read_option, size_of_option
from fcdm.sweep.sweeper import StudySweeper


class FcdmSweeper(StudySweeper):
    """`hydra/sweeper=fcdm`."""


class FcdmBenchmarkSweeper(BenchmarkSweeper):
    """`hydra/sweeper=fcdm_benchmark`."""


class LocalLauncher(JobLauncher):
    """`hydra/launcher=local`."""

    def check(self, jobs: list[Job]) -> None:
        from fcdm.jobs.local_pool import check_devices

        check_devices(jobs)

    def launch_jobs(self, jobs: list[Job]) -> int:
        from fcdm.jobs.local_pool import run_local

        return sum(not outcome.ok for outcome in run_local(jobs, self.options.get("jobs")))


class SlurmLauncher(JobLauncher):
    """`hydra/launcher=submitit_slurm`, in the place of the stock one of that name."""

    evaluates_apart = True

    def check(self, jobs: list[Job]) -> None:
        from fcdm.sweep.slurm_launcher import check_jobs

        check_jobs(jobs, self.options)

    def launch_jobs(self, jobs: list[Job]) -> int:
        from fcdm.sweep.slurm_launcher import submit_jobs

        return submit_jobs(jobs, self.options)

    def wait(self, jobs: list[Job], failed: int) -> int:
        from fcdm.sweep.slurm_launcher import wait_for

        return wait_for(jobs, self.options, failed)


class PlanLauncher(JobLauncher):
    """`hydra/launcher=plan`."""

    plans_only = evaluates_apart = True

    def launch_jobs(self, jobs: list[Job]) -> int:
        from fcdm.sweep.plan_launcher import show_plan

        return show_plan(jobs, self.options)


class LadderSource(ConfigSource):
    """`model=fcdm/64M`: options of the group `model` that are no files."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        return size_of_option(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        return read_option(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []  # there are as many as numbers


class LadderSearchPath(SearchPathPlugin):
    """Has Hydra look there too, after all files."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="fcdm", path=PLACE)
