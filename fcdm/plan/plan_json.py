"""The plan for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from fcdm.config.ema_lag import lags
from fcdm.jobs.make_jobs import data_is_here
from fcdm.laws.predictive import LEVELS
from fcdm.plan.foretell import PlannedForecast
from fcdm.plan.model import Plan, PlannedRun, Total, total, totals
from fcdm.plan.remaining import budgets_to_evaluate, evaluations_of
from fcdm.plan.shared_runs import Sharing
from fcdm.runs.run_cost import epochs, train_flops


def print_json(plan: Plan) -> None:
    """Everything in plain units: FLOPs, bytes, hours; null for what is not known."""
    gpu, cpu = totals(plan.runs)
    content = {
        "gpu": plan.device,
        "mfu": plan.mfu,
        "hours_from": plan.paces,
        "runs": [_run(run) for run in plan.runs],
        "totals": {"gpu": _amounts(gpu), "cpu": _amounts(cpu)},
        "branches": _branches(plan.runs),
        "savings": [{"by": reason, **_amounts(total([cost]))} for reason, cost in plan.savings],
        "sharing": None if plan.sharing is None else _sharing(plan.sharing),
        "warnings": plan.warnings,
        "notes": plan.notes,
    }
    print(json.dumps(content, indent=1, allow_nan=False), file=sys.stdout, flush=True)


def _branches(runs: Sequence[PlannedRun]) -> dict[str, Any] | None:
    """What is left of the branches alone; null where there are none."""
    branches = [run for run in runs if run.start]
    gpu, cpu = totals(branches)
    return {"runs": len(branches), "gpu": _amounts(gpu), "cpu": _amounts(cpu)} if branches else None


def _branch(run: PlannedRun) -> dict[str, Any] | None:
    """Which run a branch leaves and at which step; `begins`: the step that it trains on from now; null: it is none."""
    if not run.start:
        return None
    return {
        "parent": run.parent.standing.name if run.parent else None,
        "parent_id": run.job.parent_id if data_is_here(run.job.config) else None,
        "start": run.start,
        "begins": max(run.standing.begins, run.standing.trained),
        "share": run.job.config.optimiser.cooldown_share,
    }


def _run(run: PlannedRun) -> dict[str, Any]:
    config, standing = run.job.config, run.standing
    evaluation = None
    if run.evaluation is not None:
        evaluation = {
            **dataclasses.asdict(run.evaluation),
            "wall_hours": run.evaluation_wall_hours,
            "starts": run.evaluation_starts,
        }
    return {
        "run": standing.name,
        "which": run.differs,
        "model": config.model.name,
        "data": config.data.name,
        "resolution": config.resolution,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "seed": config.seed,
        "budgets": run.job.budgets,
        "trained_only": [step for step in run.job.budgets if step not in budgets_to_evaluate(run.job)],
        "branch": _branch(run),
        "budget_flops": [train_flops(config, step) for step in run.job.budgets],
        "budget_epochs": [epochs(config, step) for step in run.job.budgets],
        "judged": [step for step in standing.evaluated if step in budgets_to_evaluate(run.job)],
        "trained": standing.trained,
        "state": standing.state,
        "why": standing.text,
        "resources": dataclasses.asdict(run.request),
        "evaluation_job": evaluation,
        "forecasts": [_forecast(one) for one in run.forecasts],
        "averages": [dataclasses.asdict(lag) for lag in lags(evaluations_of(run.job))],
        "memory_bytes": run.memory_bytes,
        "host_memory_bytes": run.host_bytes,
        "wall_hours": run.wall_hours,
        "starts": run.starts,
        "left": _amounts(total([run.left])),
        "whole": _amounts(total([run.whole])),
    }


def _forecast(one: PlannedForecast) -> dict[str, Any]:
    """Of one new run, at LEVELS."""
    told = {"steps": one.steps, "metric": one.metric, "name": one.name, "study": one.study}
    return {
        **told,
        "median": one.new_run.median,
        "quantiles": dict(zip(map(str, LEVELS), one.new_run.quantiles, strict=True)),
    }


def _sharing(sharing: Sharing) -> dict[str, Any]:
    """Each study alone, as if nothing were done yet; their sum, all together, and the difference."""
    return {
        "studies": {name: dataclasses.asdict(amount) for name, amount in sharing.studies.items()},
        "alone": dataclasses.asdict(sharing.alone),
        "together": dataclasses.asdict(sharing.together),
        "saved": dataclasses.asdict(sharing.saved),
    }


def _amounts(work: Total) -> dict[str, Any]:
    """`hours` are GPU-hours where there are GPUs, else hours of processes."""
    seconds = work.cost.seconds
    hours = {kind: None if kind in work.unknown else (seconds[kind] or 0.0) / 3600 for kind in seconds}
    return {"flops": dict(work.cost.flops), "hours": hours}
