"""The rows of `fcdm.status` as texts and as a table, once or again and again until nothing waits or runs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fcdm.formatting import duration_text, plural
from fcdm.jobstatus.collect import Looker, Overview
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
from fcdm.jobstatus.select import select
from fcdm.runs.run_paths import run_facts
from fcdm.slurm.client import Scheduler

EVERY_S = 5.0
SAY_EVERY_S = 60.0
"""A sign of life where there is no terminal to draw in."""
COLOURS = {DONE: "green", RUNNING: "cyan", EVALUATING: "cyan", TRAINED: "blue", WAITING: "yellow", FAILED: "red"}
LOGGED = (FAILED, RUNNING, EVALUATING)
"""States whose log one wants to read."""
PAGE = 30
"""Lines of a long table where there is no screen to fill."""


def what(row: StatusRow, log: bool = True) -> str:
    """Everything about a row besides its run, budget and state, in one line."""
    if row.state == DONE:
        return "" if row.fid is None else f"FID {row.fid:.2f}"
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
    parts += [f"log: {short(row.log)}"] if log and row.state in LOGGED and row.log else []
    return ", ".join(parts)


def plain_lines(rows: Sequence[StatusRow]) -> list[str]:
    """The table for a pipe or a file: aligned columns, nothing cut."""
    protocols = several_protocols(rows)
    return aligned([cells(row, protocols) for row in rows])


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
    if words and len(overview.asked.studies) == 1 and rows and all(row.state == DONE for row in rows):
        there = f" --runs {shlex.quote(runs_dir)}" if runs_dir != "runs" else ""
        lines.append(f"draw it: python -m analysis.plots{there} --study {shlex.quote(overview.asked.studies[0].name)}")
    return lines


def commands(overview: Overview, rows: Sequence[StatusRow]) -> list[str]:
    """The commands of the studies that asked for these rows: they go on with them."""
    runs = {row.run for row in rows}
    return [
        shlex.join(study.command)
        for study in overview.asked.studies
        if study.command and any(request.run in runs for request in study.requests)
    ]


def as_json(row: StatusRow) -> dict[str, Any]:
    """A row for programs; seconds and steps."""
    names = "run budget protocol state text active job step images_per_s fid error log"
    return {
        **{name: getattr(row, name) for name in names.split()},
        "eta_s": row.eta,
        "record_age_s": row.age,
        "samples": list(row.samples) if row.samples else None,
        "requeued": row.requeued,
        "preempted": row.preempted,
    }


def cells(row: StatusRow, protocols: bool, log: bool = True) -> list[str]:
    by = [row.protocol] if protocols else []
    return [row.run, str(row.budget), *by, row.state, row.job or "-", what(row, log)]


def log_lines(rows: Sequence[StatusRow]) -> list[str]:
    """Where these rows' jobs print: below the table, for a path in a column of a narrow terminal is cut to pieces."""
    return list(dict.fromkeys(f"log: {short(row.log)}" for row in rows if row.state in LOGGED and row.log))


def several_protocols(rows: Sequence[StatusRow]) -> bool:
    seen: dict[str, str] = {}
    return any(seen.setdefault(row.run, row.protocol) != row.protocol for row in rows)


def problem_lines(overview: Overview) -> list[str]:
    return [f"only what the files say: {overview.problem}"] if overview.problem else []


def table(rows: Sequence[StatusRow]) -> Table:
    """The table for a terminal."""
    protocols = several_protocols(rows)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("run", "budget", *(["protocol"] if protocols else []), "state", "job", ""):
        shown.add_column(
            title, header_style="bold", justify="right" if title == "budget" else "left", overflow="fold", no_wrap=False
        )
    for row in rows:
        texts = [escape(text) for text in cells(row, protocols, log=False)]
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
    room = console.size.height - len(top) - below - 2
    if len(rows) > LONG:
        groups = aligned(group_cells(rows, runs_dir, max(2, room // 2)))
        top += [Text(line.rstrip(), no_wrap=True, overflow="ellipsis") for line in [*groups, ""]]
        room -= len(groups) + 1
    shown = rows if len(rows) <= room else worst_first(rows)[: max(1, room)]
    while len(shown) > 1 and (height := _height(shown, console)) > room:
        shown = worst_first(rows)[: min(len(shown) - 1, max(1, len(shown) * room // height))]
    logs = [Text(line, overflow="fold") for line in log_lines(shown)]
    left = len(rows) - len(shown)
    end = [Text(f"... and {plural(left, 'more row')}: --all shows them")] if left else []
    return Group(*top, table(shown), *end, *logs)


def _height(rows: Sequence[StatusRow], console: Console) -> int:
    """Lines of a table with its logs, on this screen."""
    return len(console.render_lines(Group(table(rows), *map(Text, log_lines(rows)))))


def page(overview: Overview, runs_dir: Path) -> list[str]:
    """`screen` for a pipe or a file."""
    rows = overview.rows
    groups = [line.rstrip() for line in aligned(group_cells(rows, runs_dir, PAGE // 2))]
    shown = worst_first(rows)[: PAGE - len(groups)]
    left = plural(len(rows) - len(shown), "more row")
    return [total(rows), "", *groups, "", *plain_lines(shown), f"... and {left}: --all shows them"]


def watch(
    runs_dir: Path | str,
    wanted: str | Sequence[str],
    scheduler: Scheduler,
    every: float = EVERY_S,
    console: Console | None = None,
) -> int:
    """Show a study, or what words choose, until nothing of it waits or runs; how many rows did not end done.

    Redraws in a terminal, prints a line per change elsewhere. Ctrl-C raises KeyboardInterrupt and touches no job.
    Raises UserError for an unknown study.
    """
    runs_dir = Path(runs_dir)
    words = [f"study={wanted}"] if isinstance(wanted, str) else wanted
    return follow(Looker(runs_dir, lambda conf: scheduler), runs_dir, words, every, console)


def follow(
    looker: Looker,
    runs_dir: Path,
    words: Sequence[str],
    every: float = EVERY_S,
    console: Console | None = None,
) -> int:
    """`watch` with a Looker of one's own."""
    console = console or Console()

    def look() -> tuple[Overview, bool]:
        return look_again(looker, runs_dir, words)

    overview = _draw(look, runs_dir, every, console) if console.is_terminal else _tell(look, every, console)
    return sum(row.state != DONE for row in overview.rows)


def look_again(looker: Looker, runs_dir: Path, words: Sequence[str]) -> tuple[Overview, bool]:
    """What is chosen now, and whether it may change: of `failed`, a row that has not failed yet may do so."""
    selection = select(runs_dir, words)
    overview = looker.look(selection.asked)
    all_of_it = replace(selection, states=frozenset()).rows(overview.rows)
    # Where SLURM does not answer for a moment nobody knows: then it is asked again.
    going = bool(overview.problem) or any(row.active for row in all_of_it)
    return replace(overview, rows=selection.rows(overview.rows)), going


def _draw(look: Callable[[], tuple[Overview, bool]], runs_dir: Path, every: float, console: Console) -> Overview:
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            overview, going = look()
            live.update(screen(overview, runs_dir, console), refresh=True)
            if not going:
                return overview
            time.sleep(every)


def _tell(look: Callable[[], tuple[Overview, bool]], every: float, console: Console) -> Overview:
    seen: dict[tuple[str, int, str], tuple[object, ...]] = {}
    said_at, problem = 0.0, ""
    while True:
        overview, going = look()
        news = {row.key: _news(row) for row in overview.rows}
        told = zip(overview.rows, plain_lines(overview.rows), strict=True)
        lines = [line for row, line in told if seen.get(row.key) != news[row.key]]
        seen = news
        if overview.problem and overview.problem != problem:
            lines.append(f"only what the files say: {overview.problem}")
        problem = overview.problem
        if not going or time.monotonic() - said_at > SAY_EVERY_S:
            lines.append(summary(overview.rows))
            said_at = time.monotonic()
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if not going:
            return overview
        time.sleep(every)


def _news(row: StatusRow) -> tuple[object, ...]:
    """What of a row is worth a line when it changes: not every step."""
    text = row.text if row.state not in (RUNNING, EVALUATING) else ""
    return (row.state, text, row.job, row.requeued, row.preempted, row.error if row.state == FAILED else None)
