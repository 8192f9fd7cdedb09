"""`python -m fcdm.status [WORD ...]`: what became of every run and budget, and what to do about it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fcdm.errors import UserError
from fcdm.jobstatus.collect import Looker, Overview
from fcdm.jobstatus.confirm import confirm_cancel, confirm_replace, confirm_withdraw, dropped, retry
from fcdm.jobstatus.grouped import LONG
from fcdm.jobstatus.logs import follow_log, print_logs
from fcdm.jobstatus.rows import DONE, StatusRow
from fcdm.jobstatus.select import select
from fcdm.jobstatus.status_table import (
    as_json,
    begun_from,
    log_lines,
    next_steps,
    page,
    plain_lines,
    screen,
    summary,
    table,
    total,
)
from fcdm.jobstatus.watch import EVERY_S, follow, look_again
from fcdm.paths import place

RUNS_DIR = "runs_dir="
HELP = """One row per run and budget: from SLURM and the runs' folders.

Words choose: a study, a run (its name with or without the hash, a pattern as 'N-*', its path), a state (failed), a
value as fcdm.train takes it (model=N,M seed=1 optimiser.lr=1e-4 steps=400), a SLURM job or array (1234_5, 1234).
Words of one kind are alternatives, kinds narrow each other: digits failed stopped model=N. Where a word could be two
things, study=, run=, state= or job= says which."""
MODES = ("watch", "retry_failed", "cancel", "replace", "withdraw", "json", "log", "follow")
"""One at a time; without any the table is shown."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 1 for what cannot be, and where --watch ended with something not done; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m fcdm.status", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="what it is about (default: every run)")
    parser.add_argument("--runs", metavar="FOLDER", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--watch", nargs="?", type=_seconds, const=EVERY_S, metavar="SECONDS", help="redraw until nothing waits or runs"
    )
    parser.add_argument("--retry-failed", action="store_true", help="submit the failed rows' jobs again")
    parser.add_argument("--cancel", action="store_true", help="end what waits or runs")
    parser.add_argument("--replace", action="store_true", help="what waits or runs goes on with the code of now")
    parser.add_argument("--withdraw", action="store_true", help="take back what is asked for and not done")
    parser.add_argument("--not-in-study", action="store_true", help="only jobs that no study asks for any more")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    parser.add_argument("--log", action="store_true", help="the last lines of the logs, with their paths")
    parser.add_argument("--follow", action="store_true", help="follow a run's log until its job ends")
    parser.add_argument("--all", action="store_true", help=f"every row of a table of more than {LONG}")
    parser.add_argument("--yes", action="store_true", help="--cancel, --replace and --withdraw without asking")
    options = parser.parse_intermixed_args(_spelt_out(sys.argv[1:] if arguments is None else arguments))
    words = [word for word in options.words if not word.startswith(RUNS_DIR)]
    said = [word for word in options.words if word.startswith(RUNS_DIR)]  # as fcdm.train takes it
    folders = [*([options.runs] if options.runs is not None else []), *(word.removeprefix(RUNS_DIR) for word in said)]
    runs_dir = place(folders[-1] if folders else "runs")
    try:
        if len({place(folder).absolute() for folder in folders}) > 1:
            raise UserError(f"{' and '.join(folders)}: one folder of runs at a time")
        options.log &= not options.follow
        if sum(bool(getattr(options, mode)) for mode in MODES) > 1:
            *names, last = (f"--{mode.replace('_', '-')}" for mode in MODES)
            raise UserError(f"{', '.join(names)} and {last}: one at a time")
        if options.all and any(getattr(options, mode) for mode in MODES):
            raise UserError("--all is for the table: everything else takes all that the words choose anyway")
        if options.yes and not (options.cancel or options.replace or options.withdraw):
            raise UserError("--yes answers --cancel, --replace and --withdraw, and means nothing without them")
        if options.not_in_study and any(getattr(options, mode) for mode in MODES if mode not in ("json", "cancel")):
            raise UserError("--not-in-study is for the table, --json and --cancel")
        looker = Looker(runs_dir)
        if options.watch:
            return 1 if follow(looker, runs_dir, words, options.watch) else 0
        if options.follow:
            return _follow(looker, runs_dir, words)
        selection = select(runs_dir, words)
        if options.retry_failed:
            return retry(looker, selection)
        if options.not_in_study:
            everything = overview = dropped(looker, selection, runs_dir)
        else:
            everything = looker.look(selection.asked)
            overview = replace(everything, rows=selection.rows(everything.rows))
        if options.replace:
            return confirm_replace(looker, selection, overview, options.yes)
        if options.cancel:
            return confirm_cancel(looker, overview, options.yes, options.not_in_study)
        if options.withdraw:
            return confirm_withdraw(looker, overview, options.yes)
        if options.json:
            print(json.dumps([as_json(row) for row in overview.rows], indent=1))
            if overview.problem:
                print(f"only what the files say: {overview.problem}", file=sys.stderr)
        elif words and not overview.rows:
            there = f"there is {summary(everything.rows)}" if everything.rows else "none of what they name is asked for"
            print(f"no row for {shlex.join(words)}: {there}")
        elif options.not_in_study and not overview.rows:
            print("no job in the queue that no study asks for")
        elif options.log:
            print_logs(overview.rows, runs_dir, selection.jobs)
        else:
            _show(overview, words, runs_dir, options.all or len(overview.rows) <= LONG)
    except UserError as error:
        print(f"fcdm.status: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 0
    return 0


def _show(overview: Overview, words: Sequence[str], runs_dir: Path, everything: bool) -> None:
    console = Console()
    rows = overview.rows
    steps = next_steps(overview, words, str(runs_dir))
    end = ["", *steps]
    if everything:
        end = ["", *begun_from(overview, str(runs_dir)), *steps]
        console.print(total(rows), "", sep="\n", markup=False, highlight=False, soft_wrap=True)
        if console.is_terminal:
            console.print(table(rows))
            end = [*log_lines(rows), *end]
        else:
            end = [*plain_lines(rows), *end]
    elif console.is_terminal:
        console.print(screen(overview, runs_dir, console, len(end) + 1))
    else:
        end = [*page(overview, runs_dir), *end]
    for line in end:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _follow(looker: Looker, runs_dir: Path, words: Sequence[str]) -> int:
    """1 where something of the run did not end done."""

    def look() -> tuple[list[StatusRow], bool]:
        overview, going = look_again(looker, runs_dir, words)
        return overview.rows, going

    rows = follow_log(look, runs_dir, EVERY_S)
    for line in plain_lines(rows):
        print(line, file=sys.stderr)
    return int(any(row.state != DONE for row in rows))


def _spelt_out(arguments: list[str]) -> list[str]:
    """`--watch WORD` means the word, though argparse would take it for the seconds."""
    found = []
    for at, word in enumerate(arguments):
        after = arguments[at + 1] if at + 1 < len(arguments) else ""
        plain = word == "--watch" and not after.replace(".", "", 1).isdecimal()
        found.append(f"--watch={EVERY_S:g}" if plain else word)
    return found


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError("0.1 to 86400 seconds")
    return value


if __name__ == "__main__":
    sys.exit(main())
