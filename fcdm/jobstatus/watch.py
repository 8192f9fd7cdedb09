"""A study, or what words choose, shown again and again until nothing of it waits or runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from fcdm.jobstatus.collect import Looker, Overview
from fcdm.jobstatus.grouped import LONG
from fcdm.jobstatus.rows import DONE, EVALUATING, FAILED, RUNNING, StatusRow
from fcdm.jobstatus.select import select
from fcdm.jobstatus.status_table import page, plain_lines, screen, total
from fcdm.slurm.client import Scheduler

EVERY_S = 5.0
SAY_EVERY_S = 60.0
"""A sign of life where there is no terminal to draw in."""


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

    overview = _draw(look, runs_dir, every, console) if console.is_terminal else _tell(look, runs_dir, every, console)
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


def _tell(look: Callable[[], tuple[Overview, bool]], runs_dir: Path, every: float, console: Console) -> Overview:
    seen: dict[tuple[str, int, str], tuple[object, ...]] = {}
    said_at, problem = 0.0, ""
    while True:
        overview, going = look()
        news = {row.key: _news(row) for row in overview.rows}
        if not seen and len(overview.rows) > LONG:
            lines = page(overview, runs_dir)
        else:
            told = zip(overview.rows, plain_lines(overview.rows), strict=True)
            lines = [line for row, line in told if seen.get(row.key) != news[row.key]]
        seen = news
        if overview.problem and overview.problem != problem:
            lines.append(f"only what the files say: {overview.problem}")
        problem = overview.problem
        if not going or time.monotonic() - said_at > SAY_EVERY_S:
            lines.append(total(overview.rows))
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
