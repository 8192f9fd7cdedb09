"""A bar over images: for commands that read, make or evaluate many of them."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fcdm.formatting import duration_text, printable


class TerminalBar:
    """A live bar with images/s and the time left; in a pipe, a line now and then."""

    EVERY = 20.0
    """Seconds between lines."""
    MEASURE = 5.0
    """Seconds of work before its duration is told."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.console = Console(file=sys.stdout)
        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("images {task.fields[speed]}"))
        self.bars = Progress(*columns, TimeRemainingColumn(), console=self.console)
        self.task: TaskID | None = None
        self.total = self.before = 0
        self.began = self.line_at = 0.0
        self.estimated = False

    def __enter__(self) -> TerminalBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def note(self, text: str) -> None:
        self.console.print(printable(text), highlight=False, soft_wrap=True, markup=False)

    def warn(self, text: str) -> None:
        if self.task is not None and self.console.is_terminal:
            self.note(text)  # above the bar
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, images: int, done: int) -> None:
        self.total, self.before = images, done
        self.began = self.line_at = time.monotonic()
        self.task = self.bars.add_task("", total=images, completed=done, speed="")
        if self.console.is_terminal:
            self.bars.start()

    def update(self, done: int) -> None:
        now = time.monotonic()
        new, seconds = done - self.before, now - self.began
        if self.task is None or new <= 0 or seconds <= 0:
            return
        speed = new / seconds
        self.bars.update(self.task, completed=done, speed=f"{speed:,.1f}/s")
        left = (self.total - done) / speed
        if not self.estimated and seconds > self.MEASURE and done < self.total:
            # The other processes' images are counted by the shard, so at first only this one's are seen.
            all_of_them = speed * self.processes
            self.estimated = True
            rest = duration_text((self.total - done) / all_of_them)
            self.note(f"measured on {new:,} images: {all_of_them:,.1f} images/s, about {rest} to go")
        if not self.console.is_terminal and (now - self.line_at > self.EVERY and done < self.total):
            self.line_at = now
            self.note(f"{done:,} of {self.total:,} images, {speed:,.1f}/s, {duration_text(left)} left")


class BarProgress:
    """A bar as the engine's Progress: of one evaluation's samples."""

    def __init__(self, processes: int, quiet: bool = False) -> None:
        self.bar, self.quiet, self.started = TerminalBar(processes), quiet, False

    def __enter__(self) -> BarProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.__exit__(kind, error, trace)

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        """Nothing trains here."""

    def sampling(self, step: int, done: int, samples: int) -> None:
        if self.quiet:
            return
        if not self.started:
            self.bar.start(samples, min(done, samples))
            self.started = True
        self.bar.update(done)

    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float], features: str) -> None:
        """The command shows them."""

    def note(self, text: str) -> None:
        if not self.quiet:
            self.bar.warn(text)
