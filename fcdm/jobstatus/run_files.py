"""What the files of a run say of its life: how far it is, what is evaluated, how its last process ended. Cheap to read.

`fcdm.runs.reader` reads everything, for figures; this reads the end of the records and what processes leave behind,
so that a thousand runs take a second. Damaged files are reported where they matter, never raised.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcdm.atomic import read_json_if_whole
from fcdm.config.schema import NEVER, Config, DataConfig, EvaluationConfig, ModelConfig
from fcdm.errors import UserError
from fcdm.features.distance_names import headline_name, shown_of, value_text
from fcdm.jobs.job import end_file
from fcdm.jobs.progress import EVALUATION_PROGRESS_FILE, PROGRESS_FILE, JobProgress, read_progress
from fcdm.runs.divergence import diverged_text
from fcdm.runs.formats import Evaluation, read_evaluation
from fcdm.runs.lock_files import Claim, claim_path, highest, read_claim
from fcdm.runs.protocol import TRAINED_ONLY, protocol_id, protocol_of
from fcdm.runs.run_lock import HolderInfo, current_holder
from fcdm.runs.run_paths import evaluation_files, run_facts, step_of

Key = tuple[int, str]
"""(budget, protocol id); TRAINED_ONLY in its place where the budget is trained alone."""
TAIL_BYTES = 32_768
ROOM_BYTES = 100_000
"""A disk with less is full."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, as far as a table shows it."""

    fid: float | None
    """None: too few samples for a Fréchet distance."""
    distance: str
    """What is shown of it, by its name: `FID 12.34`, `KDD 0.00123`."""
    seconds: float | None
    loss: float | None = None
    """Held-out."""
    remark: str = ""
    """That it has diverged, if so."""


@dataclass(frozen=True)
class Tail:
    """The end of records.jsonl."""

    step: int = 0
    time: float | None = None
    """Unix time of the last record."""
    images_per_s: float | None = None
    """Mean over the last records of training."""
    segment: Mapping[str, Any] = field(default_factory=dict)
    """The last line about a segment, if it stands among the last ones."""


@dataclass(frozen=True)
class JobNotes:
    """What stands beside a job file."""

    path: Path
    parts: tuple[tuple[str | None, frozenset[int]], ...] = ()
    """(protocol id, budgets) of each part; None: made by a version that evaluates in another way."""
    error: Mapping[str, Any] | None = None
    stopped: Mapping[str, Any] | None = None
    requeues: tuple[Mapping[str, Any], ...] = ()
    submitted: float = 0.0
    """Unix time of its last submission to SLURM; of the job file itself for a local one."""
    studies: frozenset[str] = frozenset()
    """Those that it was submitted for."""


@dataclass(frozen=True)
class RunFiles:
    """One run. What a run that is evaluated throughout has no need of is left empty."""

    folder: Path
    batch_size: int | None = None
    step_flops: float | None = None
    """Of training; None: the folder does not say."""
    evaluated: Mapping[Key, Evaluated] = field(default_factory=dict)
    damaged: Mapping[Key, Path] = field(default_factory=dict)
    """Evaluations that cannot be read."""
    checkpoints: frozenset[int] = frozenset()
    tail: Tail = Tail()
    training: JobProgress | None = None
    evaluation: JobProgress | None = None
    """Of a job that only evaluates."""
    holder: HolderInfo | None = None
    """Who holds the run, dead or alive."""
    claim: Claim | None = None
    """The last claim, given up or not."""
    log: str | None = None
    """Where its processes printed, if they did into a file."""
    disk_full: bool = False
    """There is no room for another file now."""
    jobs: Mapping[Path, JobNotes] = field(default_factory=dict)
    local: JobNotes | None = None
    """The newest job file that never went to SLURM."""

    @property
    def newest(self) -> int:
        """Step of the last checkpoint; 0: there is none."""
        return max(self.checkpoints, default=0)

    def is_done(self, key: Key) -> bool:
        """Whether it is evaluated; where it is to be trained alone: whether a checkpoint at it or beyond is there."""
        return key[0] <= self.newest if key[1] == TRAINED_ONLY else key in self.evaluated


class FileReader:
    """Reads runs again and again; what cannot change (an evaluation) is read once."""

    def __init__(self) -> None:
        self._evaluated: dict[str, Evaluated] = {}
        self._facts: dict[Path, Mapping[str, Any]] = {}

    def facts(self, folder: Path) -> Mapping[str, Any]:
        """What run.json says; read once where it is whole."""
        if folder not in self._facts:
            facts = run_facts(folder)
            if "cost" not in facts:
                return facts  # it may be made in a moment
            self._facts[folder] = facts
        return self._facts[folder]

    def step_flops(self, folder: Path) -> float | None:
        """FLOPs of a step of the run's training."""
        try:
            return float(self.facts(folder)["cost"]["train_flops_per_step"])
        except (KeyError, TypeError, ValueError):
            return None

    def evaluated(self, folder: Path) -> tuple[dict[Key, Evaluated], dict[Key, Path]]:
        """The evaluations that stand, and the files of those that are damaged."""
        good: dict[Key, Evaluated] = {}
        damaged: dict[Key, Path] = {}
        for step, protocol, path in evaluation_files(folder / "evaluations"):
            key = (step, protocol)
            if str(path) not in self._evaluated:
                try:
                    self._evaluated[str(path)] = _evaluated(read_evaluation(path))
                except FileNotFoundError:
                    continue
                except (UserError, KeyError, OSError):
                    damaged[key] = path
                    continue
            good[key] = self._evaluated[str(path)]
        losses: dict[str, dict[int, float]] = {}
        for (step, protocol), one in good.items():
            if one.loss is not None:
                losses.setdefault(protocol, {})[step] = one.loss
        lost = {key: said for key in good if (said := diverged_text(key[0], losses.get(key[1], {})))}
        return good | {key: replace(good[key], remark=said) for key, said in lost.items()}, damaged

    def is_done(self, folder: Path, asked: Collection[Key]) -> bool:
        """Whether nothing is left of what is asked of the run."""
        return all(map(self._done(folder, asked).is_done, asked))

    def _done(self, folder: Path, asked: Collection[Key]) -> RunFiles:
        """What tells whether that is done, read alone."""
        good, damaged = self.evaluated(folder)
        alone = any(protocol == TRAINED_ONLY for _, protocol in asked)
        return RunFiles(
            folder,
            step_flops=self.step_flops(folder),
            evaluated=good,
            damaged=damaged,
            checkpoints=_checkpoints(folder) if alone else frozenset(),
        )

    def run(
        self,
        folder: Path,
        asked: Collection[Key],
        job_files: Collection[Path] = (),
        alive: Callable[[str], bool | None] = lambda job: None,
    ) -> RunFiles:
        """Everything about one run; only what says so where all that is `asked` is done.

        `job_files`: those that went to SLURM. `alive` says of a SLURM job whether it runs (None: cannot tell).
        """
        done = self._done(folder, asked)
        if all(map(done.is_done, asked)):
            return done
        holder, claim = _holder(folder, alive)
        submitted = {path.name for path in job_files}
        local = [name for name in _names(folder / "jobs") if re.fullmatch(r"\d+\.json", name) and name not in submitted]
        size = self.facts(folder).get("batch_size")
        return replace(
            done,
            batch_size=size if isinstance(size, int) else None,
            checkpoints=_checkpoints(folder),
            tail=read_tail(folder / "records.jsonl"),
            training=read_progress(folder / PROGRESS_FILE),
            evaluation=read_progress(folder / EVALUATION_PROGRESS_FILE),
            holder=holder,
            claim=claim,
            log=str(folder / "log.txt") if (folder / "log.txt").exists() else None,
            disk_full=_is_full(folder),
            jobs={path: job_notes(path) for path in job_files},
            local=job_notes(folder / "jobs" / max(local, key=_number)) if local else None,
        )


def _checkpoints(folder: Path) -> frozenset[int]:
    return frozenset(step for name in _names(folder / "checkpoints") if (step := step_of(name)) is not None)


def _evaluated(read: Evaluation) -> Evaluated:
    """Raises KeyError for one without any distance, which is damaged, but of losses alone."""
    loss = read.metrics.get("heldout_loss")
    if read.protocol.get("samples") == 0:
        return Evaluated(None, f"loss {read.metrics['heldout_loss']:.4f}", read.seconds, loss)
    shown = shown_of(read.metrics)
    if shown is None:
        raise KeyError("fid")
    name = headline_name(shown, read.protocol)
    return Evaluated(read.metrics.get("fid"), f"{name} {value_text(shown, read.metrics[shown])}", read.seconds, loss)


def read_tail(path: Path) -> Tail:
    """The end of a records.jsonl; whatever is torn or damaged there is passed over."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return Tail()
    step = 0
    time: float | None = None
    segment: dict[str, Any] = {}
    speeds: list[float] = []
    for line in reversed(lines[1 if start else 0 : -1]):  # behind the last newline: nothing, or a torn line
        try:
            fields = json.loads(line)
            at, when = int(fields["step"]), float(fields["time"])
        except (ValueError, TypeError, KeyError):
            continue
        if time is None:
            time = when
        step = max(step, at)
        if "segment" in fields:
            segment = segment or fields
            if fields["segment"] == "start" and speeds:
                break  # the speed before it may be another machine's
        elif isinstance(fields.get("images_per_s"), int | float):
            speeds.append(float(fields["images_per_s"]))
        if len(speeds) >= 10 and segment:
            break
    recent = speeds[:10]
    return Tail(step, time, sum(recent) / len(recent) if recent else None, segment)


def _holder(folder: Path, alive: Callable[[str], bool | None]) -> tuple[HolderInfo | None, Claim | None]:
    try:
        holder = current_holder(folder, alive)
        if holder is not None:
            return holder, holder.claim
        number = highest(folder / "holders")
        return None, read_claim(claim_path(folder / "holders", number)) if number else None
    except (OSError, UserError):
        return None, None


def job_notes(path: Path) -> JobNotes:
    """What stands beside this job file, and what it asks for; nothing where the run was deleted."""
    requeues = _content(path.with_suffix(".requeues.json"))
    parts = read_json_if_whole(path).get("parts") or []
    submitted = _mtime(path.with_suffix(".slurm.json")) or _mtime(path) or 0.0
    return JobNotes(
        path,
        parts=_parts(parts),
        error=read_json_if_whole(end_file(path, "error")) or None,
        stopped=read_json_if_whole(end_file(path, "stopped")) or None,
        requeues=tuple(item for item in requeues if isinstance(item, dict)) if isinstance(requeues, list) else (),
        submitted=submitted,
        studies=frozenset(str(part["study"]) for part in parts if isinstance(part, dict) and part.get("study")),
    )


def _parts(parts: list[Any]) -> tuple[tuple[str | None, frozenset[int]], ...]:
    found = []
    for part in parts:
        try:
            budgets = frozenset(int(step) for step in part["steps"])
        except (KeyError, TypeError, ValueError):
            continue
        found.append((protocol_of_part(part), budgets))
    return tuple(found)


def protocol_of_part(part: dict[str, Any]) -> str | None:
    """The protocol id of a frozen part. Not checked by OmegaConf, which would take most of the time."""
    try:
        if part["evaluation"].get("where") == NEVER:
            return TRAINED_ONLY
        config = Config(
            model=ModelConfig("", ""),
            data=DataConfig(**part["data"]),
            resolution=part["resolution"],
            batch_size=part["batch_size"],
            precision=part["precision"],
            evaluation=EvaluationConfig(**part["evaluation"]),
        )
        return protocol_id(protocol_of(config))
    except (KeyError, TypeError, ValueError, AttributeError, UserError, OSError):
        return None


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < ROOM_BYTES
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names alone, in half the time
    except OSError:
        return []


def _number(name: str) -> int:
    return int(name.split(".")[0])


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
