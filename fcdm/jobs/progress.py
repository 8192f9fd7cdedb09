"""What a person sees while a job runs: a bar in a terminal, lines elsewhere, or a file that a launcher reads."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PROGRESS_FILE = "progress.json"
EVALUATION_PROGRESS_FILE = "progress-judge.json"
"""Of a job that only evaluates: training may write the other at the same time."""
HELD = 3
"""Exit code of a job's process that found its run held by another."""


def bars(console: Console) -> Progress:
    """The bars of one or several jobs: name, bar, steps, what it does, time left."""
    return Progress(
        TextColumn("[bold]{task.fields[name]}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[doing]}"),
        TimeRemainingColumn(compact=True),
        console=console,
    )


def speed_text(loss: float | None, images_per_s: float | None) -> str:
    return f"loss {loss:.4f}, {images_per_s:.0f} images/s" if loss is not None and images_per_s is not None else ""


def evaluating_text(step: int, done: int, samples: int) -> str:
    return f"evaluating step {step}: " + (f"{done}/{samples} samples" if done < samples else "features and distances")


def metrics_text(step: int, metrics: dict[str, float], floor: dict[str, float]) -> str:
    """One line: the FID with what real images score beside it, and the held-out loss."""
    fid = f"FID {metrics['fid']:.2f}" + (f" (real images {floor['fid']:.2f})" if "fid" in floor else "")
    rest = f", held-out loss {metrics['heldout_loss']:.4f}" if "heldout_loss" in metrics else ""
    return f"step {step}: {fid}{rest}"


class TerminalProgress:
    """One job in this process: a live bar in a terminal, a line at each evaluation elsewhere."""

    def __init__(self, name: str, last: int, quiet: bool = False) -> None:
        self.name, self.quiet = name, quiet
        self.console = Console(file=sys.stdout)
        self.bars = bars(self.console)
        self.task = self.bars.add_task("", total=last, name=name, doing="")
        self.doing = ""

    def __enter__(self) -> TerminalProgress:
        if self.console.is_terminal and not self.quiet:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        self.doing = speed_text(loss, images_per_s) or self.doing or "training"
        self.bars.update(self.task, completed=step, total=last, doing=self.doing)

    def sampling(self, step: int, done: int, samples: int) -> None:
        self.bars.update(self.task, completed=step, doing=evaluating_text(step, done, samples))

    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float]) -> None:
        self._say(f"{self.name}: {metrics_text(step, metrics, floor)}")

    def note(self, text: str) -> None:
        self._say(f"{self.name}: {text}")

    def _say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)


class FileProgress:
    """Writes the job's state to `progress.json` in the run's folder, at most twice a second; prints to the log."""

    def __init__(self, folder: Path, name: str = PROGRESS_FILE) -> None:
        self.path = folder / name
        self.state: dict[str, Any] = {"doing": "starting", "step": 0}
        self.speed = "training"
        self._written_at = 0.0

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        self.state |= {"step": step, "last": last}
        self.speed = speed_text(loss, images_per_s) or self.speed
        self.state["doing"] = self.speed
        self._write(now=step == last)

    def sampling(self, step: int, done: int, samples: int) -> None:
        self.state |= {"step": step, "doing": evaluating_text(step, done, samples)}
        self._write(now=True)

    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float]) -> None:
        self.state["evaluated"] = metrics_text(step, metrics, floor)
        print(self.state["evaluated"], flush=True)
        self._write(now=True)

    def note(self, text: str) -> None:
        print(text, flush=True)

    def _write(self, now: bool) -> None:
        # For show only: not synced to the disk, and a full disk is for the records to complain about.
        if not now and time.monotonic() - self._written_at < 0.5:
            return
        self._written_at = time.monotonic()
        temporary = self.path.with_name(f".{self.path.name}")
        try:
            temporary.write_text(json.dumps(self.state))
            temporary.replace(self.path)
        except OSError:
            pass
