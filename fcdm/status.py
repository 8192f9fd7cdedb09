"""`python -m fcdm.status [STUDY]`: what became of every run and budget, and what to do about it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.jobstatus.actions import cancel, on_their_way, retry_failed
from fcdm.jobstatus.collect import Looker, Overview, what_is_asked
from fcdm.jobstatus.status_table import (
    EVERY_S,
    as_json,
    begun_from,
    commands,
    follow,
    next_steps,
    plain_lines,
    summary,
    table,
)
from fcdm.jobstatus.withdraw import withdraw, withdrawal_of
from fcdm.paths import place


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 1 for what cannot be, and where --watch ended with something not done; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m fcdm.status", description="One row per run and budget: from SLURM and the runs' folders."
    )
    parser.add_argument("study", nargs="?", help="only this study's (default: every run)")
    parser.add_argument("--runs", default="runs", metavar="FOLDER", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--watch", nargs="?", type=_seconds, const=EVERY_S, metavar="SECONDS", help="redraw until nothing waits or runs"
    )
    parser.add_argument("--retry-failed", action="store_true", help="submit the failed rows' jobs again")
    parser.add_argument("--cancel", action="store_true", help="end what waits or runs")
    parser.add_argument("--withdraw", action="store_true", help="take back what is asked for and not done")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    parser.add_argument("--yes", action="store_true", help="--cancel, --withdraw without asking")
    options = parser.parse_args(_spelt_out(sys.argv[1:] if arguments is None else arguments))
    runs_dir = place(options.runs.removeprefix("runs_dir="))
    try:
        if sum(map(bool, (options.watch, options.retry_failed, options.cancel, options.withdraw, options.json))) > 1:
            raise UserError("--watch, --retry-failed, --cancel, --withdraw and --json: one at a time")
        if options.yes and not (options.cancel or options.withdraw):
            raise UserError("--yes answers --cancel and --withdraw, and means nothing without them")
        looker = Looker(runs_dir)
        if options.watch:
            return 1 if follow(looker, runs_dir, options.study, options.watch) else 0
        if options.retry_failed:
            return _retry(looker, runs_dir, options.study)
        overview = looker.look(what_is_asked(runs_dir, options.study))
        if options.cancel:
            return _cancel(looker, overview, options.yes)
        if options.withdraw:
            return _withdraw(looker, overview, options.study, options.yes)
        if options.json:
            print(json.dumps([as_json(row) for row in overview.rows], indent=1))
            if overview.problem:
                print(f"only what the files say: {overview.problem}", file=sys.stderr)
        else:
            _show(overview, options.study, str(runs_dir))
    except UserError as error:
        print(f"fcdm.status: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 0
    return 0


def _show(overview: Overview, study: str | None, runs_dir: str) -> None:
    console = Console()
    if console.is_terminal:
        console.print(table(overview.rows))
    else:
        for line in plain_lines(overview.rows):
            print(line)
    for line in ("", summary(overview.rows), *begun_from(overview, runs_dir), *next_steps(overview, study, runs_dir)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _retry(looker: Looker, runs_dir: Path, study: str | None) -> int:
    asked = what_is_asked(runs_dir, study)
    done = retry_failed(looker, asked)
    for line in done.lines:
        print(line)
    if done.local:
        names = ", ".join(sorted({row.run for row in done.local}))
        print(f"not by SLURM, so its command continues it: {names}")
        for command in commands(Overview(done.local, asked), done.local):
            print(f"  {command}")
    if done.problem:
        raise UserError(f"nothing {'else ' if done.lines else ''}is submitted: {done.problem}")
    if not done.lines and not done.local:
        print("nothing has failed")
    return 0


def _cancel(looker: Looker, overview: Overview, sure: bool) -> int:
    jobs, processes = on_their_way(overview.rows)
    if overview.problem:
        print(f"SLURM jobs are left alone: {overview.problem}", file=sys.stderr)
    if not jobs and not processes:
        for line in cancel(looker, overview.rows) or ["nothing waits or runs"]:
            print(line)
        return 0
    parts = [plural(len(jobs), "SLURM job")] if jobs else []
    parts += [f"{plural(len(processes), 'process', 'processes')} of this machine"] if processes else []
    if not sure:
        if not sys.stdin.isatty():
            raise UserError(f"--cancel would end {' and '.join(parts)}: say --yes as well where nobody can be asked")
        if input(f"end {' and '.join(parts)}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing is cancelled")
            return 0
    for line in cancel(looker, overview.rows):
        print(line)
    return 0


def _withdraw(looker: Looker, overview: Overview, study: str | None, sure: bool) -> int:
    asked = withdrawal_of(overview, study)
    if not asked.count:
        print("nothing to withdraw: all that is asked for is done")
        return 0
    if not sure:
        if not sys.stdin.isatty():
            raise UserError(f"--withdraw would take back {asked}: say --yes as well where nobody can be asked")
        if input(f"take back {asked}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing is withdrawn")
            return 0
    for line in withdraw(looker, overview, asked):
        print(line)
    return 0


def _spelt_out(arguments: list[str]) -> list[str]:
    """`--watch STUDY` means the study, though argparse would take it for the seconds."""
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
