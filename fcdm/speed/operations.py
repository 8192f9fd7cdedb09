"""Where a training step's time goes, by operator, as torch's profiler sees it; and what limits the step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fcdm.atomic import file_errors, temporary_name
from fcdm.speed.ceilings import Ceilings
from fcdm.speed.roofline import Roofline
from fcdm.speed.stopwatch import synchronise

STEPS = 3
SHOWN = 12
HOST_SHARE = 0.2
"""Of a step spent on drawing its batch, from which the host is called the limit."""
BUSY_SHARE = 0.8
"""Of a step in which a GPU computes, below which launches are called the limit."""


@dataclass(frozen=True)
class Operator:
    """One of torch's operators, over a step."""

    name: str
    seconds: float
    share: float
    """Of all operators' time."""
    calls: float


@dataclass(frozen=True)
class StepProfile:
    """A step as the profiler sees it."""

    operators: list[Operator]
    """The slowest first."""
    launches: float | None
    """Kernels started on a GPU in a step; None on a CPU."""
    busy: float | None
    """Share of the step in which the GPU computes; None on a CPU."""


def profile_step(
    step: Callable[[], None], device: torch.device, step_s: float, trace: Path | None = None
) -> StepProfile:
    """Profiles some steps, each of which takes `step_s` when nobody looks.

    trace: a file for chrome://tracing or Perfetto, .json or .json.gz. Raises UserError where it cannot be written.
    """
    on_gpu = device.type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else Kineto prints its own stages (torch 2.13)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    step()
    synchronise(device)
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(STEPS):
            step()
        synchronise(device)
    if trace is not None:
        unfinished = trace.with_name(temporary_name(trace.name) + trace.suffix)
        with file_errors(trace):
            try:
                profiler.export_chrome_trace(str(unfinished))
                unfinished.replace(trace)
            finally:
                unfinished.unlink(missing_ok=True)
    times: list[tuple[float, str, int]] = []
    launches = 0
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # a kernel, counted with the operator that started it
        launches += event.count if event.key.startswith(("cudaLaunchKernel", "cuLaunchKernel")) else 0
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times.append((micros / 1e6, event.key, event.count))
    total = sum(seconds for seconds, _, _ in times) or 1.0
    operators = [
        Operator(name, seconds / STEPS, seconds / total, count / STEPS)
        for seconds, name, count in sorted(times, reverse=True)[:SHOWN]
        if seconds > 0
    ]
    if not on_gpu:
        return StepProfile(operators, None, None)
    return StepProfile(operators, launches / STEPS, min(1.0, total / STEPS / step_s))


def what_limits(
    phases_s: dict[str, float], seen: StepProfile, expected: Roofline, ceilings: Ceilings, precision: str
) -> str:
    """`host`, `launches`, `bandwidth` or `products`.

    The host where drawing the batch takes more than HOST_SHARE of the step, launches where the GPU idles; else
    whichever of the step's bytes and FLOPs take longer at the measured ceilings, with every operation on its own.
    """
    if phases_s["data"] > HOST_SHARE * sum(phases_s.values()):
        return "host"
    if seen.busy is not None and seen.busy < BUSY_SHARE:
        return "launches"
    moving, computing = expected.bytes / ceilings.bytes_per_s, expected.flops / ceilings.flops_per_s[precision]
    return "bandwidth" if moving > computing else "products"
