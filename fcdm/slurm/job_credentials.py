"""Whether jobs on SLURM get the tracking server's user and password, which stand in no file of theirs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

from fcdm import credentials
from fcdm.jobs.job import BENCHMARK, Job
from fcdm.redact import redacted
from fcdm.slurm.options import SlurmOptions


def credentials_of(jobs: list[Job]) -> list[str]:
    """The variables of this shell with which the jobs are to ask the tracking server."""
    uri = jobs[0].config.mlflow_uri
    return [] if uri == "off" or jobs[0].work == BENCHMARK else credentials.variables(uri)


def credentials_warnings(jobs: list[Job], options: SlurmOptions) -> list[str]:
    """Lines for people: credentials of this shell that the jobs will not have, secrets in the batch scripts."""
    setup = options.setup or []
    kept_back = [name for name in credentials_of(jobs) if not _exported(name, options)]
    lost = _needed(name for name in kept_back if not any(name in line for line in setup))
    lines = []
    if lost:
        lines.append(f"additional_parameters.export={options.additional_parameters['export']} {_without(lost)}")
    shell = [*setup, *(options.teardown or []), *(options.srun_args or []), options.launch_prefix or ""]
    texts = [*shell, *(f"{key}={value}" for key, value in options.additional_parameters.items())]
    if secret := [text for text in texts if redacted(text) != text]:
        lines.append(
            f"hydra.launcher holds a secret ({redacted(secret[0])}), which stands in the launch's batch scripts, "
            "for you alone to read: export it in this shell instead, whose environment the jobs are given"
        )
    return lines


def retry_warning(before: Collection[str]) -> str:
    """For a launch that had these variables, submitted again from this shell; "" where nothing is missing."""
    lost = _needed(name for name in before if not os.environ.get(name))
    return f"this shell {_without(lost)}" if lost else ""


def _needed(names: Iterable[str]) -> list[str]:
    """Those of the variables in whose place the jobs have no file either."""
    there = credentials.has_file()
    return [name for name in names if name == credentials.URI or not there]


def _without(lost: list[str]) -> str:
    elsewhere = "" if credentials.URI in lost else ", or write ~/.mlflow/credentials"
    names = " and ".join(lost)
    return f"keeps {names} from the jobs, which cannot forward to MLflow then: export {names} to them{elsewhere}"


def _exported(name: str, options: SlurmOptions) -> bool:
    """Whether sbatch gives the jobs this variable of its own environment, as it does unless `--export` says less."""
    export = options.additional_parameters.get("export")
    if export in (None, False, True):
        return True
    named = re.split(r"[,=]", str(export))
    return "ALL" in named or name in named
