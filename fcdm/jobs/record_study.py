"""Writes down which runs and budgets serve which study, and the command that asked."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, write_json
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.redact import redacted, redacted_words
from fcdm.runs.protocol import Part
from fcdm.runs.revision import code_revision
from fcdm.runs.study_description import question_of


def record_study(jobs: list[Job], command: list[str]) -> None:
    """Add these requests to `runs/studies/<study>.json`: which runs and budgets serve which study."""
    parts = [(job, part) for job in jobs for part in job.parts]
    for study in sorted({part.config.study for _, part in parts}):
        asked = [(job, part) for job, part in parts if part.config.study == study]
        _add_to_study(jobs[0].folder.parent / "studies" / f"{study}.json", study, asked, command)


def this_command() -> list[str]:
    """The command line as a person typed it, near enough to repeat it, and without secrets."""
    module = sys.modules.get("__main__")
    spec = getattr(module, "__spec__", None)
    return redacted_words(["python", "-m", spec.name, *sys.argv[1:]] if spec else sys.argv)


def _add_to_study(path: Path, study: str, asked: list[tuple[Job, Part]], command: list[str]) -> None:
    with locked(path.with_suffix(".lock")):
        known: dict[str, Any] = {"name": study, "created": time.time(), "commands": [], "requests": []}
        try:
            if path.exists():
                known.update(json.loads(path.read_text()))
            requests = {(item["run"], item["protocol_id"]): item for item in known["requests"]}
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path} is no study any more: remove it, and it is made again") from None
        for job, part in asked:
            key = (job.name, part.protocol_id)
            before = requests.get(key, {"budgets": []})["budgets"]
            budgets = sorted({*before, *part.budgets})
            requests[key] = {"run": job.name, "id": job.id, "protocol_id": part.protocol_id, "budgets": budgets}
        text = shlex.join(command)
        # Redacted again: a version before may have written them.
        before = [redacted(line) for line in known["commands"]]
        known["commands"] = [*(line for line in before if line != text), text]
        known |= {
            "updated": time.time(),
            "revision": code_revision(),
            "command": command,
            "question": question_of(command, study) or known.get("question", ""),
            "protocol_id": asked[0][1].protocol_id,
            "protocol": asked[0][1].protocol,
            "requests": list(requests.values()),
        }
        write_json(path, known)
