"""The processes of one training job: who am I, which part of the global batch is mine, how we agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from fcdm.engine.rendezvous import meet
from fcdm.engine.stop import StopSignal
from fcdm.errors import UserError
from fcdm.runs.peers import peers

_T = TypeVar("_T")

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
DEAD_AFTER = timedelta(minutes=30)
"""A rank that waits this long waits for a dead one; evaluation and saving are far shorter."""


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world_size` processes; one process is the ordinary case and needs no process group."""

    rank: int
    world_size: int
    device: torch.device
    nodes: int = 1
    """Machines that the processes are spread over."""

    @classmethod
    def from_environment(cls, device: str, stop: StopSignal | None = None) -> Ranks:
        """This process and its peers (`fcdm.runs.peers`), once they have found each other.

        Raises UserError; Stopped at the first SIGINT or SIGTERM that comes before that.
        """
        mine = peers()
        if mine.count > 1 and device.startswith("cuda:"):
            if mine.rank:  # the first says it; with code 0, as in `refuse_together`
                raise SystemExit(0)
            raise UserError(f"device={device} would put all {mine.count} processes on one GPU: write device=cuda")
        chosen = take_device(device, mine.local_rank)
        if mine.count > 1 and not dist.is_initialized():

            def join(store: Store) -> None:
                work_for(chosen)
                store.set_timeout(DEAD_AFTER)
                backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
                dist.init_process_group(backend, store=store, rank=mine.rank, world_size=mine.count, timeout=DEAD_AFTER)

            meet(mine, join, stop)
        return cls(mine.rank, mine.count, chosen, mine.nodes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

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
        """As `all_or_none`; the first's own comes before the others', which see what it has made."""
        found: list[_T] = []
        self.first_does(lambda: found.append(act()))
        return self.all_or_none(lambda: found[0] if found else act())

    def all_or_none(self, act: Callable[[], _T]) -> _T:
        """Each rank's own `act()`; a UserError of any is the first rank's, and ends all (`refuse_together`).

        For what one may be unable to do alone, such as to open a file that other machines have: the others would wait
        for it where all ranks meet next. So `act` does nothing that needs them.
        """
        found: list[_T] = []
        why: str | None = None
        try:
            found.append(act())
        except UserError as error:
            why = str(error)
        told = [(rank, text) for rank, text in enumerate(self.of_all(why)) if text is not None]
        refusal: UserError | None = None
        if told and self.is_main:
            rank, text = told[0]
            refusal = UserError(f"process {rank} of {self.world_size}: {text}" if rank else text)
        self.refuse_together(refusal)
        return found[0]

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


def take_device(wanted: str, local_rank: int = 0) -> torch.device:
    """The device, as this process's from now on. Raises UserError."""
    chosen = choose_device(wanted, local_rank)
    if chosen.type == "cuda":
        # Read once, at the process's first product: a fixed workspace, without which cuBLAS is not deterministic.
        os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
        torch.cuda.set_device(chosen)
    return chosen


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
