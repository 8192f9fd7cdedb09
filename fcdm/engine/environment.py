"""Threads, precision, determinism, compilation and the segment record: where and how a stretch of work ran."""

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
from fcdm.engine.distributed import CUBLAS_WORKSPACE, Ranks
from fcdm.engine.state import TrainState
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.errors import UserError
from fcdm.metrics.float32 import tf32
from fcdm.redact import redacted
from fcdm.runs.formats import read_records
from fcdm.runs.processes import cores
from fcdm.runs.records import RecordWriter
from fcdm.runs.revision import code_revision
from fcdm.runs.run_lock import RunHeld

THREADS_AT_START = torch.get_num_threads()
"""What torch made of the environment, before any run of this process took its last segment's count again."""
COMPARED = (
    *("threads", "world_size", "micro_batch", "device", "torch", "cpu"),
    *("nodes", "cuda", "cudnn", "nccl", "compile", "activation_checkpointing", "deterministic"),
)
"""What of a segment's facts moves results by float rounding where it changes."""
RECOMPILE_LIMIT = 64
"""Graphs of one model class in a process."""


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


WARNS, ERRORS = 1, 2
"""torch's modes where an operation has no deterministic variant; 0: any will do."""


@contextlib.contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """torch's deterministic algorithms while the block runs, or the fastest ones; on CUDA a resume needs the former.

    Raises UserError where CUBLAS_WORKSPACE_CONFIG, which is the user's then, forbids it.
    """
    workspace = os.environ.get(CUBLAS_WORKSPACE)
    if wanted and device.type == "cuda" and workspace not in (":4096:8", ":16:8"):
        raise UserError(
            f"deterministic=true needs {CUBLAS_WORKSPACE}=:4096:8 or :16:8 in the environment, and it is {workspace}: "
            "leave the variable out, or write deterministic=false"
        )
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # a module whose attributes are not declared
    before = torch.get_deterministic_debug_mode()
    others = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    if device.type == "cuda":
        torch.use_deterministic_algorithms(wanted)
    else:  # that one imports the compiler (torch 2.13: 2 s) to tell it too, which `compiled` does where it is used
        torch.set_deterministic_debug_mode(ERRORS if wanted else 0)
    cudnn.deterministic = wanted
    cudnn.benchmark = cudnn.benchmark and not wanted  # its choice among algorithms follows the clock
    memory.fill_uninitialized_memory = False  # nothing here reads memory before it writes it
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.use_deterministic_algorithms(before > 0, warn_only=before == WARNS)
        else:
            torch.set_deterministic_debug_mode(before)
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = others


def is_compiled(config: Config, device: torch.device) -> bool:
    """What `compile` means here: null is yes on a GPU and no on a CPU, where it has brought nothing."""
    return device.type == "cuda" if config.compile is None else config.compile


def compiled(model: nn.Module, config: Config, device: torch.device, fixed: bool = False) -> nn.Module:
    """The model as it is called: compiled, or as it is. In `explaining` its failures are one line.

    fixed: each batch size is compiled for itself, whatever was compiled in the process before; so training is the same
    graph in every start. Else the first size is compiled as it is, the second with a batch of any size.
    """
    if not is_compiled(config, device):
        return model
    import torch._inductor  # seconds

    # Choose no kernel by the clock where that moves results; torch 2.9 and before cannot be told.
    known = "deterministic" in torch._inductor.list_options()
    options: dict[str, Any] | None = {"deterministic": config.deterministic} if known else None
    # Graphs are counted per model class: training, its averages, a weak model, precisions, guidance. Beyond the limit
    # (8 of its own) torch would go on eagerly, without a word.
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(model, options=options, dynamic=False if fixed else None)  # type: ignore[return-value]


@contextlib.contextmanager
def explaining(stop: StopSignal | None = None) -> Iterator[None]:
    """Raises UserError, one line, where torch cannot compile, or has no deterministic variant of an operation.

    Stopped, where the signal has come: SLURM sends it to the compiler's processes too, and they die of it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if CUBLAS_WORKSPACE in text:  # products were made in this process before `Ranks.from_environment`
            raise UserError(
                f"deterministic=true came after a first product on the GPU: set {CUBLAS_WORKSPACE}=:4096:8 in the "
                "environment before the process starts, or write deterministic=false"
            ) from error
        operation, found, _ = text.partition(" does not have a deterministic implementation")
        if found:
            raise UserError(
                f"deterministic=true, but torch {torch.__version__} has no deterministic {operation.split()[-1]}: use "
                "another operation in the model, or write deterministic=false (a resume may then differ by float "
                "rounding)"
            ) from error
        if "unable to find an engine" in text and torch.are_deterministic_algorithms_enabled():
            raise UserError(
                "cuDNN has no algorithm for a convolution here, maybe no deterministic one: write deterministic=false "
                f"(a resume may then differ by float rounding), or a smaller micro_batch ({text[:200]})"
            ) from error
        # By name: to import these exceptions takes seconds where nothing was compiled.
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            if stop is not None and stop.signum is not None:
                raise Stopped(stop.signum) from error
            raise UserError(
                f"torch cannot compile the model here: write compile=false ({type(error).__name__}: {text[:300]})"
            ) from error
        raise


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
        for key in COMPARED:
            if key in last and last[key] != now[key]:  # older segments lack some
                was = f"continues with {key} {now[key]}, before it was {last[key]}"
                note(f"{was}: the result may differ by float rounding")


def segment_facts(config: Config, ranks: Ranks) -> dict[str, Any]:
    """What a segment record holds besides its times."""
    on_cuda = ranks.device.type == "cuda"
    nccl = torch.cuda.nccl.version() if on_cuda and ranks.world_size > 1 else None  # type: ignore[no-untyped-call]
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": torch.cuda.get_device_name(ranks.device) if on_cuda else ranks.device.type,
        "threads": torch.get_num_threads(),
        "world_size": ranks.world_size,
        "nodes": ranks.nodes,
        "micro_batch": config.micro_batch or config.batch_size // ranks.world_size,
        "revision": code_revision(),
        "torch": str(torch.__version__),
        "cpu": cpu_name(),
        "cuda": torch.version.cuda if on_cuda else None,
        "cudnn": torch.backends.cudnn.version() if on_cuda else None,  # type: ignore[no-untyped-call]
        "nccl": ".".join(map(str, nccl)) if nccl else None,
        "compile": is_compiled(config, ranks.device),
        "activation_checkpointing": config.activation_checkpointing,
        "deterministic": config.deterministic,
    }


class SegmentRecorder:
    """Context manager that records the start and the end of a stretch of work, and how it ended."""

    def __init__(
        self, records: RecordWriter | None, config: Config, ranks: Ranks, state: TrainState, branched: str | None = None
    ) -> None:
        """branched: `<run>@<step>`, the checkpoint of another run that this one goes on from."""
        self.records, self.config, self.ranks, self.state = records, config, ranks, state
        self.facts = {"branched_from": branched} if branched else {}
        self.completed = False

    def __enter__(self) -> SegmentRecorder:
        self.started = time.monotonic()
        if self.records is not None:
            self.records.segment_start(self.state.step, **segment_facts(self.config, self.ranks), **self.facts)
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
            facts["error"] = redacted(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
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
