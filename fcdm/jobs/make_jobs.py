"""From configurations to jobs: one per run, budgets joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.data.dataset import data_checksum
from fcdm.data.image_counts import trained_images
from fcdm.data.store_normalisation import check_decoder, with_channels
from fcdm.errors import UserError
from fcdm.jobs.ema_requests import agreed_averages, with_snapshots
from fcdm.jobs.job import Job
from fcdm.jobs.pin_weights import resolved_sources
from fcdm.jobs.store_classifier import make_classifiers
from fcdm.runs.folder import Run, find_runs, folder_name
from fcdm.runs.identity import run_id, science
from fcdm.runs.kept_source import with_sources
from fcdm.runs.protocol import Part
from fcdm.runs.trials import own_images, try_codes

NOT_HERE = "not-here:"
"""With the data's path behind it, in the place of the checksum of data that is not on this machine; for plans only."""


def data_is_here(config: Config) -> bool:
    """False where the checksum is a stand-in (`NOT_HERE`), and so the run's id too."""
    return not (config.data.checksum or "").startswith(NOT_HERE)


def make_jobs(configs: Iterable[Config], data_needed: bool = True) -> list[Job]:
    """Join what is asked into jobs: one per run, budgets joined. Users' own code is tried (`fcdm.runs.trials`), and
    the classifier of a store made, where it is asked for and not there.

    Raises UserError for code that does not run, and for data that is not there; with `data_needed=False` its
    checksum is `NOT_HERE` and its path, and no classifier is made.
    """
    configs = [with_sources(config) for config in configs]
    try_codes(configs)
    asked: dict[str, list[Config]] = {}
    resolved = [_resolved(config, data_needed) for config in configs]
    if data_needed:
        make_classifiers(resolved)
    for config in resolved:
        asked.setdefault(run_id(science(config)), []).append(config)
    runs_dirs = {config.runs_dir for same in asked.values() for config in same}
    if len(runs_dirs) > 1:
        raise UserError(f"runs_dir={','.join(sorted(runs_dirs))} cannot be swept: one command has one folder of runs")
    runs_dir = Path(*runs_dirs)
    folders = find_runs(runs_dir, asked)
    jobs = []
    for identity, same in asked.items():
        folder = folders.get(identity, runs_dir / folder_name(same[0], identity))
        run = Run(folder, identity)
        _refuse_two_requests(folder.name, same)
        parts = tuple(Part(with_snapshots(config, run)) for config in agreed_averages(_joined(same)))
        jobs.append(Job(identity, folder, tuple(sorted(parts, key=lambda part: not part.evaluates))))
    # What others branch from comes first.
    return sorted(jobs, key=lambda job: job.parent_id is not None)


def _refuse_two_requests(name: str, same: list[Config]) -> None:
    """Raise UserError where a run is asked for with different resources: it is one job, its evaluations too."""
    for key in ("resources", "evaluation.resources"):
        asked = [dataclasses.asdict(attrgetter(key)(config)) for config in same]
        for other in asked[1:]:
            if differing := next((field for field, value in other.items() if value != asked[0][field]), None):
                raise UserError(
                    f"{name} is one run, and is asked for with {key}.{differing}={asked[0][differing]} and with "
                    f"{key}.{differing}={other[differing]}: say one of them"
                )


def _resolved(config: Config, data_needed: bool) -> Config:
    """The configuration with its data and weights pinned by checksum, without the sweep's own keys."""
    images = trained_images(config.data) if config.data.target is None else own_images(config)
    data = dataclasses.replace(config.data, checksum=_checksum(config, data_needed), images=images)
    config = dataclasses.replace(config, data=data, grids=[], studies=[])
    if data_is_here(config):
        config.data = with_channels(data)
    check_decoder(config)
    return resolved_sources(config, data_is_here(config))


def _joined(configs: list[Config]) -> list[Config]:
    """Configurations of one run: those that differ in budgets only become one."""
    alike: dict[str, list[Config]] = {}
    for config in configs:
        alike.setdefault(repr(dataclasses.replace(config, steps=[])), []).append(config)
    parts = [dataclasses.replace(same[0], steps=_budgets(same)) for same in alike.values()]
    if len(parts) == 1:
        return parts
    # Each part must keep the checkpoints that the others ask for, as it trains past them.
    return [dataclasses.replace(part, keep_steps=_budgets(configs)) for part in parts]


def _budgets(configs: list[Config]) -> list[int]:
    return sorted({step for config in configs for step in config.steps})


def _checksum(config: Config, data_needed: bool) -> str:
    try:
        return data_checksum(config.data, config.resolution)
    except UserError:
        # What is wrong with data that is bundled, or is there, is not that it is elsewhere.
        if data_needed or config.data.name == "digits" or Path(config.data.path or "").exists():
            raise
        return config.data.checksum or f"{NOT_HERE}{config.data.path}"
