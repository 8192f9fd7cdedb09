"""Jobs: what one process is asked to do. One job a run, since only one process may write in a run's folder."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fcdm.atomic import write_json
from fcdm.config.check import budgets, config_from
from fcdm.config.schema import Config, CustomConfig
from fcdm.errors import UserError
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run, find_run, open_run
from fcdm.runs.identity import readable_name
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.run_cost import train_flops
from fcdm.runs.user_models import news_of_source

EVALUATE = "judge"
"""Work of a job that only evaluates; the word is that of job files since version 0.1."""


@dataclass
class Job:
    """A run and what is asked of it: `parts` share the run's id and differ in protocol or runtime choices."""

    id: str
    parts: list[Config]
    work: str = "all"
    """`all`: train, and evaluate at each budget; `train`; EVALUATE: what has a checkpoint."""

    @property
    def config(self) -> Config:
        return self.parts[0]

    @property
    def name(self) -> str:
        return f"{readable_name(self.config)}-{self.id[:8]}"

    @property
    def budgets(self) -> list[int]:
        return sorted({step for part in self.parts for step in budgets(part.steps)})

    @property
    def flops(self) -> float:
        """Training FLOPs to the last budget: which job is the longest."""
        return train_flops(self.config, self.budgets[-1])

    @property
    def folder_name(self) -> str:
        """The name of the run's folder, made already or not."""
        found = find_run(Path(self.config.runs_dir), self.id)
        return found.name if found else self.name

    def open(self) -> Run:
        """The run's folder, made where it is not there. Says so where a user's own model made it a new run."""
        model = self.config.model
        new = isinstance(model, CustomConfig) and find_run(Path(self.config.runs_dir), self.id) is None
        run = open_run(self.config)
        if new and isinstance(model, CustomConfig) and (news := news_of_source(model, run.folder)):
            print(f"note: {news}", file=sys.stderr)
        return run

    def missing(self, run: Run) -> list[int]:
        """Budgets that some part still wants evaluated."""
        wanted = set()
        for part in self.parts:
            protocol = protocol_id(protocol_of(part))
            wanted |= {step for step in budgets(part.steps) if not _stands(run.evaluation(step, protocol))}
        return sorted(wanted)

    def untrained(self, run: Run) -> list[int]:
        """Budgets that training has still to reach: not evaluated, and without a checkpoint."""
        kept = dict(checkpoints(run.checkpoints))
        return [step for step in self.missing(run) if step not in kept]

    def left(self, run: Run) -> list[int]:
        """Budgets for which this job has something to do."""
        if self.work == "train":
            return self.untrained(run)
        if self.work == EVALUATE:
            untrained = self.untrained(run)
            return [step for step in self.missing(run) if step not in untrained]
        return self.missing(run)

    def refuse_lost_budgets(self, run: Run) -> None:
        """Raise UserError for budgets that training has passed, that are not evaluated and have no checkpoint."""
        kept = [step for step, _ in checkpoints(run.checkpoints)]
        trained = max(kept, default=0)
        lost = [step for step in self.missing(run) if step <= trained and step not in kept]
        if lost:
            raise UserError(
                f"steps={lost[0]} cannot be evaluated any more: the run is trained to {trained} and no checkpoint of "
                f"step {lost[0]} is kept (kept: {', '.join(map(str, kept))}). Ask for one of these or for more steps; "
                "another seed= is a new run"
            )

    def freeze(self, run: Run) -> Path:
        """Write the job down in the run's folder: the process that does it is given this file and nothing else."""
        jobs = run.folder / "jobs"
        jobs.mkdir(exist_ok=True)
        path = jobs / f"{time.time_ns()}.json"
        parts = [dataclasses.asdict(part) for part in self.parts]
        write_json(path, {"id": self.id, "work": self.work, "parts": parts})
        return path

    @classmethod
    def load(cls, path: Path) -> Job:
        """The job of a frozen file. Raises UserError."""
        try:
            content = json.loads(path.read_text())
            return cls(content["id"], [config_from(part) for part in content["parts"]], content.get("work", "all"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no job file ({type(error).__name__}): launchers write these") from None


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
