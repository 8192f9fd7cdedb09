"""`hydra/launcher=plan`: what a command would do and cost. Starts and makes nothing; needs no data, no SLURM."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from fcdm.errors import UserError
from fcdm.launch.averages import snapshot_bytes
from fcdm.launch.jobs import NOT_HERE, Job, data_is_here
from fcdm.launch.plan.estimate import (
    KINDS,
    Cost,
    Paces,
    job_cost,
    judging_precision,
    memory,
    processes_of,
    starts,
)
from fcdm.launch.plan.forewarn import warnings_before_submission
from fcdm.launch.plan.options import ROWS, PlanOptions
from fcdm.launch.plan.sharing import Sharing, sharing
from fcdm.launch.plan.standing import DONE, IN_FLIGHT, REFUSED, SKIPPED, Standing, Standings, evaluations_of
from fcdm.launch.plan.words import bytes_text
from fcdm.launch.slurm.batch_script import Request, request_of
from fcdm.launch.slurm.options import SlurmOptions
from fcdm.runs.identity import NOT_IDENTITY, flatten, readable_name, science
from fcdm.runs.throughput import Speeds


@dataclass(frozen=True)
class PlannedRun:
    """One run of the command."""

    job: Job
    standing: Standing
    differs: str
    """What tells it from the command's other runs of the same name: `seed=1 optimiser.lr=0.001`."""
    request: Request
    judging: Request | None
    """Of its evaluation job; None: judged by the training job."""
    memory_bytes: int
    """Of one process while it trains: one GPU, or one process on CPUs."""
    left: Cost
    """What is left to do; of a run that is skipped, nothing."""
    whole: Cost
    """As if nothing were done yet."""
    separate: Cost
    """As if each budget were a training of its own, from the first step."""
    wall_hours: float | None
    """Of the training job, with its evaluations where they are inline."""
    judging_wall_hours: float | None
    starts: int | None
    judging_starts: int | None

    @property
    def on_gpus(self) -> bool:
        return self.request.gpus_per_node > 0


@dataclass
class Plan:
    """Everything that is printed."""

    runs: list[PlannedRun]
    device: str
    mfu: float
    sharing: Sharing | None = None
    """Of several studies."""
    paces: list[str] = field(default_factory=list)
    """How the hours were come by, one line each."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def savings(self) -> list[tuple[str, Cost]]:
        """(what is saved by, how much) of all that is not spent. Hours of GPUs; of processes where none has a GPU."""
        found: list[tuple[str, Cost]] = []
        shared = [run for run in self.runs if len(run.job.budgets) > 1 and run.standing.state != REFUSED]
        if shared:
            found.append(("budgets of one run share its training", _difference(shared, "separate", "whole")))
        for state, text in ((DONE, "done already"), (IN_FLIGHT, "in flight already")):
            some = [run for run in self.runs if run.standing.state == state]
            if some:
                found.append((f"{text}: {len(some)} of {len(self.runs)} runs", _difference(some, "whole", "left")))
        partly = [run for run in self.runs if run.standing.state not in SKIPPED]
        spared = _difference(partly, "whole", "left")
        if spared.total_flops() > 0:
            found.append(("parts of runs done or in flight already", spared))
        return found


def make_plan(jobs: list[Job], options: SlurmOptions) -> Plan:
    """Look at what is there and estimate what is left. Raises UserError for a GPU that is not known."""
    runs_dir = Path(jobs[0].config.runs_dir)
    paces = Paces(options.gpu, options.mfu, Speeds(runs_dir))
    standings = Standings(runs_dir)
    differs = differences(jobs)
    runs = [_planned(job, standings.of(job), differs[job.id], paces, options) for job in jobs]
    open_jobs = [run.job for run in runs if run.standing.state not in SKIPPED]
    plan = Plan(runs, paces.device.name, paces.mfu, sharing(jobs, paces, options))
    plan.paces = _pace_texts(runs, paces)
    if standings.note:
        plan.notes.append(standings.note)
    absent = sorted({job.config.data.name for job in jobs if not data_is_here(job.config)})
    if absent:
        plan.notes.append(f"{', '.join(absent)} is not on this machine: what is done already cannot be told")
    if on_disk := sum(snapshot_bytes(job.parts) for job in open_jobs):
        plan.notes.append(f"snapshots of power function averages will take {bytes_text(on_disk)} on disk, for good")
    left = {run.job.id: run.standing for run in runs}
    plan.warnings = warnings_before_submission(open_jobs, paces.device, options.mfu, options, paces, left)
    return plan


def show_plan(jobs: list[Job], values: dict[str, Any]) -> int:
    """Print the plan of these jobs; `values` are the launcher's options as Hydra hands them over. Returns 0."""
    plain: dict[str, Any] = {
        key: OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
        for key, value in values.items()
    }
    options = PlanOptions(**plain)
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
        from fcdm.launch.plan.as_json import print_json

        print_json(plan)
    else:
        from fcdm.launch.plan.tables import print_tables

        print_tables(plan, options.rows)
    sys.stdout.flush()


_TOLD = 4
"""Keys, beyond which a run is told by those in which it is not as most others of its name."""


def differences(jobs: Sequence[Job]) -> dict[str, str]:
    """Job id -> what tells the run from the others of its name, empty where nothing must."""
    named: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for job in jobs:
        named.setdefault(readable_name(job.config), []).append((job.id, flatten(science(job.config))))
    found = {}
    for same in named.values():
        first = same[0][1]
        keys = [
            key
            for key in first
            if key not in NOT_IDENTITY and any(other.get(key) != first[key] for _, other in same[1:])
        ]
        usual = {key: Counter(repr(flat.get(key)) for _, flat in same).most_common(1)[0][0] for key in keys}
        for job_id, flat in same:
            told = keys if len(keys) <= _TOLD else [key for key in keys if repr(flat.get(key)) != usual[key]]
            found[job_id] = " ".join(_said(key, flat.get(key)) for key in told) or ("as most others" if keys else "")
    return found


def _said(key: str, value: Any) -> str:
    if key == "data.checksum" and str(value).startswith(NOT_HERE):
        return f"data.path={str(value).removeprefix(NOT_HERE)}"
    text = "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key}={text}"


def _planned(job: Job, standing: Standing, differs: str, paces: Paces, options: SlurmOptions) -> PlannedRun:
    config = job.config
    request = request_of(config.resources, options)
    apart = config.evaluation.where == "job"
    judging = request_of(config.evaluation.resources, options, judging=True) if apart else request
    asked = evaluations_of(job)
    whole = job_cost(config, job.budgets[-1], asked, paces, request, judging)
    skipped = standing.state in SKIPPED
    left = job_cost(
        config,
        0 if skipped else standing.steps_left,
        [] if skipped else standing.evaluations,
        paces,
        request,
        judging,
    )
    training_hours, judging_hours = left.hours(["training"]), left.hours(KINDS[1:])
    wall = _over(training_hours if apart else left.hours(), request)
    judging_wall = _over(judging_hours, judging) if apart else None
    return PlannedRun(
        job=job,
        standing=standing,
        differs=differs,
        request=request,
        judging=judging if apart else None,
        memory_bytes=memory(config, processes_of(request)).total,
        left=left,
        whole=whole,
        separate=job_cost(config, sum(job.budgets), asked, paces, request, judging),
        wall_hours=wall,
        judging_wall_hours=judging_wall,
        starts=_starts(wall, request, options),
        judging_starts=_starts(judging_wall, judging, options),
    )


def _over(hours: float | None, request: Request) -> float | None:
    return None if hours is None else hours / processes_of(request)


def _starts(wall_hours: float | None, request: Request, options: SlurmOptions) -> int | None:
    if wall_hours == 0:
        return 0
    return starts(None if wall_hours is None else 3600 * wall_hours, request, options)


def _pace_texts(runs: Iterable[PlannedRun], paces: Paces) -> list[str]:
    """How the hours of what is left were come by."""
    found: dict[str, dict[str, None]] = {}
    unknown: dict[str, None] = {}
    for run in runs:
        for kind in KINDS:
            if not run.left.flops[kind]:
                continue
            config = run.job.config
            request = run.request if kind == "training" or run.judging is None else run.judging
            precision = config.precision if kind == "training" else judging_precision(config, kind)
            pace = paces.of(config, precision, processes_of(request), request.nodes * request.gpus_per_node)
            if pace is not None:
                found.setdefault(pace.text, {})[kind] = None
            else:
                unknown[f"{config.model.name} {config.resolution}px on CPUs"] = None
    texts = [f"{', '.join(kinds)}: {text}" for text, kinds in found.items()]
    if unknown:
        names = ", ".join(list(unknown)[:6]) + (" ..." if len(unknown) > 6 else "")
        texts.append(f"not measured, so without hours: {names} (a run of the same model on this machine tells)")
    return texts


def total(costs: Iterable[Cost]) -> tuple[Cost, frozenset[str]]:
    """The sum of what is known, and the kinds of which some hours are not."""
    flops = dict.fromkeys(KINDS, 0.0)
    seconds = dict.fromkeys(KINDS, 0.0)
    unknown = set()
    for cost in costs:
        for kind in KINDS:
            flops[kind] += cost.flops[kind]
            amount = cost.seconds[kind]
            seconds[kind] += amount or 0.0
            if amount is None:
                unknown.add(kind)
    return Cost(flops, dict(seconds)), frozenset(unknown)


def sums(runs: Sequence[PlannedRun]) -> list[tuple[str, Cost, frozenset[str]]]:
    """Total of the runs on GPUs and of those on CPUs: hours of the two are not added up."""
    found = []
    for text, on_gpus in (("total", True), ("total on CPUs", False)):
        some = [run for run in runs if run.on_gpus == on_gpus and run.standing.state not in SKIPPED]
        if some:
            found.append((text, *total(run.left for run in some)))
    return found


def _difference(runs: Sequence[PlannedRun], more: str, less: str) -> Cost:
    whole = _minus(runs, more, less)
    hours = _minus([run for run in runs if run.on_gpus] or runs, more, less)
    return Cost(whole.flops, hours.seconds)


def _minus(runs: Sequence[PlannedRun], more: str, less: str) -> Cost:
    dear, unknown = total(getattr(run, more) for run in runs)
    cheap, unknown_too = total(getattr(run, less) for run in runs)
    flops = {kind: dear.flops[kind] - cheap.flops[kind] for kind in KINDS}
    seconds = {kind: (dear.seconds[kind] or 0.0) - (cheap.seconds[kind] or 0.0) for kind in KINDS}
    return Cost(flops, {kind: None if kind in unknown | unknown_too else seconds[kind] for kind in KINDS})
