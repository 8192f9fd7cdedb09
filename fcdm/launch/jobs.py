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
from fcdm.config.schema import Config
from fcdm.data.dataset import data_checksum
from fcdm.errors import UserError
from fcdm.runs.atomic import write_json
from fcdm.runs.costs import train_flops
from fcdm.runs.folder import Run, open_run
from fcdm.runs.identity import readable_name, run_id, science
from fcdm.runs.locks import locked
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.revision import code_revision


@dataclass
class Job:
    """A run and what is asked of it: `parts` share the run's id and differ in protocol or runtime choices."""

    id: str
    parts: list[Config]

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

    def open(self) -> Run:
        return open_run(self.config)

    def missing(self, run: Run) -> list[int]:
        """Budgets that some part still wants judged."""
        wanted = {
            step
            for part in self.parts
            for step in budgets(part.steps)
            if not run.evaluation(step, protocol_id(protocol_of(part))).exists()
        }
        return sorted(wanted)

    def freeze(self, run: Run) -> Path:
        """Write the job down in the run's folder: the process that does it is given this file and nothing else."""
        jobs = run.folder / "jobs"
        jobs.mkdir(exist_ok=True)
        path = jobs / f"{time.time_ns()}.json"
        write_json(path, {"id": self.id, "parts": [dataclasses.asdict(part) for part in self.parts]})
        return path

    @classmethod
    def load(cls, path: Path) -> Job:
        """The job of a frozen file. Raises UserError."""
        try:
            content = json.loads(path.read_text())
            return cls(content["id"], [config_from(part) for part in content["parts"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no job file ({type(error).__name__}): launchers write these") from None


def make_jobs(configs: Iterable[Config]) -> list[Job]:
    """Join what is asked into jobs: one per run, budgets joined. Raises UserError for data that is not there."""
    jobs: dict[str, Job] = {}
    for config in configs:
        checksum = data_checksum(config.data, config.resolution)
        whole = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, checksum=checksum),
            steps=budgets(config.steps),
            grids=[],
        )
        identity = run_id(science(whole))
        job = jobs.setdefault(identity, Job(identity, []))
        same = [part for part in job.parts if dataclasses.replace(part, steps=whole.steps) == whole]
        if same:
            same[0].steps = budgets([*same[0].steps, *whole.steps])
        else:
            job.parts.append(whole)
    return list(jobs.values())


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


def _add_to_study(path: Path, study: str, asked: list[tuple[Job, Config]], command: list[str]) -> None:
    with locked(path.with_suffix(".lock")):
        known: dict[str, Any] = {"name": study, "created": time.time(), "commands": [], "requests": []}
        if path.exists():
            try:
                known.update(json.loads(path.read_text()))
            except ValueError:
                raise UserError(f"{path} is no study any more: remove it, and it is made again") from None
        protocol = protocol_of(asked[0][1])
        requests = {(item["run"], item["protocol_id"]): item for item in known["requests"]}
        for job, part in asked:
            key = (job.open().name, protocol_id(protocol_of(part)))
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
            "protocol_id": protocol_id(protocol),
            "protocol": protocol,
            "requests": list(requests.values()),
        }
        write_json(path, known)
