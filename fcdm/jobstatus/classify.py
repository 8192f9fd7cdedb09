"""What became of every budget of every run: pure logic over what SLURM, the claims and the files say.

`fcdm.jobstatus.collect` gathers the facts; nothing here reads a file, asks a cluster or looks at the clock.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from dataclasses import replace

from fcdm.formatting import duration_text
from fcdm.jobs.job import EVALUATE
from fcdm.jobs.progress import JobProgress
from fcdm.jobstatus.last_words import full_disk
from fcdm.jobstatus.rows import (
    CANCELLED,
    DAMAGED,
    DONE,
    EVALUATING,
    FAILED,
    LOST,
    RUNNING,
    STOPPED,
    TRAINED,
    UNKNOWN,
    WAITING,
    Attempt,
    StatusRow,
    about,
    process_name,
)
from fcdm.jobstatus.run_files import Key, RunFiles
from fcdm.runs.formats import end_of
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.run_lock import HolderInfo
from fcdm.slurm.reasons import ended, names_its_cause, waiting_for
from fcdm.slurm.sbatch_script import SETUP_FAILED

FRESH_S = 120.0
"""A heartbeat (every 10 s) not older than this is one of a living process, where nobody else can say."""
SILENT_S = 600.0


def rows_of(asked: Sequence[Key], run: RunFiles, attempts: Sequence[Attempt], now: float) -> list[StatusRow]:
    """One row for each (budget, protocol) asked of a run. `attempts`: all that was submitted for it, oldest first."""
    return [_row(key, run, attempts, asked, now) for key in asked]


def _row(key: Key, run: RunFiles, attempts: Sequence[Attempt], asked: Collection[Key], now: float) -> StatusRow:
    budget, protocol = key
    flops = None if run.step_flops is None else run.step_flops * budget
    row = StatusRow(run.folder.name, budget, protocol, flops)
    if run.is_done(key) and protocol == TRAINED_ONLY:
        return replace(row, state=DONE, text="trained")
    if key in run.evaluated:
        done = run.evaluated[key]
        return replace(row, state=DONE, fid=done.fid, distance=done.distance, text=done.remark)
    mine = [attempt for attempt in attempts if _covers(attempt, key, asked)]
    trainers = [attempt for attempt in mine if attempt.task.work != EVALUATE]
    evaluators = [attempt for attempt in mine if attempt.task.work == EVALUATE]
    tail = run.tail
    row = replace(
        row,
        step=tail.step if tail.time is not None else None,
        age=max(0.0, now - tail.time) if tail.time is not None else None,
        cancel=tuple((attempt.task.conf, job) for attempt in mine for job in attempt.active),
    )
    if key in run.damaged:
        return replace(
            row,
            state=DAMAGED,
            text=f"{run.damaged[key]} is no evaluation any more: remove it, and it is made again",
            active=bool(row.cancel),
        )
    kept = budget in run.checkpoints

    running = next((one for one in reversed(evaluators) if one.runs), None)
    if running and kept:
        return _being_evaluated(about(row, running), run.evaluation, running, now)
    outside = _outside(run, attempts)
    if outside is not None and _seems_alive(outside, now):
        row = replace(row, local=outside, job=process_name(outside), active=True, log=run.log)
        return _at_work(row, run, key, asked, None, [], now)
    running = next((one for one in reversed(trainers) if one.runs or _runs_unseen(one, run, now)), None)
    if running:
        return _at_work(about(row, running), run, key, asked, running, evaluators, now)
    waiting = next((one for one in reversed(trainers) if one.waits), None)
    if waiting:
        return replace(about(row, waiting), state=WAITING, text=_why(waiting))
    waiting = next((one for one in reversed(evaluators) if one.waits), None)
    if waiting and kept:
        return replace(about(row, waiting), state=TRAINED, text=f"its evaluation waits: {_why(waiting)}")
    return at_rest(row, run, attempts, trainers, evaluators, kept)


def _being_evaluated(row: StatusRow, progress: JobProgress | None, attempt: Attempt, now: float) -> StatusRow:
    if progress is None or not progress.evaluating or progress.step != row.budget:
        return replace(row, state=TRAINED, text=f"job {attempt.job} evaluates it next")
    return replace(_sampled(row, progress), age=max(0.0, now - progress.time), active=True)


def _sampled(row: StatusRow, progress: JobProgress) -> StatusRow:
    drawn = progress.samples, progress.samples_wanted
    return replace(row, state=EVALUATING, samples=drawn if drawn[0] < drawn[1] else None, text=progress.samples_text)


def _at_work(
    row: StatusRow,
    run: RunFiles,
    key: Key,
    asked: Collection[Key],
    attempt: Attempt | None,
    evaluators: Sequence[Attempt],
    now: float,
) -> StatusRow:
    """A process trains the run, by a SLURM job of ours (`attempt`) or not."""
    row = replace(row, active=True)
    inline = attempt is None or attempt.task.work == "all"
    claim = run.holder.claim if run.holder else None
    begun = claim is not None and (attempt is None or claim.job in (attempt.job, None))
    # What an earlier start of the job said of itself is no news.
    progress = run.training if claim and begun and run.training and run.training.time >= claim.claimed - 1 else None
    evaluating = progress is not None and progress.evaluating
    if progress and evaluating and progress.step == row.budget and inline:
        return _sampled(row, progress)
    if row.budget in run.checkpoints:
        evaluator = next((one for one in reversed(evaluators) if one.active), None)
        if evaluator:
            return replace(row, state=TRAINED, text=f"job {evaluator.job} will evaluate it")
        return replace(row, state=TRAINED, text="evaluated next" if inline else "not evaluated yet")
    if not begun:
        return replace(row, state=RUNNING, text=_suspended(attempt) or "starting")
    step = progress.step if progress and not evaluating else row.step or 0
    speed, size = run.tail.images_per_s, run.batch_size
    eta = None
    if speed and size:
        eta = max(0, row.budget - step) * size / speed
        known = [evaluated.seconds for evaluated in run.evaluated.values() if evaluated.seconds is not None]
        if inline and known:
            left = [other for other in asked if other[0] <= row.budget and other[1] != TRAINED_ONLY]
            left = [other for other in left if other not in run.evaluated]
            eta += len(left) * sum(known) / len(known)
    signs = [run.holder.heartbeat if run.holder else None, run.tail.time, progress.time if progress else None]
    silent = now - max(sign for sign in signs if sign is not None) if any(signs) else 0.0
    text = _suspended(attempt)
    if not text and silent > SILENT_S:
        text = f"no sign of life for {duration_text(silent)}"
    elif not text and evaluating and progress:
        text = progress.text
    return replace(row, state=RUNNING, step=step, images_per_s=speed, eta=eta, text=text)


def _covers(attempt: Attempt, key: Key, asked: Collection[Key]) -> bool:
    """Whether the task's work includes this budget under this protocol; to train is to reach it under any."""
    budget, protocol = key
    if protocol == TRAINED_ONLY:
        reached = max((step for _, budgets in attempt.notes.parts for step in budgets), default=0)
        return attempt.task.work != EVALUATE and budget <= reached
    known = {TRAINED_ONLY, *(name for _, name in asked)}
    for name, budgets in attempt.notes.parts:
        # A protocol that nobody asked for was computed by another version than froze the job.
        if budget in budgets and (name == protocol or name not in known or attempt.task.work == "train"):
            return True
    return False


def _outside(run: RunFiles, attempts: Sequence[Attempt]) -> HolderInfo | None:
    """Who holds the run, unless that is a SLURM job of ours: dead or alive."""
    holder = run.holder
    if holder is None or (holder.claim and holder.claim.job in {job for one in attempts for job in one.task.ids}):
        return None
    return holder


def _seems_alive(holder: HolderInfo, now: float) -> bool:
    return holder.alive or (holder.alive is None and now - holder.heartbeat < FRESH_S)


def _runs_unseen(attempt: Attempt, run: RunFiles, now: float) -> bool:
    """Its process beats, though the queue cannot be asked or shows only one's own jobs."""
    unseen = not attempt.asked or (attempt.info is not None and attempt.info.active and not attempt.queued)
    holder = run.holder
    return bool(
        unseen and holder and holder.claim and holder.claim.job == attempt.job and now - holder.heartbeat < FRESH_S
    )


def _why(attempt: Attempt) -> str:
    return waiting_for(attempt.info, attempt.job or "") if attempt.waits else "runs"


def _suspended(attempt: Attempt | None) -> str:
    states = {"SUSPENDED": "suspended", "STOPPED": "suspended", "COMPLETING": "ending"}
    return states.get(attempt.info.state, "") if attempt and attempt.info else ""


def at_rest(
    row: StatusRow,
    run: RunFiles,
    attempts: Sequence[Attempt],
    trainers: Sequence[Attempt],
    evaluators: Sequence[Attempt],
    kept: bool,
) -> StatusRow:
    """The row of a budget that nothing works on and nothing waits for: why?

    `attempts`: everything submitted for the run; of them `trainers` and `evaluators` cover this budget. `kept`: its
    checkpoint is there.
    """
    row = replace(row, active=False)
    last = next((one for one in reversed(trainers) if one.job), None)
    evaluator = next((one for one in reversed(evaluators) if one.job), None)
    submitted = max((one.notes.submitted for one in (last, evaluator) if one), default=0.0)
    ours = {job for one in attempts for job in one.task.ids}
    if run.claim is not None and run.claim.job not in ours and run.claim.claimed > submitted:
        over = _ended_outside(row, run)
        if over:
            return over
    elif last is None and evaluator is None and run.local and run.local.error:
        # It failed before it could claim the run.
        return _failed_outside(row, run, str(run.local.error.get("error")))
    if last and not (kept and last.task.work == "train"):
        over = _ended(about(row, last), last, run)
        again = (last.task, *(one.task for one in evaluators[-1:]))
        return replace(over, retry=again) if over.state == FAILED else over
    if evaluator and kept:
        over = _ended(about(row, evaluator), evaluator, run)
        return replace(over, retry=(evaluator.task,)) if over.state == FAILED else over
    if kept:
        return replace(row, state=TRAINED, text="not evaluated")
    if run.tail.step >= row.budget and row.protocol != TRAINED_ONLY:
        text = "training has passed it and its checkpoint is gone: ask for more steps, or for another seed"
        return replace(row, state=LOST, text=text)
    cut = any(one.job is None for one in trainers)
    return replace(row, text="its launch was cut off before SLURM had it" if cut else "")


def _ended(row: StatusRow, attempt: Attempt, run: RunFiles) -> StatusRow:
    """How a job of ours ended that is not on its way any more."""
    error, stopped = _of_last_start(attempt.notes.error, attempt), _of_last_start(attempt.notes.stopped, attempt)
    info = attempt.info
    row = replace(row, log=attempt.log)
    if info is not None and info.state == "CANCELLED":
        return replace(row, state=CANCELLED, text=f"by {info.cancelled_by}" if info.cancelled_by else "")
    if info is None or info.active or info.state in ("FAILED", "COMPLETED"):
        if error:
            return replace(row, state=FAILED, error=error, text=full_disk(error, run.folder) or error)
        if stopped:
            return replace(row, state=STOPPED, text=f"by {stopped}")
    if not attempt.asked:
        return replace(row, state=UNKNOWN, text=f"submitted as job {attempt.job}")
    if info is not None and info.active:
        text = f"accounting says {info.state}, but your queue does not show job {attempt.job}"
        return replace(row, state=UNKNOWN, text=text)
    if info is None and not attempt.started:
        return replace(row, state=CANCELLED, text="left the queue before it started")
    text = ended(info, attempt.last_words, attempt.task.launch)
    if info is not None and info.state == "COMPLETED":
        wanted = "trained" if attempt.task.work == "train" or row.protocol == TRAINED_ONLY else "evaluated"
        text = f"ended without an error, but step {row.budget} is not {wanted}"
    elif full_disk(attempt.last_words, run.folder):
        text = full_disk(attempt.last_words, run.folder)
    elif info is not None and info.state == "FAILED" and info.exit_code == f"{errno.ENOSPC}:0":
        text = f"disk full: {run.folder}"  # a process that has its say leaves a note: this one had no room (fcdm.job)
    elif run.disk_full and not attempt.last_words and not (info and names_its_cause(info)):
        text += "; the disk is full now"
    return replace(row, state=FAILED, error=text, text=text)


def _ended_outside(row: StatusRow, run: RunFiles) -> StatusRow | None:
    """How a process ended that no job of ours started; None: it did what it was asked, or nobody knows."""
    holder = run.holder
    if holder is not None and holder.alive is None:
        return replace(row, state=UNKNOWN, local=holder, job=process_name(holder), text=f"held by {holder}")
    if holder is not None:
        return _failed_outside(row, run, f"killed: {process_name(holder)} ended without a word")
    notes = [note for note in (run.local.error, run.local.stopped) if note] if run.local else []
    ends = [(note, note.get("signal"), note.get("error")) for note in notes]
    for what, stopped, error in [*ends, (run.tail.segment, *end_of(run.tail.segment))]:
        if float(what.get("time", 0)) < (run.claim.claimed if run.claim else 0.0):
            continue  # of an earlier process
        if error:
            return _failed_outside(row, run, str(error))
        if stopped:
            return replace(row, state=STOPPED, text=f"by {stopped}")
    return None


def _failed_outside(row: StatusRow, run: RunFiles, error: str) -> StatusRow:
    return replace(row, state=FAILED, error=error, text=full_disk(error, run.folder) or error, log=run.log)


def _of_last_start(note: object, attempt: Attempt) -> str:
    """The error or the signal in a note, if the last start of the task's last job left it."""
    if not isinstance(note, dict) or note.get("job") not in (None, attempt.job):
        return ""
    if attempt.last_words.startswith(SETUP_FAILED):
        return ""  # the last start did not get to where a note is made
    restart = note.get("restart")
    if isinstance(restart, int) and attempt.info is not None and attempt.info.restarts > restart:
        return ""
    return str(note.get("error") or note.get("signal") or "")
