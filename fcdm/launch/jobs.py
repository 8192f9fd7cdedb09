"""Jobs: what one process is asked to do. One job a run, since only one process may write in a run's folder."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.config.check import budgets, config_from
from fcdm.config.schema import Config, CustomConfig
from fcdm.data.dataset import data_checksum
from fcdm.errors import UserError
from fcdm.launch.averages import agree_on_averages, with_snapshots
from fcdm.launch.sources import resolved_sources
from fcdm.runs.atomic import write_json
from fcdm.runs.costs import train_flops
from fcdm.runs.custom import check_models, news_of_source, with_source
from fcdm.runs.folder import Run, find_run, open_run
from fcdm.runs.identity import readable_name, run_id, science
from fcdm.runs.locks import locked
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.question import question_of
from fcdm.runs.revision import code_revision


@dataclass
class Job:
    """A run and what is asked of it: `parts` share the run's id and differ in protocol or runtime choices."""

    id: str
    parts: list[Config]
    work: str = "all"
    """`all`: train, and judge at each budget; `train`; `judge`: what has a checkpoint."""

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
        """Budgets that some part still wants judged."""
        wanted = set()
        for part in self.parts:
            protocol = protocol_id(protocol_of(part))
            wanted |= {step for step in budgets(part.steps) if not _stands(run.evaluation(step, protocol))}
        return sorted(wanted)

    def untrained(self, run: Run) -> list[int]:
        """Budgets that training has still to reach: not judged, and without a checkpoint."""
        kept = {path.name for path in run.checkpoints.glob("step-*")}
        return [step for step in self.missing(run) if f"step-{step:08d}" not in kept]

    def left(self, run: Run) -> list[int]:
        """Budgets for which this job has something to do."""
        if self.work == "train":
            return self.untrained(run)
        if self.work == "judge":
            untrained = self.untrained(run)
            return [step for step in self.missing(run) if step not in untrained]
        return self.missing(run)

    def refuse_lost_budgets(self, run: Run) -> None:
        """Raise UserError for budgets that training has passed, that are not judged and have no checkpoint."""
        kept = sorted(int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*"))
        trained = max(kept, default=0)
        lost = [step for step in self.missing(run) if step <= trained and step not in kept]
        if lost:
            raise UserError(
                f"steps={lost[0]} cannot be judged any more: the run is trained to {trained} and no checkpoint of "
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


NOT_HERE = "not-here:"
"""And the data's path: stands for the checksum of data that is not on this machine. Only a plan is made of it."""


def data_is_here(config: Config) -> bool:
    """Whether the data's checksum is its own, so that the run's id is the run's."""
    return not (config.data.checksum or "").startswith(NOT_HERE)


def make_jobs(configs: Iterable[Config], data_needed: bool = True) -> list[Job]:
    """Join what is asked into jobs: one per run, budgets joined. Users' own models are tried (`fcdm.runs.custom`).

    Raises UserError for a model that does not run, and for data that is not there; with `data_needed=False` its
    checksum is `NOT_HERE` and its path.
    """
    configs = [with_own_source(config) for config in configs]
    check_models(configs)
    jobs: dict[str, Job] = {}
    folders: set[str] = set()
    for config in configs:
        checksum = _checksum(config, data_needed)
        whole = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, checksum=checksum),
            steps=budgets(config.steps),
            grids=[],
            studies=[],
        )
        whole = resolved_sources(whole, data_is_here(whole))
        identity = run_id(science(whole))
        job = jobs.setdefault(identity, Job(identity, []))
        folders.add(whole.runs_dir)
        same = [part for part in job.parts if dataclasses.replace(part, steps=whole.steps) == whole]
        if same:
            same[0].steps = budgets([*same[0].steps, *whole.steps])
        else:
            job.parts.append(whole)
    if len(folders) > 1:
        raise UserError(f"runs_dir={','.join(sorted(folders))} cannot be swept: one command has one folder of runs")
    for job in jobs.values():
        if len(job.parts) > 1:  # else one part would train past another's budgets
            for part in job.parts:
                part.keep_steps = job.budgets
        agree_on_averages(job.parts)
        with_snapshots(job.parts, job.id)
    return list(jobs.values())


def with_own_source(config: Config) -> Config:
    """The configuration with the hash of the model's source, where the model is the user's own."""
    if not isinstance(config.model, CustomConfig):
        return config
    return dataclasses.replace(config, model=with_source(config.model))


def _checksum(config: Config, data_needed: bool) -> str:
    try:
        return data_checksum(config.data, config.resolution)
    except UserError:
        # All other data is bundled: what is wrong with it is not that it is elsewhere.
        if data_needed or config.data.name != "imagenet":
            raise
        return config.data.checksum or f"{NOT_HERE}{config.data.path}"


def record_study(jobs: list[Job], command: list[str]) -> None:
    """Add these requests to `runs/studies/<study>.json`: which runs and budgets serve which study."""
    for study in sorted({part.study for job in jobs for part in job.parts}):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", study):
            raise UserError(f"study={study!r} is no name for a file: letters, digits, dots, - and _ only")
        asked = [(job, part) for job in jobs for part in job.parts if part.study == study]
        _add_to_study(Path(asked[0][1].runs_dir) / "studies" / f"{study}.json", study, asked, command)


def this_command() -> list[str]:
    """The command line as a person typed it, near enough to repeat it."""
    module = sys.modules.get("__main__")
    spec = getattr(module, "__spec__", None)
    return ["python", "-m", spec.name, *sys.argv[1:]] if spec else sys.argv


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


def _add_to_study(path: Path, study: str, asked: list[tuple[Job, Config]], command: list[str]) -> None:
    with locked(path.with_suffix(".lock")):
        known: dict[str, Any] = {"name": study, "created": time.time(), "commands": [], "requests": []}
        try:
            if path.exists():
                known.update(json.loads(path.read_text()))
            requests = {(item["run"], item["protocol_id"]): item for item in known["requests"]}
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path} is no study any more: remove it, and it is made again") from None
        protocol = protocol_of(asked[0][1])
        for job, part in asked:
            key = (job.folder_name, protocol_id(protocol_of(part)))
            before = requests.get(key, {"budgets": []})["budgets"]
            requests[key] = {
                "run": key[0],
                "id": job.id,
                "protocol_id": key[1],
                "budgets": budgets([*before, *part.steps]),
            }
        text = shlex.join(command)
        known["commands"] = [*(line for line in known["commands"] if line != text), text]
        known |= {
            "updated": time.time(),
            "revision": code_revision(),
            "command": command,
            "question": question_of(command, study) or known.get("question", ""),
            "protocol_id": protocol_id(protocol),
            "protocol": protocol,
            "requests": list(requests.values()),
        }
        write_json(path, known)
