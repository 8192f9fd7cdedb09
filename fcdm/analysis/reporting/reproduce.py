"""Everything needed to repeat a study: the commands that asked for it, the code, the machines, the data."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from fcdm.analysis.reporting.cost_table import device
from fcdm.analysis.reporting.html import HTML, element, joined
from fcdm.analysis.reporting.page import bullets, code
from fcdm.analysis.reporting.study_facts import StudyFacts
from fcdm.runs.reader import RunView
from fcdm.runs.study_description import for_folder


def repeat_section(facts: StudyFacts) -> HTML:
    """Commands, then what they ran with."""
    study = facts.study
    commands = study.commands or ((shlex.join(study.command),) if study.command else ())
    revisions = recorded(facts.views.values(), "revision") or ([study.revision] if study.revision else [])
    clean = [revision.rstrip("+") for revision in revisions if revision != "unknown"]
    lines = [f"git checkout {clean[-1]}"] if clean else []
    lines += ["make setup", "source .venv/bin/activate"]
    lines += [for_folder(command, facts.runs_dir) for command in commands]
    lines.append(f"python -m analysis.report {shlex.quote(study.name)} --runs {shlex.quote(str(facts.runs_dir))}")
    parts = [
        element("p", "The same commands again continue what is unfinished and repeat nothing:"),
        code("\n".join(lines)),
    ]
    return joined([*parts, bullets(_told(facts, revisions))])


def _told(facts: StudyFacts, revisions: list[str]) -> list[str]:
    views = list(facts.views.values())
    lines = [f"Code: revision {' and '.join(revisions)}." if revisions else "Code: no revision is recorded."]
    if any(revision.endswith("+") for revision in revisions):
        lines.append("A + means files that were changed and not committed: that code is not to be had by its revision.")
    if len(revisions) > 1:
        lines.append("More than one revision worked on these runs; which one on which run is in their records.")
    torches = recorded(views, "torch")
    lines.append(f"torch {', '.join(torches)}." if torches else "The version of torch is not recorded.")
    places = list(dict.fromkeys(_place(view) for view in views if view.segments))
    if places:
        lines.append(f"Devices: {'; '.join(places)}.")
    data = list(dict.fromkeys(_data(view) for view in views))
    if data:
        lines.append(f"Data: {'; '.join(data)}.")
    lines.append(
        "Bit for bit with the same torch, processor, threads, processes and micro-batch; else up to float rounding."
    )
    return lines


def recorded(views: Iterable[RunView], key: str) -> list[str]:
    """The values that segments recorded of `key`, oldest first."""
    segments = sorted((segment for view in views for segment in view.segments), key=lambda segment: segment.start)
    return list(dict.fromkeys(str(segment.fields[key]) for segment in segments if segment.fields.get(key)))


def _place(view: RunView) -> str:
    fields = view.segments[-1].fields
    size, threads = int(fields.get("world_size", 1)), int(fields.get("threads", 1))
    on_cpu = fields.get("device") == "cpu"
    each = f" with {threads} thread{'s' if threads > 1 else ''} each" if on_cpu else ""
    return f"{size} process{'es' if size > 1 else ''} on {device(view.segments[-1])}{each}"


def _data(view: RunView) -> str:
    checksum = view.flat_config.get("data.checksum", "")
    return f"{view.data} at {view.resolution} px (sha256 {checksum[:16]})" if checksum else view.data
