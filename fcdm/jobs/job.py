"""Jobs: what one process is asked to do. One job a run, since only one process may write in a run's folder."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fcdm.atomic import file_errors, write_json
from fcdm.config.check import config_from
from fcdm.config.ema_lag import lag_text, lag_warning, lags
from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.runs.branches import can_begin
from fcdm.runs.checkpoints import checkpoints, newest_step
from fcdm.runs.folder import Run, check_frozen, open_run
from fcdm.runs.identity import parent_id, science
from fcdm.runs.kept_source import news_of_source
from fcdm.runs.protocol import Part, budgets_of
from fcdm.runs.run_paths import RUN_FILE

EVALUATE = "judge"
"""Work of a job that only evaluates; the word is that of job files since version 0.1."""
BENCHMARK = "benchmark"
"""Work of a job that measures how fast its configuration runs."""


@dataclass(frozen=True)
class Job:
    """A run and what is asked of it: `parts` share the run's id and differ in protocol or runtime choices."""

    id: str
    folder: Path
    """The run's folder, made already or not."""
    parts: tuple[Part, ...]
    work: str = "all"
    """`all`: train, and evaluate at each budget; `train`; EVALUATE: what has a checkpoint; BENCHMARK."""

    @property
    def run(self) -> Run:
        return Run(self.folder, self.id)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def config(self) -> Config:
        return self.parts[0].config

    @cached_property
    def budgets(self) -> list[int]:
        return budgets_of(self.parts)

    @property
    def is_begun(self) -> bool:
        return (self.folder / RUN_FILE).exists()

    def open(self) -> Run:
        """The run's folder, made where it is not there. Prints a note where a user's changed code made it a new run.

        Raises UserError where it cannot be made, or holds a config that was edited by hand.
        """
        if self.is_begun:
            check_frozen(self.folder, science(self.config))
            return self.run
        run = open_run(self.config)
        if run.folder.name != self.name:
            raise UserError(f"another command has just begun this run as {run.folder}; the same command goes on")
        if news := news_of_source(self.config, run.folder):
            print(f"note: {news}", file=sys.stderr)
        return run

    @property
    def done_text(self) -> str:
        return f"budgets {', '.join(map(str, self.budgets))} are {self.done_words}"

    @property
    def done_words(self) -> str:
        return "trained and evaluated" if any(part.evaluates for part in self.parts) else "trained"

    @cached_property
    def parent_id(self) -> str | None:
        """The id of the run that this one branches from; None: it is no branch."""
        return parent_id(science(self.config))

    def can_begin(self, parent: Job) -> bool:
        """Whether this branch need not wait for the job that trains what it leaves; nor can it from what is damaged."""
        try:
            return can_begin(self.run, science(self.config), parent.run)
        except UserError:  # the parent's own job says what is the matter
            return False

    def missing(self) -> list[int]:
        """Budgets that some part still wants evaluated, or trained."""
        return sorted({step for part in self.parts for step in self.missing_of(part)})

    def missing_of(self, part: Part) -> list[int]:
        """Budgets that this part still wants evaluated, or trained. Raises UserError for a damaged evaluation."""
        if not part.evaluates:
            # What training has passed, keeping nothing there, is of no use any more: a branch begins earlier then.
            trained = newest_step(self.run.checkpoints)
            return [step for step in part.budgets if step > trained]
        return [step for step in part.budgets if not _stands(self.run.evaluation(step, part.protocol_id))]

    def lag_notes(self) -> list[str]:
        """How far behind the averages that are still to be evaluated are, for a person, before training begins."""
        evaluations = [(part.config, step) for part in self.parts if part.evaluates for step in self.missing_of(part)]
        found, warning = lags(evaluations), lag_warning(evaluations)
        told = [lag_text(self.config.ema, found)] if found else []
        return [*told, f"warning: {warning}"] if warning else told

    def untrained(self) -> list[int]:
        """Budgets that training has still to reach: not evaluated, and without a checkpoint."""
        kept = self._kept()
        return [step for step in self.missing() if step not in kept]

    def left(self) -> list[int]:
        """Budgets for which this job has something to do."""
        if self.work == "train":
            return self.untrained()
        kept = self._kept()
        return [step for step in self.missing() if self.work != EVALUATE or step in kept]

    def lost(self) -> list[int]:
        """Budgets that training has passed, that are not evaluated and have no checkpoint."""
        kept = self._kept()
        return [step for step in self.untrained() if step <= max(kept, default=0)]

    def refuse_lost_budgets(self) -> None:
        """Raise UserError where there are some."""
        if lost := self.lost():
            raise UserError(self.lost_text(lost[0]))

    def lost_text(self, step: int) -> str:
        kept = self._kept()
        return (
            f"steps={step} cannot be evaluated any more: the run is trained to {max(kept)} and no checkpoint of step "
            f"{step} is kept (kept: {', '.join(map(str, kept))}). Ask for one of these or for more steps; another "
            "seed= is a new run"
        )

    def _kept(self) -> list[int]:
        return [step for step, _ in checkpoints(self.run.checkpoints)]

    def freeze(self) -> Path:
        """Write the job down in the run's folder: the process that does it is given this file and nothing else."""
        jobs = self.folder / "jobs"
        jobs.mkdir(exist_ok=True)
        path = jobs / f"{time.time_ns()}.json"
        write_json(path, self._content())
        return path

    def _content(self) -> dict[str, Any]:
        parts = [dataclasses.asdict(part.config) for part in self.parts]
        return {"id": self.id, "work": self.work, "parts": parts}

    @staticmethod
    def load(path: Path) -> Job:
        """The job of a frozen file. Raises UserError."""
        try:
            content = json.loads(path.read_text())
            parts = tuple(Part(config_from(part)) for part in content["parts"])
            job = content["id"], path.parent.parent, parts, content.get("work", "all")
            if job[-1] == BENCHMARK:
                return BenchmarkJob(*job, content["seconds"], content["profile"])
            return Job(*job)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no job file ({type(error).__name__}): launchers write these") from None


@dataclass(frozen=True)
class BenchmarkJob(Job):
    """Measures how fast its configuration runs (`fcdm.speed`). Its folder holds no run, and it is never done for good:
    another device, or a newer torch, is another answer."""

    seconds: float = 180.0
    """It takes at most about so long."""
    profile: bool = False
    """Whether the profiler's trace is kept."""

    def open(self) -> Run:
        with file_errors(self.folder, "making the folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
        return self.run

    def missing(self) -> list[int]:
        return self.budgets

    def untrained(self) -> list[int]:
        return self.budgets

    def left(self) -> list[int]:
        return self.budgets

    def lost(self) -> list[int]:
        """It needs no checkpoint."""
        return []

    def _content(self) -> dict[str, Any]:
        return {**super()._content(), "seconds": self.seconds, "profile": self.profile}


def end_file(job_file: Path, kind: str) -> Path:
    """`<n>.error.json` or `<n>.stopped.json` beside a frozen job: how its last start ended, as its process left it."""
    return job_file.with_suffix(f".{kind}.json")


def _stands(path: Path) -> bool:
    """Whether an evaluation is there and whole. Raises UserError for a damaged one."""
    try:
        whole = isinstance(json.loads(path.read_text())["metrics"], dict)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise UserError(f"{path} is no evaluation any more: remove it, and it is made again")
    return True
