"""`hydra/launcher=plan` as Hydra sees it: checks the launcher's options, and prints the plan."""

from __future__ import annotations

import os
import sys
from typing import Any

from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.plan.make_plan import make_plan
from fcdm.plan.model import Plan
from fcdm.slurm.options import ROWS, PlanOptions, options_from


def show_plan(jobs: list[Job], values: dict[str, Any]) -> int:
    """Print the plan of these jobs; `values` are the launcher's options. Returns 0."""
    options = options_from(PlanOptions, values)
    if options.rows not in ROWS:
        raise UserError(f"hydra.launcher.rows={options.rows} is not known: {', '.join(ROWS)}")
    plan = make_plan(jobs, options)
    try:
        _print(plan, options)
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _print(plan: Plan, options: PlanOptions) -> None:
    if options.json:
        from fcdm.plan.plan_json import print_json

        print_json(plan)
    else:
        from fcdm.plan.plan_table import print_tables

        print_tables(plan, options.rows)
    sys.stdout.flush()
