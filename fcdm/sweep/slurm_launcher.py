"""What a person sees of `hydra/launcher=submitit_slurm`: checks, the table, what to do next."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fcdm.errors import UserError
from fcdm.jobs.job import BENCHMARK, Job
from fcdm.jobs.record_study import this_command
from fcdm.plan.gpus import device_named
from fcdm.plan.warnings import warnings_before_submission
from fcdm.slurm.client import Slurm
from fcdm.slurm.job_credentials import credentials_warnings
from fcdm.slurm.left_to_submit import Row
from fcdm.slurm.options import SlurmOptions, options_from
from fcdm.slurm.resources import request_of
from fcdm.slurm.shell_options import with_shell
from fcdm.slurm.submit import check, submit

GOOD = ("submitted", "done", "in the queue")


def launcher_options(values: dict[str, Any]) -> tuple[SlurmOptions, list[str]]:
    """Typed options from those of the launcher, and notes on what this shell says besides. Raises UserError."""
    options = options_from(SlurmOptions, values)
    if options.slurm_conf and not Path(options.slurm_conf).is_file():
        raise UserError(
            f"hydra.launcher.slurm_conf={options.slurm_conf} is not there: python tools/devcluster up starts a "
            "SLURM of your own in .devcluster"
        )
    if options.slurm_conf:
        # For every question to SLURM from here on, also whether a run's holder lives.
        os.environ["SLURM_CONF"] = str(Path(options.slurm_conf).absolute())
    return with_shell(options, os.environ)


def check_jobs(jobs: list[Job], values: dict[str, Any]) -> None:
    """Raises UserError for what the cluster cannot do."""
    options, _ = launcher_options(values)
    if options.wait and jobs[0].work == BENCHMARK:
        raise UserError("hydra.launcher.wait is for runs: a benchmark prints into its own log.txt")
    check(jobs, options, Slurm(options.slurm_conf))


def submit_jobs(jobs: list[Job], values: dict[str, Any]) -> int:
    """Submit, show the table and return; the number of jobs that are neither done nor on their way."""
    options, notes = launcher_options(values)
    scheduler = Slurm(options.slurm_conf)
    for line in notes:
        print(f"note: {line}", file=sys.stderr)
    for line in warnings_before_submission(
        jobs, device_named(options.gpu) if options.gpu else None, options.mfu, options
    ):
        print(f"warning: {line}", file=sys.stderr)
    for line in credentials_warnings(jobs, options):
        print(f"warning: {line}", file=sys.stderr)
    rows = submit(jobs, options, scheduler, this_command())
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=300)  # a file has no width: nothing is folded
    console.print(_table(rows, options))
    failed = sum(row.state not in GOOD for row in rows)
    ids = sorted({name.split("_")[0] for row in rows if row.state == "submitted" for name in row.ids}, key=int)
    runs_dir = jobs[0].config.runs_dir
    study = jobs[0].config.study
    if jobs[0].work == BENCHMARK:
        then = f"tail -F {jobs[0].folder}/log.txt; python -m fcdm.benchmark --show --runs {runs_dir}"
    else:
        then = f"python -m fcdm.status {study}" + (f" --runs {runs_dir}" if runs_dir != "runs" else "") + " --watch"
    counts = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in rows).items())
    named = f" (SLURM {', '.join(ids)})" if ids else ""
    leave = "" if options.wait or not named else "; the jobs need nothing of this terminal any more"
    console.print(f"{counts}{named}{leave}", highlight=False, soft_wrap=True)
    console.print(f"  {then}", highlight=False, soft_wrap=True)
    return failed


def wait_for(jobs: list[Job], values: dict[str, Any], failed: int) -> int:
    """With `wait=true`, show the live table until nothing waits or runs; the number of rows that are not done."""
    options, _ = launcher_options(values)
    if not options.wait:
        return failed
    from fcdm.jobstatus.watch import watch

    return watch(Path(jobs[0].config.runs_dir), jobs[0].config.study, Slurm(options.slurm_conf))


def _table(rows: list[Row], options: SlurmOptions) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("run", "budgets", "resources", "SLURM job", "state"):
        table.add_column(name, overflow="fold")
    for row in rows:
        steps = ", ".join(f"{step:,}" for step in row.job.budgets)
        asked = str(row.request)
        evaluation = row.job.config.evaluation
        if evaluation.where == "job":
            asked += f"; evaluated on {request_of(evaluation.resources, options, evaluation=True)}"
        state = row.state + (f": {row.text}" if row.text else "")
        table.add_row(row.job.name, steps, asked, ", ".join(row.ids) or "-", state)
    return table
