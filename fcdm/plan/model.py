"""A plan as data: each run with what is left of it, and the sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fcdm.jobs.job import Job
from fcdm.plan.estimate import KINDS, Cost
from fcdm.plan.foretell import PlannedForecast
from fcdm.plan.remaining import DONE, IN_FLIGHT, REFUSED, SKIPPED, Standing, branch_start
from fcdm.plan.shared_runs import Sharing
from fcdm.slurm.resources import Resources


@dataclass
class PlannedRun:
    """One run of the command."""

    job: Job
    standing: Standing
    differs: str
    """What tells it from the command's other runs of the same name, and where its model is not its preset:
    `model.width=784 seed=1`."""
    request: Resources
    evaluation: Resources | None
    """Of its evaluation job; None: evaluated by the training job."""
    memory_bytes: int
    """Of one process while it trains: one GPU, or one process on CPUs."""
    host_bytes: int | None
    """Of host memory, on each node of a job on GPUs; None: on CPUs, where it is the processes' memory."""
    left: Cost
    """What is left to do; of a run that is skipped, nothing."""
    whole: Cost
    """As if nothing were done yet."""
    separate: Cost
    """As if each budget were a training of its own, from the first step."""
    wall_hours: float | None
    """Of the training job, with its evaluations where they are inline."""
    evaluation_wall_hours: float | None
    starts: int | None
    evaluation_starts: int | None
    forecasts: Sequence[PlannedForecast] = ()
    """Of the budgets that are not measured yet and that a law reaches."""
    parent: PlannedRun | None = None
    """Of the command's runs the one that it branches from."""

    @property
    def start(self) -> int:
        """The step at which a branch leaves its parent; 0: it is no branch."""
        return branch_start(self.job)

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
    assumed: bool = False
    """Some hours rest on a share of a GPU's peak that nobody has measured."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def savings(self) -> list[tuple[str, Cost]]:
        """(what is saved by, how much) of all that is not spent. Hours of GPUs; of processes where none has a GPU."""
        savings: list[tuple[str, Cost]] = []
        pairs = [(run, run.parent) for run in self.runs if run.parent is not None]
        family = {run.job.id for pair in pairs for run in pair}
        several = [run for run in self.runs if len(run.job.budgets) > 1 or run.job.id in family]
        spared = _difference([run for run in several if run.standing.state != REFUSED], "separate", "whole")
        if spared.total_flops() > 0:
            savings.append((f"budgets {'and branches ' if pairs else ''}of one run share its training", spared))
        for state, text in ((DONE, "done already"), (IN_FLIGHT, "in flight already")):
            some = [run for run in self.runs if run.standing.state == state]
            if some:
                savings.append((f"{text}: {len(some)} of {len(self.runs)} runs", _difference(some, "whole", "left")))
        partly = [run for run in self.runs if run.standing.state not in SKIPPED]
        spared = _difference(partly, "whole", "left")
        if spared.total_flops() > 0:
            savings.append(("parts of runs done or in flight already", spared))
        return savings


class Total(NamedTuple):
    """What several pieces of work cost together."""

    pieces: int
    cost: Cost
    """The sum of what is known."""
    unknown: frozenset[str]
    """Kinds of work of which not all hours are known."""


def total(costs: Iterable[Cost]) -> Total:
    pieces = 0
    flops, seconds = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
    unknown = set()
    for cost in costs:
        pieces += 1
        for kind in KINDS:
            flops[kind] += cost.flops[kind]
            amount = cost.seconds[kind]
            seconds[kind] += amount or 0.0
            if amount is None:
                unknown.add(kind)
    return Total(pieces, Cost(flops, dict(seconds)), frozenset(unknown))


def totals(runs: Iterable[PlannedRun]) -> tuple[Total, Total]:
    """What is left of the runs on GPUs, and of those on CPUs: hours of the two are not added up."""
    working = [run for run in runs if run.standing.state not in SKIPPED]
    gpu, cpu = (total(run.left for run in working if run.on_gpus == on_gpus) for on_gpus in (True, False))
    return gpu, cpu


def _difference(runs: Sequence[PlannedRun], more: str, less: str) -> Cost:
    whole = _minus(runs, more, less)
    hours = _minus([run for run in runs if run.on_gpus] or runs, more, less)
    return Cost(whole.flops, hours.seconds)


def _minus(runs: Sequence[PlannedRun], more: str, less: str) -> Cost:
    _, dear, unknown = total(getattr(run, more) for run in runs)
    _, cheap, unknown_too = total(getattr(run, less) for run in runs)
    flops = {kind: dear.flops[kind] - cheap.flops[kind] for kind in KINDS}
    seconds = {kind: (dear.seconds[kind] or 0.0) - (cheap.seconds[kind] or 0.0) for kind in KINDS}
    return Cost(flops, {kind: None if kind in unknown | unknown_too else seconds[kind] for kind in KINDS})
