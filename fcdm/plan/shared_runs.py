"""What several studies planned together share: each alone beside all at once, as if nothing were done yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fcdm.jobs.job import Job
from fcdm.plan.estimate import EVALUATION, KINDS, Cost, Paces, job_cost
from fcdm.plan.remaining import evaluations_of, whole_steps
from fcdm.runs.run_cost import checkpoint_bytes
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import request_of


@dataclass(frozen=True)
class Amount:
    """What a study takes, or several; a difference too. FLOPs by kind of work; None: not all hours are known."""

    runs: int
    evaluations: int
    checkpoint_bytes: int
    """On disk for good: one checkpoint for each budget of each run. What a run keeps besides while it trains is not."""
    flops: dict[str, float]
    gpu_hours: float | None
    cpu_hours: float | None
    """Hours of processes, of the runs without GPUs."""

    @property
    def training_flops(self) -> float:
        return self.flops["training"]

    @property
    def evaluation_flops(self) -> float:
        return sum(self.flops[kind] for kind in EVALUATION)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.runs - other.runs,
            self.evaluations - other.evaluations,
            self.checkpoint_bytes - other.checkpoint_bytes,
            {kind: self.flops[kind] - other.flops[kind] for kind in KINDS},
            _apart(self.gpu_hours, other.gpu_hours),
            _apart(self.cpu_hours, other.cpu_hours),
        )


@dataclass(frozen=True)
class Sharing:
    """Of a command that asks for more than one study."""

    studies: dict[str, Amount]
    """Each as if it were the only one."""
    alone: Amount
    """Their sum."""
    together: Amount
    """All at once: a run that several ask for is trained once, and evaluated once at each budget and protocol."""

    @property
    def saved(self) -> Amount:
        return self.alone - self.together


def sharing(jobs: Sequence[Job], paces: Paces, options: SlurmOptions) -> Sharing | None:
    """What the studies of these jobs take alone and together; None for a single study."""
    names = list(dict.fromkeys(part.config.study for job in jobs for part in job.parts))
    if len(names) < 2:
        return None
    studies = {name: _amount(_of_study(jobs, name), paces, options) for name in names}
    return Sharing(studies, _sum(studies.values()), _amount(jobs, paces, options))


def _of_study(jobs: Iterable[Job], study: str) -> list[Job]:
    parts = [(job, tuple(part for part in job.parts if part.config.study == study)) for job in jobs]
    return [replace(job, parts=some) for job, some in parts if some]


def _amount(jobs: Iterable[Job], paces: Paces, options: SlurmOptions) -> Amount:
    jobs = list(jobs)
    return _sum(_of_job(job, whole_steps(job, jobs), paces, options) for job in jobs)


def _of_job(job: Job, steps: int, paces: Paces, options: SlurmOptions) -> Amount:
    config = job.config
    request = request_of(config.resources, options)
    apart = config.evaluation.where == "job"
    evaluation = request_of(config.evaluation.resources, options, evaluation=True) if apart else request
    evaluations = evaluations_of(job)
    cost: Cost = job_cost(config, steps, evaluations, paces, request, evaluation)
    on_gpus = request.gpus_per_node > 0
    return Amount(
        runs=1,
        evaluations=len(evaluations),
        checkpoint_bytes=len(job.budgets) * checkpoint_bytes(config),
        flops=dict(cost.flops),
        gpu_hours=cost.hours() if on_gpus else 0.0,
        cpu_hours=0.0 if on_gpus else cost.hours(),
    )


def _sum(amounts: Iterable[Amount]) -> Amount:
    found = list(amounts)
    return Amount(
        sum(one.runs for one in found),
        sum(one.evaluations for one in found),
        sum(one.checkpoint_bytes for one in found),
        {kind: sum(one.flops[kind] for one in found) for kind in KINDS},
        _all([one.gpu_hours for one in found]),
        _all([one.cpu_hours for one in found]),
    )


def _all(hours: list[float | None]) -> float | None:
    known = [value for value in hours if value is not None]
    return sum(known) if len(known) == len(hours) else None


def _apart(more: float | None, less: float | None) -> float | None:
    return None if more is None or less is None else more - less
