"""What of `fcdm.status` acts: says what it would do, asks, does it, and tells what became of it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.jobstatus.actions import Done, cancel, on_their_way, retry_failed
from fcdm.jobstatus.collect import Looker, Overview, what_is_asked
from fcdm.jobstatus.replace import in_queue_of, replace_jobs
from fcdm.jobstatus.rows import StatusRow
from fcdm.jobstatus.select import Selection
from fcdm.jobstatus.status_table import commands, plain_lines
from fcdm.jobstatus.unasked import not_in_study
from fcdm.jobstatus.withdraw import withdraw, withdrawal_of
from fcdm.runs.checkpoints import newest_step
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.revision import code_revision
from fcdm.runs.run_paths import evaluation_files
from fcdm.slurm.code_snapshot import PACKAGE


def retry(looker: Looker, selection: Selection) -> int:
    """--retry-failed. Raises UserError where something is not submitted."""
    done = retry_failed(looker, selection.asked, selection.rows)
    for line in done.lines:
        print(line)
    if done.elsewhere:
        names = ", ".join(sorted({row.run for row in done.elsewhere}))
        print(f"not for SLURM to do again, so its command continues it: {names}")
        for command in commands(Overview(done.elsewhere, selection.asked), done.elsewhere):
            print(f"  {command}")
    if not done.lines and not done.elsewhere and not done.problem:
        print("nothing has failed")
    return _told(done)


def confirm_cancel(looker: Looker, overview: Overview, sure: bool, listed: bool = False) -> int:
    """--cancel; `listed`: says first of which rows. Exit code 1 where something goes on, or may."""
    jobs, processes = on_their_way(overview.rows)
    for line in plain_lines(overview.rows) if listed else ():
        print(line)
    for line in [] if listed else _with_them(overview):
        print(line)
    for line in _left_alone(overview, bool(jobs)):
        print(line, file=sys.stderr)
    parts = [plural(len(jobs), "SLURM job")] if jobs else []
    parts += [f"{plural(len(processes), 'process', 'processes')} of this machine"] if processes else []
    if parts and not _agreed(f"end {' and '.join(parts)}", "--cancel", sure):
        print("nothing is cancelled")
        return 0
    done = cancel(looker, overview.rows)
    for line in done.lines:
        print(line)
    if not done.lines and not done.problem and not overview.blind:
        print("nothing waits or runs")
    return _told(done) or int(bool(overview.blind))


def _with_them(overview: Overview) -> list[str]:
    """A line for each job that is still to do other budgets than the rows': they end with it."""
    rows: dict[str, list[StatusRow]] = {}
    for row in overview.rows:
        rows.setdefault(row.run, []).append(row)
    lines = []
    for run, mine in rows.items():
        ending = {name for row in mine for name in row.cancel}
        for attempt in overview.attempts.get(run, ()):
            done = {step for step, _, _ in evaluation_files(attempt.task.run / "evaluations")}
            newest = newest_step(attempt.task.run / "checkpoints")
            left = {
                step
                for protocol, some in attempt.notes.parts
                for step in some
                if step > newest or protocol != TRAINED_ONLY
            }
            steps = left - {row.budget for row in mine} - done
            jobs = [job for job in attempt.active if (attempt.task.conf, job) in ending]
            if steps and jobs:
                other = ",".join(map(str, sorted(steps)))
                lines.append(f"ending job {', '.join(jobs)} of {run} ends its steps={other} too")
    return lines


def _left_alone(overview: Overview, some: bool) -> list[str]:
    """Whose SLURM jobs are left alone; `some`: those of another cluster are not."""
    if not some:
        return [f"SLURM jobs are left alone: {overview.blind}"] if overview.blind else []
    return [
        f"SLURM jobs of {conf or 'the cluster of this machine'} are left alone: {why}"
        for conf, why in {**overview.problems, **overview.unseen}.items()
    ]


def confirm_replace(looker: Looker, selection: Selection, overview: Overview, sure: bool) -> int:
    """--replace. Raises UserError where nothing is replaced."""
    runs = list(dict.fromkeys(row.run for row in overview.rows if row.cancel))
    jobs = sum(len(attempt.active) for attempt in in_queue_of(overview, runs))
    if overview.blind:
        raise UserError(f"nothing is replaced: {overview.blind}")
    for run in dict.fromkeys(f"{row.run} is held by {row.local}" for row in overview.rows if row.active and row.local):
        print(f"{run}: stop it, and its command goes on with the code of now")
    if not jobs:
        print("no SLURM job waits or runs")
        return 0
    deed = f"replace {plural(jobs, 'SLURM job')} of {plural(len(runs), 'run')} with the code in {PACKAGE.parent}"
    if not _agreed(f"{deed} (revision {code_revision()})", "--replace", sure):
        print("nothing is replaced")
        return 0
    done = replace_jobs(looker, selection.asked, runs)
    for line in done.lines:
        print(line)
    return _told(done)


def confirm_withdraw(looker: Looker, overview: Overview, sure: bool) -> int:
    """--withdraw. Raises UserError where nothing is withdrawn."""
    asked = withdrawal_of(overview)
    if not asked.count:
        print("nothing to withdraw: all that is asked for is done")
        return 0
    if not _agreed(f"take back {asked}", "--withdraw", sure):
        print("nothing is withdrawn")
        return 0
    for line in withdraw(looker, overview, asked):
        print(line)
    return 0


def dropped(looker: Looker, selection: Selection, runs_dir: Path) -> Overview:
    """--not-in-study: the rows of jobs in the queue that do nothing which a study still asks for."""
    everything = looker.look(what_is_asked(runs_dir))
    asked = selection.asked
    only = asked.studies if asked.named else None
    rows = not_in_study(everything.rows, everything.attempts, everything.asked.studies, only)
    if asked.narrowed:
        rows = [row for row in rows if row.run in asked.runs]
    return dataclasses.replace(everything, rows=selection.rows(rows))


def _told(done: Done) -> int:
    if done.problem:
        raise UserError(done.problem)
    return 0


def _agreed(deed: str, option: str, sure: bool) -> bool:
    """Whether a person says yes. Raises UserError where nobody can be asked."""
    if sure:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{option} would {deed}: say --yes as well where nobody can be asked")
    return input(f"{deed}? [y/N] ").strip().lower() in ("y", "yes")
