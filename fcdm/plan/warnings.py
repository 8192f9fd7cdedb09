"""What a run cannot do with what it asks for, said before anything is submitted: memory, time limit, batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from fcdm.config.ema_lag import lag_warning
from fcdm.formatting import bytes_text, duration_text
from fcdm.jobs.job import EVALUATE, Job
from fcdm.jobs.make_jobs import data_is_here
from fcdm.plan.estimate import (
    GPU_PROCESS_BYTES,
    START_UP_S,
    Paces,
    host_bytes,
    job_cost,
    process_memory,
    starts,
    useful_seconds,
)
from fcdm.plan.gpus import Device
from fcdm.plan.remaining import Standing, branch_start, evaluations_of
from fcdm.plan.tell_apart import differences
from fcdm.runs.benchmark_files import Benchmarks
from fcdm.runs.identity import readable_name
from fcdm.runs.run_cost import saved_bytes
from fcdm.runs.throughput import Speeds
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources, request_of, signal_delay

MEMORY_SHARE = 0.9
"""Of a GPU's memory: the rest is for CUDA itself, workspaces and fragments."""


def warnings_before_submission(
    jobs: list[Job],
    gpu: Device | None,
    mfu: float | None = None,
    options: SlurmOptions | None = None,
    paces: Paces | None = None,
    standings: Mapping[str, Standing] | None = None,
) -> list[str]:
    """One line for each thing that will not work, or not in one start; runs with the same trouble share a line.

    `gpu` None: nothing is said of its memory. `mfu` None: the plan's own guess. `standings`: what is left of each job,
    by its id; None: all of it. Cheap; reads the records of runs that are there for their speed.
    """
    options = options or SlurmOptions()
    if paces is None:  # where the GPU is not known, hours are not guessed either
        runs_dir = Path(jobs[0].config.runs_dir) if jobs else Path()
        paces = Paces(gpu, mfu, Speeds(runs_dir), Benchmarks(runs_dir), guess=gpu is not None)
    troubles: dict[str, list[Job]] = {}
    for job in jobs:
        for text in _of_job(job, standings.get(job.id) if standings else None, gpu, paces, options):
            troubles.setdefault(text, []).append(job)
    apart = cache(lambda: differences(jobs))  # of a launch without trouble nobody asks

    def name(job: Job) -> str:
        if data_is_here(job.config):
            return job.name  # else the id in it is none
        told = apart()[job.id]
        return f"{readable_name(job.config)} ({told})" if told else readable_name(job.config)

    return [f"{_names(list(map(name, troubled)))}: {text}" for text, troubled in troubles.items()]


def _of_job(
    job: Job, standing: Standing | None, gpu: Device | None, paces: Paces, options: SlurmOptions
) -> Iterator[str]:
    steps = standing.steps_left if standing else job.budgets[-1] - branch_start(job)
    evaluations = list(standing.evaluations) if standing else evaluations_of(job)
    request = request_of(job.config.resources, options)
    processes = request.processes
    batch = job.config.batch_size
    if batch % processes:
        yield f"batch_size={batch} does not divide over {processes} processes (resources.gpus), so it cannot start"
    if warning := lag_warning(evaluations):
        yield warning
    yield from _memory(job, request, gpu)
    yield from _host_memory("resources", job, request, options)
    inline = job.config.evaluation.where != "job" and job.work != "train"
    if job.work != EVALUATE:
        cost = job_cost(job.config, steps, evaluations if inline else [], paces, request, request)
        step = job_cost(job.config, 1, [], paces, request, request).seconds["training"]
        yield from _time("resources", request, cost.hours(), step, options, saved_bytes(job.config))
    if job.work != "train" and not inline:
        evaluation = request_of(job.config.evaluation.resources, options, evaluation=True)
        cost = job_cost(job.config, 0, evaluations, paces, evaluation, evaluation)
        yield from _host_memory("evaluation.resources", job, evaluation, options)
        yield from _time("evaluation.resources", evaluation, cost.hours(), None, options, 0)


def _memory(job: Job, request: Resources, gpu: Device | None) -> Iterator[str]:
    config, processes = job.config, request.processes
    need = process_memory(config, request)
    if request.gpus_per_node:
        if gpu is None or need.total <= MEMORY_SHARE * gpu.memory_bytes:
            return
        there, place = gpu.memory_bytes, f"each GPU, and the {gpu.name} has {bytes_text(gpu.memory_bytes)}"
    else:
        if not request.mem_gb:  # what the cluster gives, or all of the node
            return
        there = 1e9 * request.mem_gb / request.tasks_per_node
        if need.total <= MEMORY_SHARE * there:
            return
        place = f"each process, and resources.mem_gb={request.mem_gb:g} gives it {bytes_text(there)}"
    room = MEMORY_SHARE * there
    activations = bytes_text(need.images * need.per_image)
    parts = f"state {bytes_text(need.fixed)}, activations of {need.images} images {activations}"
    recomputed = process_memory(replace(config, activation_checkpointing=True), request).per_image
    ways = []
    if need.fixed + need.per_image <= room:
        fitting = _power_of_two(int((room - need.fixed) // need.per_image))
        ways.append(f"micro_batch={fitting} ({bytes_text(need.fixed + fitting * need.per_image)})")
    if not config.activation_checkpointing and need.fixed + recomputed <= room:
        whole = need.fixed + need.images * recomputed
        fitting = _power_of_two(int((room - need.fixed) // recomputed))
        way = "activation_checkpointing=true"
        ways.append(
            f"{way} ({bytes_text(whole)})"
            if whole <= room
            else f"{way} micro_batch={fitting} ({bytes_text(need.fixed + fitting * recomputed)})"
        )
    if request.gpus_per_node and need.fixed + need.per_image <= room:
        most = int((room - need.fixed) // need.per_image)
        more = _gpus_for(config.batch_size, processes, most)
        if more is not None:
            each = config.batch_size // more
            ways.append(f"resources.gpus={more} ({bytes_text(need.fixed + each * need.per_image)} each)")
    elif not request.gpus_per_node:
        ways.append(f"resources.mem_gb={math.ceil(need.total * request.tasks_per_node / MEMORY_SHARE / 1e9)}")
    advice = " or ".join(ways) if ways else "its state alone does not fit: it needs a GPU with more memory"
    yield f"needs about {bytes_text(need.total)} for {place} ({parts}): {advice}"


def _host_memory(key: str, job: Job, request: Resources, options: SlurmOptions) -> Iterator[str]:
    """Of jobs on GPUs that say how much they want; others take what the cluster gives."""
    if not request.gpus_per_node or not request.mem_gb or options.mem_per_gpu or options.mem_per_cpu:
        return
    need = host_bytes(job.config, request, trains=key == "resources" and job.work != EVALUATE)
    if need > 1e9 * request.mem_gb:
        tasks, each = request.tasks_per_node, bytes_text(GPU_PROCESS_BYTES)
        rest = bytes_text(need - GPU_PROCESS_BYTES * tasks)
        yield (
            f"needs about {bytes_text(need)} of host memory on a node ({each} for each of {tasks} processes on GPUs, "
            f"{rest} for copies of its state), and {key}.mem_gb={request.mem_gb:g} is less: "
            f"{key}.mem_gb={math.ceil(need / 1e9)}"
        )


def _gpus_for(batch: int, gpus: int, most: int) -> int | None:
    """The smallest multiple of `gpus` that divides the batch into shares of at most `most` images."""
    return next((n for n in range(2 * gpus, batch + 1, gpus) if batch % n == 0 and batch // n <= most), None)


def _time(
    key: str, request: Resources, hours: float | None, step: float | None, options: SlurmOptions, saved: int
) -> Iterator[str]:
    useful, limit = useful_seconds(request, options, saved), request.seconds
    set_by = "hydra.launcher.timeout_min" if options.timeout_min is not None and key == "resources" else f"{key}.hours"
    overhead = (
        f"{START_UP_S:g} s to start up, and SLURM signals {signal_delay(request, options, saved):g} s before the end"
    )
    if useful <= max(step or 0.0, 0.0):
        one = f", and one step takes {step:,.0f} s" if step and useful > 0 else ""
        yield (
            f"a start of {limit:g} s ({set_by}) leaves {max(0.0, useful):,.0f} s of work ({overhead}){one}: it makes "
            "no progress; give it more time, or a shorter hydra.launcher.signal_delay_s"
        )
        return
    wall = 3600 * hours / request.processes if hours is not None else None
    count = starts(wall, request, options, saved)
    if count is None or count == 1 or wall is None:
        return
    usable = f"of which all but {duration_text(limit - useful)} are usable"
    many = f"needs about {count:,} starts of {duration_text(limit)} ({set_by}), {usable},"
    allowed = options.max_num_timeout
    if allowed is not None and count - 1 > allowed:
        yield (
            f"{many} for {duration_text(wall)} of work, but "
            f"hydra.launcher.max_num_timeout={allowed} requeues it {allowed} times only"
        )
    else:
        yield f"{many} for {duration_text(wall)} of work; it is requeued each time"


def _names(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _power_of_two(number: int) -> int:
    return 1 << (number.bit_length() - 1)
