"""What waits or runs and nobody asks for: a request was withdrawn or dropped, or the run's folder was deleted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fcdm.jobs.job import BENCHMARK
from fcdm.jobstatus.rows import DONE, FAILED, NOT_SUBMITTED, RUNNING, WAITING, Attempt, StatusRow, about
from fcdm.jobstatus.run_files import Key
from fcdm.runs.formats import Study
from fcdm.slurm.reasons import waiting_for

FOLDER_GONE = "in the queue, folder gone: it can only fail, so cancel it"
NOT_ASKED = "asked for by no study"


def with_unasked(
    rows: Sequence[StatusRow], attempts: Mapping[str, Sequence[Attempt]], everything: bool
) -> list[StatusRow]:
    """The rows, with the jobs in the queue that none of them has, so that they are seen and can be cancelled.

    `everything`: the rows are all that any study asks for; else only jobs whose run's folder was deleted are added.
    """
    shown = list(rows)
    covered = {name for row in rows for name in row.cancel}
    done = {(row.run, row.budget, row.protocol) for row in rows if row.state == DONE}
    for run, attempt in ((run, attempt) for run, some in attempts.items() for attempt in some):
        jobs = tuple((attempt.task.conf, job) for job in attempt.active if (attempt.task.conf, job) not in covered)
        gone = not attempt.task.job_file.exists()
        again = any(other.task.job_file.exists() for other in attempts[run])  # its command has made it again
        failed = gone and not again and attempt.queued and attempt.info is not None and attempt.info.state == "FAILED"
        if attempt.task.work == BENCHMARK or not (failed or (jobs and (gone or everything))):
            continue
        # A job that has just done all that it was asked for is about to end.
        left = [key for key in _keys(attempt) if (run, *key) not in done]
        mine = [at for at, row in enumerate(shown) if row.run == run and row.state == NOT_SUBMITTED] if gone else []
        if not mine and (gone or left):
            shown.append(StatusRow(run, *max(left, default=(0, ""))))
            mine = [len(shown) - 1]
        for at in mine:
            shown[at] = _row(shown[at], attempt, jobs, gone)
    return shown


def _keys(attempt: Attempt) -> list[Key]:
    """(budget, protocol) of all that a job does."""
    return [(budget, protocol or "") for protocol, budgets in attempt.notes.parts for budget in budgets]


def _row(row: StatusRow, attempt: Attempt, jobs: tuple[tuple[str | None, str], ...], gone: bool) -> StatusRow:
    row = replace(about(row, attempt), cancel=(*row.cancel, *jobs))
    if not jobs:
        text = "its folder was deleted, so its command makes it again"
        return replace(row, state=FAILED, text=text, error=text)
    if attempt.runs:
        return replace(row, state=RUNNING, text=FOLDER_GONE if gone else NOT_ASKED)
    text = FOLDER_GONE if gone else f"{NOT_ASKED}, {waiting_for(attempt.info, attempt.job or '')}"
    return replace(row, state=WAITING, text=text)


def not_in_study(
    rows: Iterable[StatusRow],
    attempts: Mapping[str, Sequence[Attempt]],
    studies: Collection[Study],
    only: Collection[Study] | None = None,
) -> list[StatusRow]:
    """The rows of jobs in the queue that do nothing which a study still asks for; each has those jobs alone.

    `rows`, `attempts`, `studies`: of everything, since a run may serve several. `only`: jobs of these studies.
    """
    rows = list(rows)
    asked = {(one.run, budget, one.protocol_id) for study in studies for one in study.wanted for budget in one.budgets}
    needed = {job for row in rows if row.key in asked and row.state != DONE for job in row.cancel}
    jobs = set()
    for run, attempt in ((run, attempt) for run, some in attempts.items() for attempt in some):
        mine = only is None or any(
            study.name in attempt.notes.studies or any(one.run == run for one in study.requests) for study in only
        )
        if mine and attempt.task.work != BENCHMARK:
            jobs |= {(attempt.task.conf, job) for job in attempt.active} - needed
    found = [(row, tuple(job for job in row.cancel if job in jobs)) for row in rows]
    return [replace(row, cancel=left, local=None) for row, left in found if left]
