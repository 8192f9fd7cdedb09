"""How far a job is: a bar in a terminal, lines elsewhere, or a file of fields for its launcher and `fcdm.status`.

Whoever shows the fields makes the texts, by the same properties.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fcdm.atomic import plain
from fcdm.features.distance_names import distance_name, shown_of, value_text

PROGRESS_FILE = "progress.json"
EVALUATION_PROGRESS_FILE = "progress-judge.json"
"""Of a job that only evaluates: training may write the other at the same time."""
HELD = 3
"""Exit code of a job's process that found its run held by another."""
STARTING, TRAINING, EVALUATING = "starting", "training", "evaluating"


@dataclass(frozen=True)
class JobProgress:
    """What a job last said of itself."""

    phase: str = STARTING
    step: int = 0
    """Of training; while a checkpoint is evaluated, the checkpoint's."""
    last: int = 0
    """Step at which training ends."""
    loss: float | None = None
    images_per_s: float | None = None
    """As of the last record; None before the first one."""
    samples: int = 0
    samples_wanted: int = 0
    """Drawn, and to be drawn, for the evaluation under way."""
    evaluated: dict[str, Any] | None = None
    """Step, metrics, floor and features of the last evaluation."""
    time: float = 0.0
    """Unix time at which its file was written."""

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> JobProgress:
        if loss is None:  # nothing new: one job may train in several stretches
            loss, images_per_s = self.loss, self.images_per_s
        return replace(self, phase=TRAINING, step=step, last=last, loss=loss, images_per_s=images_per_s)

    def sampling(self, step: int, done: int, samples: int) -> JobProgress:
        return replace(self, phase=EVALUATING, step=step, samples=done, samples_wanted=samples)

    @property
    def evaluating(self) -> bool:
        return self.phase == EVALUATING

    @property
    def samples_text(self) -> str:
        drawn = self.samples < self.samples_wanted
        return f"{self.samples}/{self.samples_wanted} samples" if drawn else "held-out loss, features and distances"

    @property
    def text(self) -> str:
        """What it does, in a few words."""
        if self.evaluating:
            return f"evaluating step {self.step}: {self.samples_text}"
        if self.loss is None or self.images_per_s is None:
            return self.phase
        return f"loss {self.loss:.4f}, {self.images_per_s:.0f} images/s"

    @property
    def evaluated_text(self) -> str:
        """The last evaluation, "" before the first one."""
        return metrics_text(**self.evaluated) if self.evaluated else ""


def read_progress(path: Path) -> JobProgress | None:
    """What a job's file says; None without one. A file of an earlier version says the step alone."""
    try:
        content = json.loads(path.read_bytes())
        loss, images_per_s, evaluated = (content.get(key) for key in ("loss", "images_per_s", "evaluated"))
        return JobProgress(
            phase=str(content.get("phase", TRAINING)),
            step=int(content["step"]),
            last=int(content.get("last", 0)),
            loss=None if loss is None else float(loss),
            images_per_s=None if images_per_s is None else float(images_per_s),
            samples=int(content.get("samples", 0)),
            samples_wanted=int(content.get("samples_wanted", 0)),
            evaluated=evaluated if isinstance(evaluated, dict) else None,
            time=path.stat().st_mtime,
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


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


def metrics_text(step: int, metrics: dict[str, float], floor: dict[str, float], features: str = "") -> str:
    """One line: the distance, by its name in these features, with what real images score, and the held-out loss."""
    # float: JSON has no NaN, so a file says "NaN".
    parts = []
    if (shown := shown_of(metrics)) is not None:
        text = f"{distance_name(shown, features)} {value_text(shown, float(metrics[shown]))}"
        if shown == "kid" and "kid_se" in metrics:
            text += f" ± {value_text(shown, float(metrics['kid_se']))}"
        parts.append(text + (f" (real images {value_text(shown, float(floor[shown]))})" if shown in floor else ""))
    if "heldout_loss" in metrics:
        parts.append(f"held-out loss {float(metrics['heldout_loss']):.4f}")
    return f"step {step}: {', '.join(parts)}"


class TerminalProgress:
    """One job in this process: a live bar in a terminal, a line at each evaluation elsewhere."""

    def __init__(self, name: str, last: int, quiet: bool = False) -> None:
        self.name, self.quiet = name, quiet
        self.console = Console(file=sys.stdout)
        self.bars = bars(self.console)
        self.task = self.bars.add_task("", total=last, name=name, doing="")
        self.state = JobProgress()

    def __enter__(self) -> TerminalProgress:
        if self.console.is_terminal and not self.quiet:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        self.state = self.state.training(step, last, loss, images_per_s)
        self.bars.update(self.task, completed=step, total=last, doing=self.state.text)

    def sampling(self, step: int, done: int, samples: int) -> None:
        self.state = self.state.sampling(step, done, samples)
        self.bars.update(self.task, completed=step, doing=self.state.text)

    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float], features: str) -> None:
        self._say(f"{self.name}: {metrics_text(step, metrics, floor, features)}")

    def note(self, text: str) -> None:
        self._say(f"{self.name}: {text}")

    def _say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)


class FileProgress:
    """Writes the job's state to `progress.json` in the run's folder, at most twice a second; prints to the log."""

    def __init__(self, folder: Path, name: str = PROGRESS_FILE) -> None:
        self.path = folder / name
        self.state = JobProgress()
        self._written_at = 0.0

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        self.state = self.state.training(step, last, loss, images_per_s)
        self._write(now=step == last)

    def sampling(self, step: int, done: int, samples: int) -> None:
        self.state = self.state.sampling(step, done, samples)
        self._write(now=True)

    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float], features: str) -> None:
        said = {"step": step, "metrics": metrics, "floor": floor, "features": features}
        self.state = replace(self.state, evaluated=said)
        print(self.state.evaluated_text, flush=True)
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
            temporary.write_text(json.dumps(plain(asdict(self.state))))
            temporary.replace(self.path)
        except OSError:
            pass
