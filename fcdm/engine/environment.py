"""Threads, precision and the segment record: where and how a stretch of work ran."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from fcdm.config.schema import Config
from fcdm.engine.distributed import Ranks
from fcdm.engine.state import TrainState
from fcdm.engine.stop import Stopped
from fcdm.errors import UserError
from fcdm.metrics.float32 import tf32
from fcdm.runs.formats import read_records
from fcdm.runs.processes import cores
from fcdm.runs.records import RecordWriter
from fcdm.runs.revision import code_revision
from fcdm.runs.run_lock import RunHeld

THREADS_AT_START = torch.get_num_threads()
"""What torch made of the environment, before any run of this process took its last segment's count again."""


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """bf16 autocast where the precision is `bf16`, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def autocast_of_many_calls(precision: str, device: torch.device, *models: nn.Module | None) -> Iterator[None]:
    """`autocast`, bit for bit, without gradients, for many calls of the models: their weights are cast once.

    Autocast keeps what it has cast of weights that require gradients, until its block ends, and casts all others anew
    at each call. So all of them require gradients while the block runs, and none is computed.
    """
    weights = [weight for model in models if model is not None for weight in model.parameters()]
    frozen = [weight for weight in weights if weight.is_floating_point() and not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with torch.no_grad(), autocast(precision, device):
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def matmul_precision(precision: str) -> AbstractContextManager[None]:
    """Float32 products on CUDA in TF32 (`tf32`, `bf16`) or not (`fp32`) while the block runs."""
    return tf32(precision != "fp32")


def prepare_machine(config: Config, records: Path, ranks: Ranks, note: Callable[[str], None]) -> None:
    """Set the number of threads; say where a resumed run differs from its last segment.

    The same thread count, world size and micro-batch make a resume bit-identical; others move it by float
    rounding. So the last segment's thread count is taken again unless it is more than this job may use.
    """
    last = last_segment(records)
    if config.threads is not None and config.threads > cores():
        raise UserError(f"threads={config.threads}, but this process may use {cores()} CPU cores")
    offered = config.threads or THREADS_AT_START
    wanted = offered
    if last is not None and config.threads is None and last["threads"] <= offered:
        wanted = int(last["threads"])
    torch.set_num_threads(wanted)
    emulated = ranks.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if config.precision == "bf16" and emulated and ranks.is_main:
        note("this CPU has no bf16 instructions: torch emulates them, many times slower than precision=fp32")
    if last is not None and ranks.is_main:
        now = segment_facts(config, ranks)
        for key in ("threads", "world_size", "micro_batch", "device", "torch", "cpu"):
            if last.get(key) != now[key]:
                note(
                    f"continues with {key} {now[key]}, before it was {last.get(key)}: the result may differ by "
                    "float rounding"
                )


def segment_facts(config: Config, ranks: Ranks) -> dict[str, Any]:
    """What a segment record holds besides its times."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": ranks.device.type if ranks.device.type == "cpu" else torch.cuda.get_device_name(ranks.device),
        "threads": torch.get_num_threads(),
        "world_size": ranks.world_size,
        "micro_batch": config.micro_batch or config.batch_size // ranks.world_size,
        "revision": code_revision(),
        "torch": str(torch.__version__),
        "cpu": cpu_name(),
    }


class SegmentRecorder:
    """Context manager that records the start and the end of a stretch of work, and how it ended."""

    def __init__(self, records: RecordWriter | None, config: Config, ranks: Ranks, state: TrainState) -> None:
        self.records, self.config, self.ranks, self.state = records, config, ranks, state
        self.completed = False

    def __enter__(self) -> SegmentRecorder:
        self.started = time.monotonic()
        if self.records is not None:
            self.records.segment_start(self.state.step, **segment_facts(self.config, self.ranks))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.records is None or isinstance(error, RunHeld):
            return  # whoever holds the run now is the one to write
        facts: dict[str, Any] = {
            "completed": self.completed,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        if isinstance(error, Stopped | KeyboardInterrupt):
            facts["stopped"] = signal.Signals(getattr(error, "signum", signal.SIGINT)).name
        elif error is not None:
            facts["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        self.records.segment_end(self.state.step, **facts)


def last_segment(records: Path) -> dict[str, Any] | None:
    """The start of the newest segment in a run's records, or None. Raises UserError for a damaged line."""
    starts = [fields for _, fields in read_records(records) if fields.get("segment") == "start"]
    return starts[-1] if starts else None


@cache
def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
