"""Counts operations: on a GPU each is a launch, which costs the host microseconds whatever it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FREE = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::lift_fresh", "aten::detach", "aten::alias")
"""Operations that compute nothing, besides views."""


class Launches(TorchDispatchMode):
    """Context manager: by name, the operations of this thread in which the device has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.by_name.total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.seen(func, args)
        return func(*args, **(kwargs or {}))

    def seen(self, func: Any, args: Sequence[Any]) -> None:
        name = func.name().split(".")[0]
        if not func.is_view and name not in FREE:
            self.by_name[name] += 1


class WeightCasts(Launches):
    """Counts only casts of these weights to another type."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.names = {id(weight): name for name, weight in weights.items()}

    def seen(self, func: Any, args: Sequence[Any]) -> None:
        if func.name().startswith("aten::_to_copy") and id(args[0]) in self.names:
            self.by_name[self.names[id(args[0])]] += 1
