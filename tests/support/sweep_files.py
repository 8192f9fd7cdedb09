"""What the files of sweeps/ ask for, composed without data."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.branches import branches_of
from fcdm.sweep.expand import choices_of
from tests.support.commands import ROOT, composing

SWEEPS = ROOT / "sweeps"
NOWHERE = Path("no-such-runs")


@cache
def jobs_of(sweep: str) -> list[Job]:
    arguments = [f"+sweeps={sweep}", f"runs_dir={NOWHERE}"]
    with composing(*arguments) as composer:
        choices = choices_of(composer.loader, composer.master, arguments)
        configs = [
            part for choice in choices for part in branches_of(composer.config(choice), composer.said(choice).keys)
        ]
        return make_jobs(configs, data_needed=False)
