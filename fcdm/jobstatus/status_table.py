"""The table of `fcdm.status` in a terminal, once or again and again until nothing waits or runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fcdm.jobstatus.collect import Looker, Overview, what_is_asked
from fcdm.jobstatus.rows import DONE, EVALUATING, FAILED, RUNNING, STATES, TRAINED, WAITING, Row
from fcdm.jobstatus.words import cells, plain_lines, plural, problem_lines, several_protocols, summary
from fcdm.slurm.client import Scheduler

EVERY_S = 5.0
SAY_EVERY_S = 60.0
"""A sign of life where there is no terminal to draw in."""
COLOURS = {DONE: "green", RUNNING: "cyan", EVALUATING: "cyan", TRAINED: "blue", WAITING: "yellow", FAILED: "red"}
_INTEREST = (FAILED, RUNNING, EVALUATING, WAITING)
"""What comes first where not all fits on the screen."""


def watch(
    runs_dir: Path | str,
    wanted: str | Sequence[str] | None,
    scheduler: Scheduler,
    every: float = EVERY_S,
    console: Console | None = None,
) -> int:
    """Show a study, or these runs, until nothing of it waits or runs; how many rows did not end done.

    Redraws in a terminal, prints a line per change elsewhere. Ctrl-C raises KeyboardInterrupt and touches no job.
    Raises UserError for an unknown study.
    """
    runs_dir = Path(runs_dir)
    return follow(Looker(runs_dir, lambda conf: scheduler), runs_dir, wanted, every, console)


def follow(
    looker: Looker,
    runs_dir: Path,
    wanted: str | Sequence[str] | None,
    every: float = EVERY_S,
    console: Console | None = None,
) -> int:
    """`watch` with a Looker of one's own."""
    console = console or Console()
    if console.is_terminal:
        overview = _draw(looker, runs_dir, wanted, every, console)
    else:
        overview = _tell(looker, runs_dir, wanted, every, console)
    return sum(row.state != DONE for row in overview.rows)


def _goes_on(overview: Overview) -> bool:
    # Where SLURM does not answer for a moment nobody knows: then it is asked again.
    return bool(overview.problem) or any(row.active for row in overview.rows)


def _draw(
    looker: Looker, runs_dir: Path, wanted: str | Sequence[str] | None, every: float, console: Console
) -> Overview:
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            overview = looker.look(what_is_asked(runs_dir, wanted))
            live.update(screen(overview, console.size.height), refresh=True)
            if not _goes_on(overview):
                return overview
            time.sleep(every)


def _tell(
    looker: Looker, runs_dir: Path, wanted: str | Sequence[str] | None, every: float, console: Console
) -> Overview:
    seen: dict[tuple[str, int, str], tuple[object, ...]] = {}
    said_at, problem = 0.0, ""
    while True:
        overview = looker.look(what_is_asked(runs_dir, wanted))
        going = _goes_on(overview)
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


def _news(row: Row) -> tuple[object, ...]:
    """What of a row is worth a line when it changes: not every step."""
    text = row.text if row.state not in (RUNNING, EVALUATING) else ""
    return (row.state, text, row.job, row.requeued, row.preempted, row.error if row.state == FAILED else None)


def table(rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    protocols = several_protocols(rows)
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("run", "budget", *(["protocol"] if protocols else []), "state", "job", ""):
        found.add_column(
            title, header_style="bold", justify="right" if title == "budget" else "left", overflow="fold", no_wrap=False
        )
    for row in rows:
        texts = [escape(text) for text in cells(row, protocols)]
        at = len(texts) - 3
        texts[at] = f"[{COLOURS[row.state]}]{texts[at]}[/]" if row.state in COLOURS else texts[at]
        found.add_row(*texts)
    return found


def screen(overview: Overview, height: int) -> Group:
    """What fits on so many lines: the summary, then what needs a look first, if that is not everything."""
    top = [Text(line) for line in [summary(overview.rows), *problem_lines(overview), ""]]
    rows, end = overview.rows, []
    room = max(1, height - len(top) - 3)
    if len(rows) > room:
        rank = {state: at for at, state in enumerate((*_INTEREST, *(s for s in STATES if s not in _INTEREST)))}
        rows = sorted(rows, key=lambda row: rank[row.state])[:room]
        end = [Text(f"... and {plural(len(overview.rows) - room, 'more row')}")]
    return Group(*top, table(rows), *end)
