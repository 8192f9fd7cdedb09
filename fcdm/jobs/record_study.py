"""Writes down which runs and budgets serve which study, and the command that asked."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, write_json
from fcdm.config.check import budgets
from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.runs.revision import code_revision
from fcdm.runs.study_description import question_of


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
