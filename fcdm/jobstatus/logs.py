"""The logs of runs: their last lines, one of them followed while its job lives, and a shell beside it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.jobstatus.grouped import worst_first
from fcdm.jobstatus.last_words import end_of_log
from fcdm.jobstatus.rows import WAITING, StatusRow

LINES, LINES_OF_SEVERAL, MOST_LOGS = 40, 10, 20
READ_EVERY_S = 0.5
TAIL_BYTES = 262_144


def logs_of(rows: Sequence[StatusRow], runs_dir: Path, jobs: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Run -> the logs that have something in them: what its jobs print into, then what SLURM printed itself.

    jobs: SLURM jobs whose own log is wanted, besides that with the cause of a failure.
    """
    found: dict[str, list[Path]] = {}
    for row in rows:
        paths = found.setdefault(row.run, [runs_dir / row.run / "log.txt"])
        paths += [Path(row.log)] if row.log else []
    for job in jobs:
        for path in sorted((runs_dir / "launches").glob(f"*/{job}*.log")):
            if path.stem == job or path.stem.startswith(f"{job}_"):
                for paths in found.values():
                    paths.append(path)
    return {run: _with_content(paths) for run, paths in found.items()}


def print_logs(rows: Sequence[StatusRow], runs_dir: Path, jobs: Sequence[str] = ()) -> None:
    """The end of every log; of many runs, of those that need a look first. Raises UserError where there is none."""
    logs = logs_of(worst_first(rows), runs_dir, jobs)
    count = LINES if len(logs) == 1 else LINES_OF_SEVERAL
    for run, paths in list(logs.items())[:MOST_LOGS]:
        for path in paths:
            print(f"==> {short(path)} <==")
            for line in _last_lines(path, count):
                print(line)
            print()
        if not paths and len(logs) > 1:
            print(f"{run}: {_no_log(run, rows)}\n")
    if len(logs) > MOST_LOGS:
        print(f"... and {plural(len(logs) - MOST_LOGS, 'more run')}: choose by words (failed, model=N, a run's name)")
    if not any(logs.values()):
        raise UserError("; ".join(f"{run}: {_no_log(run, rows)}" for run in list(logs)[:3]) or "no run is chosen")


def follow_log(look: Callable[[], tuple[list[StatusRow], bool]], runs_dir: Path, every: float) -> list[StatusRow]:
    """Print a run's log as it grows, until nothing waits or runs for it any more; its rows then.

    look: the rows that are chosen, and whether they may change. Raises UserError where they are of several runs.
    """
    rows, going = look()
    run, path = _one_run(rows, runs_dir)
    print(f"==> {short(path)} <==", flush=True)
    waits = next((row for row in rows if row.run == run and row.state == WAITING), None)
    if waits:
        print(f"{run} is waiting ({waits.text})", file=sys.stderr, flush=True)
    log = _Growing(path)
    asked_at = time.monotonic()
    while going:
        log.print_news()
        time.sleep(min(READ_EVERY_S, every))
        if time.monotonic() - asked_at >= every:
            rows, going = look()
            asked_at = time.monotonic()
    log.print_news()
    return [row for row in rows if row.run == run]


def shell_beside(rows: Sequence[StatusRow]) -> str:
    """The command that opens a shell on the node of a running job, in its allocation; "" where none runs."""
    row = next((row for row in rows if row.plain_id and row.active), None)
    if row is None:
        return ""
    conf = next((conf for conf, job in row.cancel if job == row.job), None)
    there = f"SLURM_CONF={shlex.quote(conf)} " if conf and conf != os.environ.get("SLURM_CONF") else ""
    return f"{there}srun --jobid={row.plain_id} --overlap --pty bash"


def short(path: Path | str) -> str:
    """Relative to where one is, if that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) and Path(relative).parent.exists() else str(path)


class _Growing:
    """A log that is written to; it may not be there yet, be cut or be replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inode, self.at = 0, 0
        for line in _last_lines(path, LINES):
            print(line)
        status = self._status()
        if status:
            self.inode, self.at = status.st_ino, status.st_size

    def print_news(self) -> None:
        status = self._status()
        if status is None:
            return
        if status.st_ino != self.inode or status.st_size < self.at:
            self.inode, self.at = status.st_ino, 0
        if status.st_size > self.at:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                news = file.read()
            self.at += len(news)
            sys.stdout.write(news.decode(errors="replace"))
            sys.stdout.flush()

    def _status(self) -> os.stat_result | None:
        try:
            return self.path.stat()
        except OSError:
            return None


def _one_run(rows: Sequence[StatusRow], runs_dir: Path) -> tuple[str, Path]:
    names = list(dict.fromkeys(row.run for row in rows))
    alive = list(dict.fromkeys(row.run for row in rows if row.active))
    run = names[0] if len(names) == 1 else alive[0] if len(alive) == 1 else ""
    if not run:
        which = ", ".join((alive or names)[:6]) or "none"
        raise UserError(f"--follow follows the log of one run, and {len(alive or names)} are chosen: {which}")
    logs = [Path(row.log) for row in rows if row.run == run and row.log]
    path = logs[0] if logs else runs_dir / run / "log.txt"
    if not path.exists() and not any(row.plain_id or row.cancel for row in rows if row.run == run):
        raise UserError(f"{run}: {_no_log(run, rows)}")
    return run, path


def _no_log(run: str, rows: Sequence[StatusRow]) -> str:
    row = next(row for row in rows if row.run == run)
    if row.local:
        return "it prints into its terminal, and has no log"
    return f"no log: nothing has printed into {run}/log.txt (it is {row.state}{f', {row.text}' if row.text else ''})"


def _with_content(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            if path.stat().st_size:
                found.setdefault(path.resolve(), path)
        except OSError:
            continue
    return list(found.values())


def _last_lines(path: Path, count: int) -> list[str]:
    return end_of_log(path, TAIL_BYTES)[-count:]
