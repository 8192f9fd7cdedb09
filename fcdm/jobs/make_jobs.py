"""From configurations to jobs: one per run, budgets joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from fcdm.config.check import budgets
from fcdm.config.schema import Config, CustomConfig
from fcdm.data.dataset import data_checksum
from fcdm.errors import UserError
from fcdm.jobs.ema_requests import agree_on_averages, with_snapshots
from fcdm.jobs.job import Job
from fcdm.jobs.pin_weights import resolved_sources
from fcdm.runs.identity import run_id, science
from fcdm.runs.user_models import check_models, with_source

NOT_HERE = "not-here:"
"""And the data's path: stands for the checksum of data that is not on this machine. Only a plan is made of it."""


def data_is_here(config: Config) -> bool:
    """Whether the data's checksum is its own, so that the run's id is the run's."""
    return not (config.data.checksum or "").startswith(NOT_HERE)


def make_jobs(configs: Iterable[Config], data_needed: bool = True) -> list[Job]:
    """Join what is asked into jobs: one per run, budgets joined. Users' own models are tried (`fcdm.runs.user_models`).

    Raises UserError for a model that does not run, and for data that is not there; with `data_needed=False` its
    checksum is `NOT_HERE` and its path.
    """
    configs = [with_own_source(config) for config in configs]
    check_models(configs)
    jobs: dict[str, Job] = {}
    folders: set[str] = set()
    for config in configs:
        checksum = _checksum(config, data_needed)
        whole = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, checksum=checksum),
            steps=budgets(config.steps),
            grids=[],
            studies=[],
        )
        whole = resolved_sources(whole, data_is_here(whole))
        identity = run_id(science(whole))
        job = jobs.setdefault(identity, Job(identity, []))
        folders.add(whole.runs_dir)
        same = [part for part in job.parts if dataclasses.replace(part, steps=whole.steps) == whole]
        if same:
            same[0].steps = budgets([*same[0].steps, *whole.steps])
        else:
            job.parts.append(whole)
    if len(folders) > 1:
        raise UserError(f"runs_dir={','.join(sorted(folders))} cannot be swept: one command has one folder of runs")
    for job in jobs.values():
        if len(job.parts) > 1:  # else one part would train past another's budgets
            for part in job.parts:
                part.keep_steps = job.budgets
        agree_on_averages(job.parts)
        with_snapshots(job.parts, job.id)
    return list(jobs.values())


def with_own_source(config: Config) -> Config:
    """The configuration with the hash of the model's source, where the model is the user's own."""
    if not isinstance(config.model, CustomConfig):
        return config
    return dataclasses.replace(config, model=with_source(config.model))


def _checksum(config: Config, data_needed: bool) -> str:
    try:
        return data_checksum(config.data, config.resolution)
    except UserError:
        # All other data is bundled: what is wrong with it is not that it is elsewhere.
        if data_needed or config.data.name != "imagenet":
            raise
        return config.data.checksum or f"{NOT_HERE}{config.data.path}"
