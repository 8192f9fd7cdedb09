"""The processes of one training job: who am I, which part of the global batch is mine, how we agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from fcdm.errors import UserError

_T = TypeVar("_T")

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world_size` processes; one process is the ordinary case and needs no process group."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def from_environment(cls, device: str) -> Ranks:
        """Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Raises UserError."""
        rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if world_size > 1 and device.startswith("cuda:"):
            if rank:  # the first says it; with code 0, as in `refuse_together`
                raise SystemExit(0)
            raise UserError(f"device={device} would put all {world_size} processes on one GPU: write device=cuda")
        chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
        if chosen.type == "cuda":
            # Read once, at the process's first product: a fixed workspace, without which cuBLAS is not deterministic.
            os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
            torch.cuda.set_device(chosen)
        if world_size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
            # A rank that waits this long waits for a dead one; evaluation and saving are far shorter.
            dist.init_process_group(backend, timeout=timedelta(minutes=30))
        return cls(rank, world_size, chosen)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines that the processes are spread over, by torchrun's GROUP_WORLD_SIZE."""
        return int(os.environ.get("GROUP_WORLD_SIZE", 1))

    def share(self, count: int) -> tuple[int, int]:
        """(start, length) of this rank's contiguous part of `count` items. Raises UserError if uneven."""
        if count % self.world_size:
            raise UserError(f"batch_size={count} does not divide over {self.world_size} processes")
        length = count // self.world_size
        return self.rank * length, length

    def share_name(self, batch_size: int) -> str:
        """Names this rank's share of batches: of no use under another number of ranks or another batch size."""
        return f"rank{self.rank}of{self.world_size}-by{batch_size}"

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, the same on all of them."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def highest(self, *numbers: float) -> list[float]:
        """The highest of each number over ranks: how all of them take the same turn at the same step.

        Over the CPU (gloo), so that the GPU's queue is not waited for.
        """
        if self.world_size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return [float(number) for number in found]

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return bool(self.highest(float(flag))[0])

    def agree(self, number: int, what: str) -> None:
        """Raise UserError on all ranks unless the number is the same on all of them."""
        mine = torch.tensor([float(number), float(number) ** 2], dtype=torch.float64)
        total, squares = (self.sum(mine) / self.world_size).tolist()
        if squares != total**2:
            raise UserError(f"the {self.world_size} processes see different things for {what}: start them again")

    def of_first(self, value: Any) -> Any:
        """The first rank's value, on all of them; what the others give is not looked at."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def of_all(self, value: _T) -> list[_T]:
        """Every rank's value, in rank order, on all of them."""
        found: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(found, value)
        return found

    def first_does(self, act: Callable[[], _T]) -> _T:
        """What `act()` gives the first rank, on all of them; what it raises there ends all (`refuse_together`)."""
        found: _T | None = None
        refusal: Exception | None = None
        if self.is_main:
            try:
                found = act()
            except Exception as error:  # whatever it is: the others must not wait for it
                refusal = error
        self.refuse_together(refusal)
        return cast("_T", self.of_first(found))

    def own_after_first(self, act: Callable[[], _T]) -> _T:
        """Each rank's own `act()`; the first's comes before, and what it raises ends all (`refuse_together`)."""
        found: list[_T] = []
        self.first_does(lambda: found.append(act()))
        return found[0] if found else act()

    def refuse_together(self, refusal: BaseException | None) -> None:
        """All go on, or none: raises the first rank's refusal there, and ends the others without a word.

        With code 0, for only the first rank's counts: another's would have srun kill it before it has said why.
        """
        if self.any(refusal is not None):
            raise refusal or SystemExit(0)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def work_for(device: torch.device) -> None:
    """For a new thread, whose present GPU is the first: what it pins and waits for belongs to the present one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """`auto` is the local rank's GPU where there is one, else the CPU. Raises UserError."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"device={wanted} is not known: auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={wanted} is not supported: auto, cpu, cuda or cuda:0")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device={wanted}, but torch sees no CUDA device here: device=cpu works anywhere")
        index = local_rank if device.index is None else device.index
        if torch.cuda.device_count() == 1 and device.index is None:
            index = 0  # SLURM shows each task its own GPU only (gpus_per_task)
        if index >= torch.cuda.device_count():
            raise UserError(f"device=cuda:{index}, but there are only {torch.cuda.device_count()} CUDA devices")
        return torch.device("cuda", index)
    return device
