"""Why nothing works on a budget and nothing waits for it. Pure logic, a part of `fcdm.launch.status.states`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fcdm.launch.status.job_words import ended
from fcdm.launch.status.rows import (
    CANCELLED,
    FAILED,
    LOST,
    STOPPED,
    TRAINED,
    UNKNOWN,
    Attempt,
    Row,
    about,
    process_name,
)
from fcdm.launch.status.run_files import RunFiles


def at_rest(
    row: Row,
    run: RunFiles,
    attempts: Sequence[Attempt],
    trainers: Sequence[Attempt],
    judges: Sequence[Attempt],
    kept: bool,
) -> Row:
    """The row of a budget that nothing works on and nothing waits for: why?

    `attempts`: everything submitted for the run; of them `trainers` and `judges` cover this budget. `kept`: its
    checkpoint is there.
    """
    row = replace(row, active=False)
    last = next((one for one in reversed(trainers) if one.job), None)
    judge = next((one for one in reversed(judges) if one.job), None)
    submitted = max((one.notes.submitted for one in (last, judge) if one), default=0.0)
    ours = {job for one in attempts for job in one.task.ids}
    if run.claim is not None and run.claim.job not in ours and run.claim.claimed > submitted:
        found = _ended_outside(row, run)
        if found:
            return found
    elif last is None and judge is None and run.local and run.local.error:  # it failed before it could claim the run
        return _failed_outside(row, run, str(run.local.error.get("error")))
    if last and not (kept and last.task.work == "train"):
        found = _ended(about(row, last), last)
        if found.state == FAILED:
            found = replace(found, retry=(last.task, *([judges[-1].task] if judges else [])))
        return found
    if judge and kept:
        found = _ended(about(row, judge), judge)
        return replace(found, retry=(judge.task,)) if found.state == FAILED else found
    if kept:
        return replace(row, state=TRAINED, text="not judged")
    if run.tail.step >= row.budget:
        text = "training has passed it and its checkpoint is gone: ask for more steps, or for another seed"
        return replace(row, state=LOST, text=text)
    cut = any(one.job is None for one in trainers)
    return replace(row, text="its launch was cut off before SLURM had it" if cut else "")


def _ended(row: Row, attempt: Attempt) -> Row:
    """How a job of ours ended that is not on its way any more."""
    error, stopped = _of_last_start(attempt.notes.error, attempt), _of_last_start(attempt.notes.stopped, attempt)
    info = attempt.info
    row = replace(row, log=attempt.log)
    if info is not None and info.state == "CANCELLED":
        return replace(row, state=CANCELLED, text=info.reason)
    if info is None or info.active or info.state in ("FAILED", "COMPLETED"):
        if error:
            return replace(row, state=FAILED, error=error, text=error)
        if stopped:
            return replace(row, state=STOPPED, text=f"by {stopped}")
    if not attempt.asked:
        return replace(row, state=UNKNOWN, text=f"submitted as job {attempt.job}")
    if info is not None and info.active:
        text = f"accounting says {info.state}, but your queue does not show job {attempt.job}"
        return replace(row, state=UNKNOWN, text=text)
    if info is None and not attempt.started:
        return replace(row, state=CANCELLED, text="left the queue before it started")
    text = ended(info, attempt.last_line)
    if info is not None and info.state == "COMPLETED":
        text = f"ended without an error, but step {row.budget} is not {'trained' if _trains(attempt) else 'judged'}"
    return replace(row, state=FAILED, error=text, text=text)


def _ended_outside(row: Row, run: RunFiles) -> Row | None:
    """How a process ended that no job of ours started; None: it did what it was asked, or nobody knows."""
    holder = run.holder
    if holder is not None and holder.alive is None:
        return replace(row, state=UNKNOWN, local=holder, job=process_name(holder), text=f"held by {holder}")
    if holder is not None:
        return _failed_outside(row, run, f"killed: {process_name(holder)} ended without a word")
    notes, segment = run.local, run.tail.segment
    claimed = run.claim.claimed if run.claim else 0.0
    for kind in ("error", "stopped"):
        note = (notes.error if kind == "error" else notes.stopped) if notes else None
        if note and float(note.get("time", 0)) >= claimed:
            if kind == "error":
                return _failed_outside(row, run, str(note.get("error")))
            return replace(row, state=STOPPED, text=f"by {note.get('signal')}")
    if segment.get("segment") != "end" or segment.get("completed") or float(segment["time"]) < claimed:
        return None
    error = str(segment.get("error") or "")
    if error.startswith(("Stopped", "KeyboardInterrupt")):
        return replace(row, state=STOPPED, text=error.partition(": ")[2].removeprefix("stopped "))
    return _failed_outside(row, run, error) if error else None


def _failed_outside(row: Row, run: RunFiles, error: str) -> Row:
    return replace(row, state=FAILED, error=error, text=error, log=run.log)


def _of_last_start(note: object, attempt: Attempt) -> str:
    """The error or the signal in a note, if the task's last job left it."""
    if not isinstance(note, dict) or note.get("job") not in (None, attempt.job):
        return ""
    return str(note.get("error") or note.get("signal") or "")


def _trains(attempt: Attempt) -> bool:
    return attempt.task.work == "train"
