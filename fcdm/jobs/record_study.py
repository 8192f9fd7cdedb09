"""Writes down which runs and budgets serve which study, and the command that asked; and takes requests back."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, read_json, read_json_if_whole, remove_unfinished, write_atomic, write_json
from fcdm.errors import Unsure, UserError
from fcdm.jobs.job import Job
from fcdm.redact import redacted, redacted_words
from fcdm.runs.protocol import Part
from fcdm.runs.revision import code_revision
from fcdm.runs.study_description import question_of


@contextlib.contextmanager
def recorded(jobs: list[Job], command: list[str]) -> Iterator[None]:
    """Add these requests to `runs/studies/<study>.json` before the block does or submits the jobs.

    A UserError of the block says that nothing was begun: then they are taken back. Not so after Unsure.
    """
    written = record_study(jobs, command)
    try:
        yield
    except Unsure:
        raise
    except UserError:
        for change in written:
            change.take_back()
        raise


def record_study(jobs: list[Job], command: list[str]) -> list[_Change]:
    """Add these requests to `runs/studies/<study>.json`: which runs and budgets serve which study.

    All of them, or none. Raises UserError for a damaged file.
    """
    parts = [(job, part) for job in jobs for part in job.parts]
    written: list[_Change] = []
    for study in sorted({part.config.study for _, part in parts}):
        asked = [(job, part) for job, part in parts if part.config.study == study]
        try:
            written.append(_add_to_study(study_file(jobs[0].folder.parent, study), study, asked, command))
        except BaseException:
            for change in written:
                change.take_back()
            raise
    return written


def refuse_lost_requests(jobs: list[Job]) -> None:
    """Raise UserError for a request that cannot be met: a budget that training has passed and whose checkpoint is gone.

    One that its study has already keeps nothing else from being done: its launcher says what is the matter with it.
    """
    found = []
    for job in jobs:
        try:
            lost = job.lost()
        except UserError:  # a damaged evaluation: of that one too
            continue
        new = {step for part in job.parts for step in set(lost) & set(part.budgets) - _recorded(job, part)}
        found += [f"{job.name}: {job.lost_text(step)}" for step in sorted(new)]
    if found:
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}; nothing is recorded or begun{more}")


def study_file(runs_dir: Path, study: str) -> Path:
    return runs_dir / "studies" / f"{study}.json"


def withdraw_requests(path: Path, keys: Collection[tuple[str, int, str]]) -> tuple[int, int]:
    """Take requests (run, budget, protocol id) out of a study's file; (how many there were, how many are left).

    A study without any is removed. Raises UserError for a damaged file.
    """
    with _locked(path):
        content = read_json(path)
        taken, kept = 0, []
        for request in content["requests"]:
            protocol = request.get("protocol_id") or content["protocol_id"]
            budgets = [step for step in request["budgets"] if (request["run"], step, protocol) not in keys]
            taken += len(request["budgets"]) - len(budgets)
            if budgets:
                kept.append({**request, "budgets": budgets})
        if not kept:
            path.unlink()
        elif taken:
            write_json(path, {**content, "updated": time.time(), "requests": kept})
    return taken, sum(len(request["budgets"]) for request in kept)


@dataclass(frozen=True)
class _Change:
    """What a study's file was, and what this command made of it."""

    path: Path
    before: bytes | None
    after: bytes

    def take_back(self) -> None:
        """Unless somebody has changed the file since: then what was asked stays in it, and can be withdrawn."""
        with contextlib.suppress(OSError, UserError), _locked(self.path):
            if self.path.read_bytes() != self.after:
                return
            if self.before is None:
                self.path.unlink()
            else:
                write_atomic(self.path, self.before)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with locked(path.with_suffix(".lock")):
        remove_unfinished(path.parent)
        yield


def _recorded(job: Job, part: Part) -> set[int]:
    """What the part's study asks of the run already."""
    content = read_json_if_whole(study_file(job.folder.parent, part.config.study))
    try:
        same = [item for item in content.get("requests", ()) if item["run"] == job.name]
        return {int(step) for item in same if item["protocol_id"] == part.protocol_id for step in item["budgets"]}
    except (TypeError, KeyError, ValueError):
        return set()


def this_command() -> list[str]:
    """The command line as a person typed it, near enough to repeat it, and without secrets."""
    module = sys.modules.get("__main__")
    spec = getattr(module, "__spec__", None)
    return redacted_words(["python", "-m", spec.name, *sys.argv[1:]] if spec else sys.argv)


def _add_to_study(path: Path, study: str, asked: list[tuple[Job, Part]], command: list[str]) -> _Change:
    with _locked(path):
        known: dict[str, Any] = {"name": study, "created": time.time(), "commands": [], "requests": []}
        old: bytes | None = None
        try:
            if path.exists():
                old = path.read_bytes()
                known.update(json.loads(old))
            requests = {(item["run"], item["protocol_id"]): item for item in known["requests"]}
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path} is no study any more: remove it, and it is made again") from None
        noted = [(item["run"], item["protocol_id"], item["budgets"]) for item in requests.values()]
        known.setdefault("asked_by", {_BEFORE: _by_run(noted)})
        for job, part in asked:
            key = (job.name, part.protocol_id)
            before = requests.get(key, {"budgets": []})["budgets"]
            budgets = sorted({*before, *part.budgets})
            requests[key] = {"run": job.name, "id": job.id, "protocol_id": part.protocol_id, "budgets": budgets}
        evaluating = [part for _, part in asked if part.evaluates]
        drawing = [part for part in evaluating if part.config.evaluation.samples]
        if evaluating or "protocol_id" not in known:  # what `fid` means stays where a command evaluates nothing
            headline = (drawing or evaluating or [asked[0][1]])[0]
            known |= {"protocol_id": headline.protocol_id, "protocol": headline.protocol}
        text = shlex.join(command)
        # Redacted again: a version before may have written them.
        before = [redacted(line) for line in known["commands"]]
        known["commands"] = [*(line for line in before if line != text), text]
        known["asked_by"] = _asked_by(known, asked, command)
        known |= {
            "updated": time.time(),
            "revision": code_revision(),
            "command": command,
            "question": question_of(command, study) or known.get("question", ""),
            "requests": list(requests.values()),
            "spaces": known.get("spaces", {}) | {part.protocol_id: part.protocol["features"] for part in drawing},
            "weights": known.get("weights", {}) | {part.protocol_id: part.protocol["weights"] for part in evaluating},
        }
        write_json(path, known)
        return _Change(path, old, path.read_bytes())


_BEFORE = ""
"""In a study's `asked_by`: what commands asked for before it was written down which of them did."""
_WHERE = re.compile(
    r"[+~]*((hydra[./]launcher|slurm|(evaluation\.)?resources)[.=/]|(runs_dir|device|threads|mlflow_uri)=)"
)


def _asked_by(known: dict[str, Any], asked: list[tuple[Job, Part]], command: list[str]) -> dict[str, Any]:
    """Command -> run -> protocol -> budgets, by each command as it was given last: a sweep file may have changed."""
    mine = _by_run([(job.name, part.protocol_id, part.budgets) for job, part in asked])
    asked_by = {**known["asked_by"], asker(command): mine}
    if all(asker(shlex.split(line)) in asked_by for line in known["commands"]):
        asked_by.pop(_BEFORE, None)
    return asked_by


def asker(command: list[str]) -> str:
    """The command without what only says where its jobs run."""
    return shlex.join(word for word in command if not _WHERE.match(word))


def _by_run(asked: Iterable[tuple[str, str, Sequence[int]]]) -> dict[str, dict[str, list[int]]]:
    found: dict[str, dict[str, list[int]]] = {}
    for run, protocol, budgets in asked:
        before = found.setdefault(run, {}).get(protocol, [])
        found[run][protocol] = sorted({*before, *budgets})
    return found
