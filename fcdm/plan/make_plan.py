"""What a command would do and cost: what is there, and an estimate of what is left. Makes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fcdm.data.image_counts import MOST_EPOCHS
from fcdm.errors import UserError
from fcdm.forecasts.chain import ledger_folder
from fcdm.forecasts.law_file import read_laws
from fcdm.formatting import bytes_text, plural, three_digits
from fcdm.jobs.ema_requests import snapshot_bytes
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import data_is_here
from fcdm.plan.estimate import KINDS, Paces, host_bytes, job_cost, process_memory, starts
from fcdm.plan.foretell import foretold
from fcdm.plan.model import Plan, PlannedRun
from fcdm.plan.remaining import SKIPPED, Standing, Standings, budgets_to_evaluate, evaluations_of, whole_steps
from fcdm.plan.shared_runs import sharing
from fcdm.plan.tell_apart import differences
from fcdm.plan.warnings import warnings_before_submission
from fcdm.runs.benchmark_files import Benchmarks
from fcdm.runs.protocol import sharing_samples
from fcdm.runs.run_cost import epochs, saved_bytes
from fcdm.runs.throughput import Speeds
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources, request_of


def make_plan(jobs: list[Job], options: SlurmOptions) -> Plan:
    """Look at what is there and estimate what is left. Raises UserError for a GPU that is not known."""
    runs_dir = Path(jobs[0].config.runs_dir)
    paces = Paces(options.gpu, options.mfu, Speeds(runs_dir), Benchmarks(runs_dir))
    standings = Standings(runs_dir, jobs)
    differs = differences(jobs)
    runs = [_planned(job, standings.of(job), differs[job.id], whole_steps(job, jobs), paces, options) for job in jobs]
    lawless = _foretell(runs, runs_dir)
    by_id = {run.job.id: run for run in runs}
    for run in runs:
        run.parent = by_id.get(run.job.parent_id or "")
    open_jobs = [run.job for run in runs if run.standing.state not in SKIPPED]
    plan = Plan(runs, paces.device.name, paces.mfu, sharing(jobs, paces, options))
    plan.paces, plan.assumed = _pace_texts(runs, paces)
    plan.notes += [note for note in (standings.note, lawless) if note]
    absent = sorted({job.config.data.name for job in jobs if not data_is_here(job.config)})
    if absent:
        plan.notes.append(f"{', '.join(absent)} is not on this machine: what is done already cannot be told")
    if on_disk := sum(snapshot_bytes(job) for job in open_jobs):
        plan.notes.append(f"snapshots of power function averages will take {bytes_text(on_disk)} on disk, for good")
    plan.notes += _several_spaces(jobs)
    plan.notes += _seen_often(jobs)
    left = {run.job.id: run.standing for run in runs}
    plan.warnings = warnings_before_submission(open_jobs, paces.device, options.mfu, options, paces, left)
    return plan


def _foretell(runs: Iterable[PlannedRun], runs_dir: Path) -> str:
    """Give the runs what the laws of studies foretell of them; a note where these cannot be read."""
    try:
        laws = read_laws(ledger_folder(runs_dir))
    except UserError as error:
        return f"nothing is foretold: {error}"
    for run in runs:
        run.forecasts = foretold(run.job, laws, run.standing.evaluated)
    return ""


def _several_spaces(jobs: Iterable[Job]) -> list[str]:
    """A note for each set of spaces that samples are measured in, where they are several."""
    groups = [group for job in jobs for group in sharing_samples([part for part in job.parts if part.evaluates])]
    sets = {tuple(dict.fromkeys(part.config.evaluation.features for part in group)) for group in groups}
    return [
        f"evaluated in {' and '.join(names)}: of the same samples, drawn and decoded once"
        for names in sorted(sets)
        if len(names) > 1
    ]


LEAST_EPOCHS = 0.01
"""Of the data, below which a budget says little of them."""


def _seen_often(jobs: Iterable[Job]) -> list[str]:
    """Notes on budgets that see the data many times, or hardly at all."""
    seen = [epochs(job.config, step) for job in jobs for step in job.budgets]
    many = [amount for amount in seen if amount is not None and amount > MOST_EPOCHS]
    few = [amount for amount in seen if amount is not None and amount < LEAST_EPOCHS]
    notes = []
    if many:
        which = "all budgets" if len(many) == len(seen) else f"{plural(len(many), 'budget')} of {len(seen)}"
        notes.append(
            f"more than {MOST_EPOCHS} epochs ({which}, up to {three_digits(max(many))}): models begin to learn images "
            "by heart, and laws take data to be fresh"
        )
    if few:
        notes.append(
            f"less than {LEAST_EPOCHS:.0%} of an epoch ({plural(len(few), 'budget')} of {len(seen)}, down to "
            f"{min(few):.2%}): that says little of these data"
        )
    return notes


def _planned(job: Job, standing: Standing, differs: str, steps: int, paces: Paces, options: SlurmOptions) -> PlannedRun:
    """steps: what it trains as if nothing were done yet."""
    config = job.config
    request = request_of(config.resources, options)
    apart = config.evaluation.where == "job"
    evaluation = request_of(config.evaluation.resources, options, evaluation=True) if apart else request
    asked = evaluations_of(job)
    whole = job_cost(config, steps, asked, paces, request, evaluation)
    skipped = standing.state in SKIPPED
    left = job_cost(
        config,
        0 if skipped else standing.steps_left,
        [] if skipped else standing.evaluations,
        paces,
        request,
        evaluation,
    )
    training_hours, evaluation_hours = left.hours(["training"]), left.hours(KINDS[1:])
    wall = _over(training_hours if apart else left.hours(), request)
    evaluation_wall = _over(evaluation_hours, evaluation) if apart else None
    return PlannedRun(
        job=job,
        standing=standing,
        differs=differs,
        request=request,
        evaluation=evaluation if apart else None,
        memory_bytes=process_memory(config, request).total,
        host_bytes=host_bytes(config, request) if request.gpus_per_node else None,
        left=left,
        whole=whole,
        separate=job_cost(config, sum(budgets_to_evaluate(job)), asked, paces, request, evaluation),
        wall_hours=wall,
        evaluation_wall_hours=evaluation_wall,
        starts=_starts(wall, request, options, saved_bytes(config)),
        evaluation_starts=_starts(evaluation_wall, evaluation, options, 0),
    )


def _over(hours: float | None, request: Resources) -> float | None:
    return None if hours is None else hours / request.processes


def _starts(wall_hours: float | None, request: Resources, options: SlurmOptions, saved: int) -> int | None:
    if wall_hours == 0:
        return 0
    return starts(None if wall_hours is None else 3600 * wall_hours, request, options, saved)


def _pace_texts(runs: Iterable[PlannedRun], paces: Paces) -> tuple[list[str], bool]:
    """How the hours of what is left were come by, and whether some of them are assumed."""
    assumed = False
    found: dict[str, dict[str, None]] = {}
    unknown: dict[str, None] = {}
    for run in runs:
        for kind in KINDS:
            if not run.left.flops[kind]:
                continue
            config = run.job.config
            request = run.request if kind == "training" or run.evaluation is None else run.evaluation
            pace = paces.of(config, kind, request)
            if pace is not None:
                assumed |= pace.assumed
                found.setdefault(pace.text, {})[kind] = None
            else:
                unknown[f"{config.model.name} {config.resolution}px on CPUs"] = None
    texts = [f"{', '.join(kinds)}: {text}" for text, kinds in found.items()]
    if unknown:
        names = ", ".join(list(unknown)[:6]) + (" ..." if len(unknown) > 6 else "")
        texts.append(
            f"not measured, so without hours: {names} (a run of the same model here tells, or python -m fcdm.benchmark)"
        )
    return texts, assumed
