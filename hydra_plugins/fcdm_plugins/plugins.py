"""Hydra finds plugins under `hydra_plugins` only: these few lines point into `fcdm.launch`.

No dataclasses here: Hydra 1.3 executes this file without putting it into sys.modules, which they need.
"""

from __future__ import annotations

from fcdm.sweep.sweeper import JobLauncher, StudySweeper


class FcdmSweeper(StudySweeper):
    """`hydra/sweeper=fcdm`."""


class LocalLauncher(JobLauncher):
    """`hydra/launcher=local`."""

    def __init__(self, jobs: int | None = None) -> None:
        self.at_once = jobs

    def launch_jobs(self, jobs: list) -> int:  # type: ignore[type-arg]
        from fcdm.jobs.local_pool import run_local

        return sum(not outcome.ok for outcome in run_local(jobs, self.at_once))


class SlurmLauncher(JobLauncher):
    """`hydra/launcher=submitit_slurm`, in the place of the stock one of that name."""

    def __init__(self, **options: object) -> None:
        self.options = options

    def check(self, jobs: list) -> None:  # type: ignore[type-arg]
        from fcdm.sweep.slurm_launcher import check_jobs

        check_jobs(jobs, self.options)

    def launch_jobs(self, jobs: list) -> int:  # type: ignore[type-arg]
        from fcdm.sweep.slurm_launcher import submit_jobs

        return submit_jobs(jobs, self.options)


class PlanLauncher(JobLauncher):
    """`hydra/launcher=plan`."""

    plans_only = True

    def __init__(self, **options: object) -> None:
        self.options = options

    def launch_jobs(self, jobs: list) -> int:  # type: ignore[type-arg]
        from fcdm.sweep.plan_launcher import show_plan

        return show_plan(jobs, self.options)
