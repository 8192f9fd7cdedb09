"""The rows of `fcdm.status` as texts, a summary, and what to do next."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcdm.jobstatus.collect import Overview
from fcdm.jobstatus.rows import (
    CANCELLED,
    DONE,
    FAILED,
    NOT_SUBMITTED,
    RUNNING,
    STOPPED,
    TRAINED,
    UNKNOWN,
    WAITING,
    Row,
    counts,
)


def span(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def what(row: Row) -> str:
    """Everything about a row besides its run, budget and state, in one line."""
    if row.state == DONE:
        return "" if row.fid is None else f"FID {row.fid:.2f}"
    parts = [row.text] if row.text else []
    if row.state == RUNNING:
        parts.append(f"step {row.step or 0}/{row.budget}")
        parts += [f"{row.images_per_s:.0f} images/s"] if row.images_per_s and row.eta is not None else []
        parts += [f"ETA {span(row.eta)}"] if row.eta is not None else []
        parts += [f"last record {span(row.age)} ago"] if row.age is not None else []
    elif row.state in (WAITING, CANCELLED, STOPPED, NOT_SUBMITTED, UNKNOWN) and row.step and row.step < row.budget:
        parts.append(f"at step {row.step}/{row.budget}")
    parts += [f"preempted {plural(row.preempted, 'time')}"] if row.preempted else []
    parts += [f"requeued {plural(row.requeued, 'time')}"] if row.requeued else []
    parts += [f"log: {_short(row.log)}"] if row.state == FAILED and row.log else []
    return ", ".join(parts)


def plain_lines(rows: Sequence[Row]) -> list[str]:
    """The table for a pipe or a file: aligned columns, nothing cut."""
    protocols = several_protocols(rows)
    lines = [cells(row, protocols) for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]) - 1)] if lines else []
    return ["  ".join([*(f"{text:{w}}" for text, w in zip(line, widths, strict=False)), line[-1]]) for line in lines]


def summary(rows: Sequence[Row]) -> str:
    """`12 done, 3 running, 1 failed`."""
    return ", ".join(f"{count} {state}" for state, count in counts(rows).items()) or "nothing is asked for"


def begun_from(overview: Overview, runs_dir: str) -> list[str]:
    """One line for each run that started from other weights (`init_from`)."""
    lines = []
    for run in dict.fromkeys(row.run for row in overview.rows):
        try:
            begun = json.loads((Path(runs_dir) / run / "run.json").read_text())["init_from"]
            lines.append(f"{run} started from {begun['name']} ({begun['weights']} weights)")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # drawn weights, or nothing there yet
    return lines


def next_steps(overview: Overview, study: str | None, runs_dir: str = "runs") -> list[str]:
    """What a person may want to type now."""
    rows = overview.rows
    words = [*([study] if study else []), *(["--runs", runs_dir] if runs_dir != "runs" else [])]
    status = f"python -m fcdm.status {shlex.join(words)}".rstrip()
    lines = problem_lines(overview)
    if any(row.active for row in rows):
        lines.append(f"follow: {status} --watch    end: {status} --cancel")
    if any(row.state == FAILED and row.retry for row in rows):
        lines.append(f"submit what failed again: {status} --retry-failed")
    left = [row for row in rows if row.state in (CANCELLED, STOPPED, NOT_SUBMITTED, TRAINED) and not row.active]
    left += [row for row in rows if row.state == FAILED and not row.retry]
    lines += [f"go on with the rest: {command}" for command in commands(overview, left)]
    if study and rows and all(row.state == DONE for row in rows):
        there = f" --runs {shlex.quote(runs_dir)}" if runs_dir != "runs" else ""
        lines.append(f"draw it: python -m analysis.plots{there} --study {shlex.quote(study)}")
    return lines


def commands(overview: Overview, rows: Sequence[Row]) -> list[str]:
    """The commands of the studies that asked for these rows: they go on with them."""
    runs = {row.run for row in rows}
    return [
        shlex.join(study.command)
        for study in overview.asked.studies
        if study.command and any(request.run in runs for request in study.requests)
    ]


def as_json(row: Row) -> dict[str, Any]:
    """A row for programs; seconds and steps."""
    names = (
        "run",
        "budget",
        "protocol",
        "state",
        "text",
        "active",
        "job",
        "step",
        "images_per_s",
        "fid",
        "error",
        "log",
    )
    found = {name: getattr(row, name) for name in names}
    return {
        **found,
        "eta_s": row.eta,
        "record_age_s": row.age,
        "samples": list(row.samples) if row.samples else None,
        "requeued": row.requeued,
        "preempted": row.preempted,
    }


def cells(row: Row, protocols: bool) -> list[str]:
    return [row.run, str(row.budget), *([row.protocol] if protocols else []), row.state, row.job or "-", what(row)]


def several_protocols(rows: Sequence[Row]) -> bool:
    seen: dict[str, str] = {}
    return any(seen.setdefault(row.run, row.protocol) != row.protocol for row in rows)


def problem_lines(overview: Overview) -> list[str]:
    return [f"only what the files say: {overview.problem}"] if overview.problem else []


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _short(path: str) -> str:
    """Relative to where one is, if that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) and Path(relative).exists() else path
