"""What a SLURM job does with a signal: requeue itself as the same job, or end for good.

USR1 and USR2 (sent before the time limit, by a preempting scheduler, or by a person) ask for a requeue. SIGTERM never
does: a scheduler that preempts requeues by itself, and a job that requeued itself on SIGTERM came back after `scancel`.

A requeue is counted, in `<n>.requeues.json`, once it has happened. SLURM may kill the process before it hears that, and
may do what it was asked though its answer was lost: so the requeue is announced in `<n>.requeueing.json` before, and
the next start of the job, which is the proof, counts it where the process could not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fcdm.atomic import read_json_if_whole, write_json
from fcdm.errors import UserError
from fcdm.jobs.job import end_file
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run
from fcdm.runs.lock_files import own_claim, own_job, own_restart
from fcdm.runs.run_paths import evaluation_files, unfinished_evaluations
from fcdm.runs.scontrol import describe, shown
from fcdm.runs.slurm_states import WAITING

USERS = (signal.SIGUSR1, signal.SIGUSR2)
AGAIN_S = 5.0
"""Between two tries to reach SLURM."""
LEAST_PATIENCE_S, MOST_PATIENCE_S = 600.0, 3600.0


def note_end(job_file: Path, kind: str, **facts: Any) -> None:
    """Leave `<n>.error.json` or `<n>.stopped.json` beside the job file, for `fcdm.status`."""
    mine = own_claim()  # a later start of the same job may end before it can leave a note, or remove this one
    write_json(end_file(job_file, kind), {**facts, "time": time.time(), "job": mine.job, "restart": mine.restart})


def note_start(job_file: Path) -> None:
    """At the start of a job: what became of its last start is no longer so, and the requeue that it announced is one
    where this is a later start of the same SLURM job."""
    for kind in ("error", "stopped"):
        end_file(job_file, kind).unlink(missing_ok=True)
    announced = read_json_if_whole(_announcement(job_file))
    if announced.get("job") == own_job() and own_restart() > int(announced.get("restart", 0)):
        _count(job_file, announced)
    _announcement(job_file).unlink(missing_ok=True)


def requeues(job_file: Path) -> list[dict[str, Any]]:
    """What this job's requeues were, oldest first."""
    try:
        content = json.loads(job_file.with_suffix(".requeues.json").read_text())
    except (OSError, ValueError):
        return []
    return content if isinstance(content, list) else []


def progress_of(run: Run) -> list[int]:
    """[last checkpoint's step, evaluations done, batches sampled for those under way]: grows as work is done."""
    sampled = 0
    for partial in unfinished_evaluations(run.evaluations):
        try:
            with np.load(partial, allow_pickle=False) as arrays:
                sampled += int(arrays["batches"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    return [max(dict(checkpoints(run.checkpoints)), default=0), len(evaluation_files(run.evaluations)), sampled]


def requeue(
    job_file: Path,
    run: Run,
    signum: int,
    limit: int | None,
    is_ended: Callable[[], bool] = lambda: False,
    patience: float | None = None,
) -> bool:
    """Put this process's own SLURM job back into the queue, which ends it here.

    `limit`: how many requeues the user allows; None: as many as there is progress between them. Tries again for
    `patience` seconds while SLURM does not answer. False: `is_ended` said in the meantime that nobody wants the job any
    more. Raises UserError where there was no progress since the last requeue, or SLURM refuses, or stays away: the job
    then fails, and says why.
    """
    job = own_job()
    assert job is not None
    if shutil.which("scontrol") is None:
        raise UserError(_not_requeued(job, "there is no scontrol where the job runs"))
    give_up = time.monotonic() + (_patience() if patience is None else patience)
    refused = ""
    while True:
        try:
            facts = describe("job", job)
        except UserError as error:
            refused, why = "", f"SLURM does not answer ({error})"
        else:
            if _is_back(facts):  # asked before; the answer was lost
                return True
            preempted = is_preempted(job, facts)
            _allow(job_file, run, job, limit, preempted)
            said = _ask(job_file, run, job, signum, preempted)
            if not said:
                _count(job_file, read_json_if_whole(_announcement(job_file)))
                return True
            if refused:  # twice in a row, though it answers
                raise UserError(_not_requeued(job, said))
            refused, why = said, f"SLURM does not requeue job {job} ({said})"
        left = give_up - time.monotonic()
        if left <= 0:
            raise UserError(_not_requeued(job, why))
        print(f"{why}: trying again for {left:.0f} s", flush=True)
        wake = time.monotonic() + min(AGAIN_S, left)
        while time.monotonic() < wake:
            if is_ended():
                return False
            time.sleep(0.1)


def _patience() -> float:
    """Until the time limit, as far as that is known (since SLURM 23.02), within bounds.

    A SLURM that answers ends the job itself when its grace time is over. One that does not ends nothing, and gives the
    node to nobody else: so it has ten minutes at least to come back.
    """
    left = float(os.environ.get("SLURM_JOB_END_TIME") or 0) - time.time()
    return min(max(left, LEAST_PATIENCE_S), MOST_PATIENCE_S)


def _not_requeued(job: str, why: str) -> str:
    return f"job {job} is not requeued: {why}; python -m fcdm.status --retry-failed continues it"


def _is_back(facts: dict[str, str]) -> bool:
    """Whether the job is in the queue for its next start already."""
    return facts.get("JobState") in WAITING or int(facts.get("Restarts") or 0) > own_restart()


def _allow(job_file: Path, run: Run, job: str, limit: int | None, preempted: bool) -> None:
    """Raises UserError where the job may not go back into the queue."""
    before = [entry for entry in requeues(job_file) if entry.get("job") == job]  # a retry begins anew
    now = progress_of(run)
    if before and before[-1].get("progress") == now and not preempted:
        raise UserError(
            f"{run.name}: no progress between two requeues (both times at step {now[0]}, {now[1]} evaluations done): a "
            "start of the job is too short to get anywhere; ask for a longer one (resources.hours=) and run the same "
            "command again"
        )
    if limit is not None and len(before) >= limit:
        raise UserError(
            f"{run.name}: was requeued {len(before)} times already (hydra.launcher.max_num_timeout={limit}); the same "
            "command goes on from its checkpoint"
        )


def _ask(job_file: Path, run: Run, job: str, signum: int, preempted: bool) -> str:
    """Announce the requeue and ask SLURM for it; what it says against it, "" where it does it."""
    now = progress_of(run)
    entry: dict[str, Any] = {
        "job": job,
        "restart": own_restart(),
        "signal": signal.Signals(signum).name,
        "time": time.time(),
        "step": now[0],
        "progress": now,
    }
    if preempted:
        entry["preempted"] = True
    write_json(_announcement(job_file), entry)
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (" ".join(done.stderr.split()) or f"scontrol ended with {done.returncode}") if done.returncode else ""


def _announcement(job_file: Path) -> Path:
    return job_file.with_suffix(".requeueing.json")


def _count(job_file: Path, entry: dict[str, Any]) -> None:
    """The announced requeue has happened."""
    history = requeues(job_file)
    if entry and entry not in history:
        write_json(job_file.with_suffix(".requeues.json"), [*history, entry])
    _announcement(job_file).unlink(missing_ok=True)


def is_preempted(job: str, facts: dict[str, str] | None = None) -> bool:
    """Whether a job with a higher priority is why. Accounting would say only that this one requeued itself."""
    found = shown("job", job, "PreemptTime") if facts is None else facts.get("PreemptTime", "")
    return found not in ("", "None")
