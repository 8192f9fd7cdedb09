"""One process at work on a job: which rank it is, whom it tells, what stops it, and how it shows that it lives."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from fcdm.engine.distributed import Ranks
from fcdm.engine.stop import Interrupted, Stopped, StopSignal
from fcdm.runs.run_lock import RunHeld, claim, current_holder

LOOK_AGAIN = 2.0
"""Seconds between looks at what another process makes."""


class Progress(Protocol):
    """Calls are cheap and may come at every step; the implementation decides how often to show anything."""

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        """`step` of `last` steps is done; loss and speed are those of the last record."""

    def sampling(self, step: int, done: int, samples: int) -> None:
        """`done` of `samples` samples are drawn to evaluate the checkpoint of `step`."""

    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float], features: str) -> None:
        """The checkpoint of `step` has its metrics in a space of features; `floor` is what real images score."""

    def note(self, text: str) -> None:
        """Something a person should read."""


def _nothing() -> None: ...


@dataclass(frozen=True)
class Worker:
    """What every long loop needs besides its own work; ranks act together wherever one of its methods says so."""

    ranks: Ranks
    progress: Progress
    stop: StopSignal = field(default_factory=StopSignal)
    beat: Callable[[], None] = _nothing
    """Called often: keeps the claims' heartbeat going. Raises RunHeld where a claim was lost."""

    @contextlib.contextmanager
    def claiming(
        self,
        folders: Sequence[Path],
        is_done: Callable[[], bool],
        prepare: Callable[[], None] = _nothing,
        wait: bool = False,
    ) -> Iterator[Worker | None]:
        """The first rank claims the folders and prepares them; all ranks go on, with its heartbeat, or none does.

        Yields None where the work is done. That is asked before, so that no claim is left where there is nothing to
        do, and again under the claim, since another process may have finished in between. Raises the first rank's
        error there, and ends the others without a word. wait: until it is done, or nobody holds the (one) folder any
        more, where another process is at it; else that is RunHeld.
        """
        with contextlib.ExitStack() as stack:
            beats: list[Callable[[], None]] = []

            def done_after_claiming() -> bool | None:
                if is_done():
                    return True
                try:
                    beats.extend(stack.enter_context(claim(folder)).beat for folder in folders)
                except RunHeld:
                    if wait and all(_lives(folder) for folder in folders):
                        return None
                    raise
                prepare()
                return is_done()

            def beat() -> None:
                self.beat()
                for beat_claim in beats:
                    beat_claim()

            while (done := self.ranks.first_does(done_after_claiming)) is None:
                self.stop_together()
                self.beat()
                time.sleep(LOOK_AGAIN)
            yield None if done else replace(self, beat=beat)

    def rounds(self, batches: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int] | None]:
        """This rank's batch (from, to) of each round, in which every rank takes one; None where the last has none left.

        Whoever drops a batch goes on to the next round: Stopped is raised before each round and after the last, on all
        ranks alike, once a signal has come to any.
        """
        ranks = self.ranks
        for first in range(0, len(batches), ranks.world_size):
            self.stop_together()
            yield batches[first + ranks.rank] if first + ranks.rank < len(batches) else None
            self.beat()
        self.stop_together()

    def stop_together(self) -> None:
        """Raises Stopped on all ranks once a signal has come to any; all of them must ask."""
        # The highest: SIGTERM (15) comes before a user's signal.
        if signum := int(self.ranks.highest(self.stop.signum or 0)[0]):
            raise Stopped(signum)

    def interrupt(self) -> None:
        """Raises Interrupted once a signal has come to this rank; between the network calls of one batch, say."""
        if self.stop.signum is not None:
            raise Interrupted


def _lives(folder: Path) -> bool:
    """Whether the holder of the folder surely lives, or has just let go: then waiting has an end."""
    holder = current_holder(folder)
    return holder is None or holder.alive is not None


def in_batches(count: int, size: int) -> list[tuple[int, int]]:
    """(from, to) of batches of at most `size` of `count` items."""
    return [(first, min(first + size, count)) for first in range(0, count, size)]
