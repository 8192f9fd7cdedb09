"""How the engine tells what it is doing; who shows it (a terminal, a file) is none of its business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Calls are cheap and may come at every step; the implementation decides how often to show anything."""

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        """`step` of `last` steps is done; loss and speed are those of the last record."""

    def sampling(self, step: int, done: int, samples: int) -> None:
        """`done` of `samples` samples are drawn to judge the checkpoint of `step`."""

    def judged(self, step: int, metrics: dict[str, float], floor: dict[str, float]) -> None:
        """The checkpoint of `step` has its metrics; `floor` is what real images score."""

    def note(self, text: str) -> None:
        """Something a person should read."""
