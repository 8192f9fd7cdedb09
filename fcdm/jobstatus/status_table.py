"""The rows of `fcdm.status` as texts, as a table, and as a screen where they are many."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fcdm.formatting import duration_text, flops_text, plural
from fcdm.jobs.record_study import asker
from fcdm.jobstatus.collect import Overview
from fcdm.jobstatus.grouped import LONG, group_cells, worst_first
from fcdm.jobstatus.logs import shell_beside, short
from fcdm.jobstatus.rows import (
    CANCELLED,
    DONE,
    EVALUATING,
    FAILED,
    NOT_SUBMITTED,
    RUNNING,
    STOPPED,
    TRAINED,
    UNKNOWN,
    WAITING,
    StatusRow,
    counts,
)
from fcdm.runs.run_paths import run_facts

COLOURS = {DONE: "green", RUNNING: "cyan", EVALUATING: "cyan", TRAINED: "blue", WAITING: "yellow", FAILED: "red"}
LOGGED = (FAILED, RUNNING, EVALUATING)
"""States whose log one wants to read."""
PAGE = 30
"""Lines of a long table where there is no screen to fill."""


def what(row: StatusRow, log: bool = True) -> str:
    """Everything about a row besides its run, budget and state, in one line."""
    if row.state == DONE:
        return ", ".join(filter(None, (row.distance, row.text, row.forecast)))
    parts = [row.text] if row.text else []
    if row.state == RUNNING:
        parts.append(f"step {row.step or 0}/{row.budget}")
        parts += [f"{row.images_per_s:.0f} images/s"] if row.images_per_s and row.eta is not None else []
        parts += [f"ETA {duration_text(row.eta)}"] if row.eta is not None else []
        parts += [f"last record {duration_text(row.age)} ago"] if row.age is not None else []
    elif row.state in (WAITING, CANCELLED, STOPPED, NOT_SUBMITTED, UNKNOWN) and row.step and row.step < row.budget:
        parts.append(f"at step {row.step}/{row.budget}")
    parts += [f"preempted {plural(row.preempted, 'time')}"] if row.preempted else []
    parts += [f"requeued {plural(row.requeued, 'time')}"] if row.requeued else []
    parts += [row.forecast] if row.forecast else []
    parts += [f"log: {short(row.log)}"] if log and row.state in LOGGED and row.log else []
    return ", ".join(parts)


def plain_lines(rows: Sequence[StatusRow]) -> list[str]:
    """The table for a pipe or a file: aligned columns, nothing cut."""
    columns = Columns.of(rows)
    return aligned([cells(row, columns) for row in rows])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns; the last one is as long as it is."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]) - 1)] if lines else []
    return ["  ".join([*(f"{text:{w}}" for text, w in zip(line, widths, strict=False)), line[-1]]) for line in lines]


def summary(rows: Sequence[StatusRow]) -> str:
    """`12 done, 3 running, 1 failed`."""
    return ", ".join(f"{count} {state}" for state, count in counts(rows).items()) or "nothing is asked for"


def total(rows: Sequence[StatusRow]) -> str:
    """`500 runs: 1,200 done, 3 failed`."""
    runs = len({row.run for row in rows})
    return f"{plural(runs, 'run')}: {summary(rows)}" if len(rows) > LONG else summary(rows)


def begun_from(overview: Overview, runs_dir: str) -> list[str]:
    """One line for each run that started from other weights (`init_from`)."""
    lines = []
    for run in dict.fromkeys(row.run for row in overview.rows):
        try:
            begun = run_facts(Path(runs_dir) / run)["init_from"]
            lines.append(f"{run} started from {begun['name']} ({begun['weights']} weights)")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # drawn weights, or nothing there yet
    return lines


def next_steps(overview: Overview, words: Sequence[str] = (), runs_dir: str = "runs") -> list[str]:
    """What a person may want to type now. `words`: those that chose the rows."""
    rows = overview.rows
    status = shlex.join(["python", "-m", "fcdm.status", *words, *(["--runs", runs_dir] if runs_dir != "runs" else [])])
    lines = problem_lines(overview)
    if any(row.active for row in rows):
        lines.append(f"follow: {status} --watch    end: {status} --cancel")
    if any(row.state == FAILED and row.retry for row in rows):
        lines.append(f"submit what failed again: {status} --retry-failed")
    left = [row for row in rows if row.state in (CANCELLED, STOPPED, NOT_SUBMITTED, TRAINED) and not row.active]
    left += [row for row in rows if row.state == FAILED and not row.retry]
    shell = shell_beside(rows)
    lines += [f"a shell beside a job: {shell}"] if shell else []
    lines += [f"go on with the rest: {command}" for command in commands(overview, left)]
    study = overview.asked.studies[0].name if len(overview.asked.studies) == 1 else ""
    if {*words} in ({study}, {f"study={study}"}) and rows and all(row.state == DONE for row in rows):
        there = f" --runs {shlex.quote(runs_dir)}" if runs_dir != "runs" else ""
        lines.append(f"draw it: python -m analysis.plots{there} --study {shlex.quote(study)}")
    return lines


def commands(overview: Overview, rows: Sequence[StatusRow]) -> list[str]:
    """The commands that asked for these rows: they go on with them. Of each study the last that asked for a run."""
    found: dict[str, None] = {}
    for study in overview.asked.studies:
        left = {row.run for row in rows} & {request.run for request in study.requests}
        for line in reversed(study.commands):
            if theirs := left & study.asked_by.get(asker(shlex.split(line)), frozenset()):
                found[line] = None
                left -= theirs
        if left and study.command:  # of a version that did not note which command asked for what
            found[shlex.join(study.command)] = None
    return list(found)


def as_json(row: StatusRow) -> dict[str, Any]:
    """A row for programs; seconds and steps."""
    names = "run budget flops protocol space weights state text active job step images_per_s fid distance forecast"
    names += " error log"
    return {
        **{name: getattr(row, name) for name in names.split()},
        "eta_s": row.eta,
        "record_age_s": row.age,
        "samples": list(row.samples) if row.samples else None,
        "requeued": row.requeued,
        "preempted": row.preempted,
    }


def cells(row: StatusRow, columns: Columns, log: bool = True) -> list[str]:
    flops = ["-" if row.flops is None else f"{flops_text(row.flops)}FLOPs"] if columns.flops else []
    told = " in ".join(filter(None, (row.protocol, row.space))) + (f" of {row.weights} weights" if row.weights else "")
    by = [told] if columns.protocols else []
    return [row.run, str(row.budget), *flops, *by, row.state, row.job or "-", what(row, log)]


def log_lines(rows: Sequence[StatusRow]) -> list[str]:
    """Where these rows' jobs print: below the table, for a path in a column of a narrow terminal is cut to pieces."""
    return list(dict.fromkeys(f"log: {short(row.log)}" for row in rows if row.state in LOGGED and row.log))


@dataclass(frozen=True)
class Columns:
    """Those that a table has where its rows need them."""

    flops: bool
    """Some runs say what a step costs."""
    protocols: bool
    """Some runs are evaluated by several."""

    @classmethod
    def of(cls, rows: Sequence[StatusRow]) -> Columns:
        seen: dict[str, str] = {}
        protocols = any(seen.setdefault(row.run, row.protocol) != row.protocol for row in rows)
        return cls(any(row.flops is not None for row in rows), protocols)


def problem_lines(overview: Overview) -> list[str]:
    lines = [f"only what the files say: {overview.problem}"] if overview.problem else []
    return [*lines, f"no forecasts are shown: {overview.ledger_problem}"] if overview.ledger_problem else lines


def table(rows: Sequence[StatusRow]) -> Table:
    """The table for a terminal."""
    columns = Columns.of(rows)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    own = ["training"] * columns.flops + ["protocol"] * columns.protocols
    for title in ("run", "budget", *own, "state", "job", ""):
        shown.add_column(
            title,
            header_style="bold",
            justify="right" if title in ("budget", "training") else "left",
            overflow="fold",
            no_wrap=False,
        )
    for row in rows:
        texts = [escape(text) for text in cells(row, columns, log=False)]
        at = len(texts) - 3
        texts[at] = f"[{COLOURS[row.state]}]{texts[at]}[/]" if row.state in COLOURS else texts[at]
        shown.add_row(*texts)
    return shown


def screen(overview: Overview, runs_dir: Path, console: Console, below: int = 0) -> Group:
    """What fits on the screen with so many lines `below`: the totals, then of a long table its groups, then rows.

    The rows that need a look come first where not all fit.
    """
    rows = overview.rows
    top: list[RenderableType] = [Text(line) for line in [total(rows), *problem_lines(overview), ""]]
    room = console.size.height - len(top) - below - 3
    long = len(rows) > LONG
    if long:
        groups, left = grouped(rows, runs_dir, max(2, room // 2))
        top += [Text(line, no_wrap=True, overflow="ellipsis") for line in [*groups, *left, ""]]
        room -= len(groups) + len(left) + 2
    shown = rows if len(rows) <= room else worst_first(rows)[: max(1, room)]
    while not long and len(shown) > 1 and (height := _height(shown, console)) > room:
        shown = worst_first(rows)[: min(len(shown) - 1, max(1, len(shown) * room // height))]
    end = more(rows, shown)
    if not long:
        return Group(*top, table(shown), *(Text(line, overflow="fold") for line in (*end, *log_lines(shown))))
    # Each on one line: the groups say most of what is cut off.
    columns = Columns.of(shown)
    lines = aligned([cells(row, columns, log=False) for row in shown])
    told = [
        Text(line, COLOURS.get(row.state, ""), no_wrap=True, overflow="ellipsis")
        for row, line in zip(shown, lines, strict=True)
    ]
    return Group(*top, *told, *map(Text, [*end, f"logs: {short(runs_dir)}/<run>/log.txt"]))


def _height(rows: Sequence[StatusRow], console: Console) -> int:
    """Lines of a table with its logs, on this screen."""
    return len(console.render_lines(Group(table(rows), *map(Text, log_lines(rows)))))


def grouped(rows: Sequence[StatusRow], runs_dir: Path, room: int) -> tuple[list[str], list[str]]:
    """At most so many groups as lines, below titles; and how many more there are, if there are."""
    groups = group_cells(rows, runs_dir)
    left = len(groups) - 1 - room
    lines = [line.rstrip() for line in aligned(groups[: room + 1])]
    return lines, [f"... and {plural(left, 'more group')}"] if left > 0 else []


def more(rows: Sequence[StatusRow], shown: Sequence[StatusRow]) -> list[str]:
    left = len(rows) - len(shown)
    return [f"... and {plural(left, 'more row')}: --all shows them"] if left else []


def page(overview: Overview, runs_dir: Path) -> list[str]:
    """`screen` for a pipe or a file."""
    rows = overview.rows
    groups, left = grouped(rows, runs_dir, PAGE // 2)
    shown = worst_first(rows)[: PAGE - len(groups)]
    return [total(rows), "", *groups, *left, "", *plain_lines(shown), *more(rows, shown)]
