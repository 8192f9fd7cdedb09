"""What a SLURM job does with a signal: requeue itself as the same job, or end for good.

USR1 and USR2 (sent before the time limit, by a preempting scheduler, or by a person) ask for a requeue. SIGTERM never
does: a scheduler that preempts requeues by itself, and a job that requeued itself on SIGTERM came back after `scancel`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fcdm.atomic import write_json
from fcdm.errors import UserError
from fcdm.jobs.job import end_file
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run
from fcdm.runs.lock_files import own_claim, own_job
from fcdm.runs.run_paths import evaluation_files, unfinished_evaluations
from fcdm.slurm.client import shown

USERS = (signal.SIGUSR1, signal.SIGUSR2)


def note_end(job_file: Path, kind: str, **facts: Any) -> None:
    """Leave `<n>.error.json` or `<n>.stopped.json` beside the job file, for `fcdm.status`."""
    mine = own_claim()  # a later start of the same job may end before it can leave a note, or remove this one
    write_json(end_file(job_file, kind), {**facts, "time": time.time(), "job": mine.job, "restart": mine.restart})


def forget_ends(job_file: Path) -> None:
    """At the start of a job: what became of its last start is no longer so."""
    for kind in ("error", "stopped"):
        end_file(job_file, kind).unlink(missing_ok=True)


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


def requeue(job_file: Path, run: Run, signum: int, limit: int | None) -> None:
    """Put this process's own SLURM job back into the queue, which ends it here.

    `limit`: how many requeues the user allows; None: as many as there is progress between them. Raises UserError
    where there was none since the last one, or SLURM refuses: the job then fails, and says why.
    """
    job = own_job()
    assert job is not None
    history = requeues(job_file)
    before = [entry for entry in history if entry.get("job") == job]  # a retry is another job, and begins anew
    now = progress_of(run)
    preempted = is_preempted(job)
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
    entry: dict[str, Any] = {
        "job": job,
        "signal": signal.Signals(signum).name,
        "time": time.time(),
        "step": now[0],
        "progress": now,
    }
    if preempted:
        entry["preempted"] = True
    write_json(job_file.with_suffix(".requeues.json"), [*history, entry])
    _scontrol(job)


def _scontrol(job: str) -> None:
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        said = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said:
        raise UserError(f"SLURM does not requeue job {job} ({said}): python -m fcdm.status --retry-failed continues it")


def is_preempted(job: str) -> bool:
    """Whether a job with a higher priority is why. Accounting would say only that this one requeued itself."""
    return shown("job", job, "PreemptTime") not in ("", "None")
