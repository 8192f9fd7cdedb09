"""Timing on a device that works behind the host's back, within a limit of time, and what memory it took."""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch

BLOCK_S = 0.2
"""Calls are timed in blocks of about so long, so that waiting for the device counts little."""
BLOCKS = 5
WARM_UP_CALLS = 2


class Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(call: Callable[[], object], device: torch.device, limit_s: float) -> float:
    """The median over blocks of calls, after a warm-up; at least one call is timed, whatever the limit."""
    deadline = Deadline(limit_s)

    def block(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronise(device)
        return (time.perf_counter() - began) / calls

    for _ in range(WARM_UP_CALLS):
        first = block(1)
        if deadline.left < first:
            return first
    calls = max(1, round(BLOCK_S / max(first, 1e-6)))
    times: list[float] = []
    while len(times) < BLOCKS and (not times or deadline.left > times[-1] * calls):
        times.append(block(calls))
    return statistics.median(times)


class PhaseClock:
    """Seconds of the phases of a step: `start`, then `mark` at the end of each; both wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[float]] = defaultdict(list)

    def start(self) -> None:
        synchronise(self.device)
        self.at = time.perf_counter()

    def mark(self, phase: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.times[phase].append(now - self.at)
        self.at = now

    def medians(self) -> dict[str, float]:
        """Phase -> median seconds, in the order in which they came."""
        return {phase: statistics.median(times) for phase, times in self.times.items()}


def watch_peak(device: torch.device) -> Callable[[], int | None]:
    """Begins to watch what torch's allocator hands out; the function that it returns says the most bytes since then.

    None on a CPU: what a process holds there says little of what a model needs.
    """
    if device.type != "cuda":
        return lambda: None
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device)


def free_memory(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
