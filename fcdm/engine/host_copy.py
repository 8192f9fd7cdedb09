"""A copy of tensors in host memory, from which a thread writes while training goes on."""

from __future__ import annotations

import torch
from torch import Tensor

Groups = dict[str, dict[str, Tensor]]
"""Group ("model", "ema", "optimiser", "power-0.05") -> name -> tensor."""

_SLAB = 1 << 28
"""Bytes of memory taken at a time: a power of two, to which torch rounds up what it pins."""
_ALIGNED = 64


class HostCopy:
    """Room for one copy of a state, kept for the next copy: pinning 11 GB takes seconds.

    On CUDA the room is pinned and copying is a matter of the GPU's queue: the next training step waits for it, this
    process does not.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._slabs: list[Tensor] = []
        self._copied: torch.cuda.Event | None = None

    def of(self, groups: Groups) -> Groups:
        """Copies, row-major, of the values that the tensors have now, wherever they are. `wait` before reading them.

        They hold until the next call. Tensors that are one, as tied weights are, stay one.
        """
        slab, used = 0, 0

        def room(size: int) -> Tensor:
            nonlocal slab, used
            begin = -(-used // _ALIGNED) * _ALIGNED
            while slab < len(self._slabs) and begin + size > len(self._slabs[slab]):
                slab, begin = slab + 1, 0
            if slab == len(self._slabs):
                begin = 0
                self._slabs.append(torch.empty(max(size, _SLAB), dtype=torch.uint8, pin_memory=self._pinned))
            used = begin + size
            return self._slabs[slab][begin:used]

        copies: dict[tuple[object, ...], Tensor] = {}

        def copied(tensor: Tensor) -> Tensor:
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if key not in copies:
                copies[key] = room(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
                copies[key].copy_(tensor.detach(), non_blocking=True)
            return copies[key]

        found = {group: {name: copied(tensor) for name, tensor in members.items()} for group, members in groups.items()}
        if self._pinned:
            # In the same queue as training, so that no later step changes what is copied. Blocking: the thread that
            # waits must not keep a core busy.
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._copied.record()
        return found

    def wait(self) -> None:
        """Until the copies have their values; any thread may call it."""
        if self._copied is not None:
            self._copied.synchronize()
