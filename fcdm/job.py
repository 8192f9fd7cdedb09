"""`python -m fcdm.job runs/<run>/jobs/<file>.json`: do one frozen job. Launchers call this; people use fcdm.train."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import time
from pathlib import Path

from fcdm.engine.stop import Stopped, StopSignal, end_process
from fcdm.errors import UserError, traceback_text
from fcdm.jobs.job import EVALUATE, BenchmarkJob, Job
from fcdm.jobs.progress import EVALUATION_PROGRESS_FILE, HELD, PROGRESS_FILE
from fcdm.redact import redacted
from fcdm.runs.folder import Run
from fcdm.runs.lock_files import own_job
from fcdm.runs.peers import peers
from fcdm.runs.run_lock import RunHeld
from fcdm.slurm.ledger import add_id
from fcdm.slurm.requeue import USERS, is_preempted, note_end, note_start, requeue

LONGEST_GRACE_S = 7200.0


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done or requeued, 1 failed, 3 held by another, 128 + n stopped by signal n; 28 (ENOSPC) failed, and
    the disk has no room for the note that says why.

    The reason is the last line.
    """
    if len(arguments) != 1:
        print("fcdm.job: give one job file: runs/<run>/jobs/<file>.json", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    # First of all: until then, a signal that only asks for a requeue would kill.
    with StopSignal() as stop:
        _end_with_parent()
        try:
            job = Job.load(path)
            return _do(path, job, stop)
        except UserError as error:
            full = _say(path, str(error), "")
            return full or (HELD if isinstance(error, RunHeld) else 1)
        except Exception as error:
            trace = traceback_text(error)
            with contextlib.suppress(OSError):
                print(trace, end="", file=sys.stderr)
            return _say(path, redacted(f"{type(error).__name__}: {' '.join(str(error).split())}"), trace) or 1


def _do(path: Path, job: Job, stop: StopSignal) -> int:
    run = job.run
    place = peers()
    first = place.rank == 0
    mine = own_job() if "FCDM_SLURM" in os.environ else None
    if first:
        note_start(path)
        if mine:
            add_id(path, mine)  # its launcher may have been killed before it could
    if place.count == 1 and not job.left():
        print("nothing is left to do", flush=True)
        return 0
    if isinstance(job, BenchmarkJob):
        from fcdm.speed.run_benchmark import run_benchmark

        run_benchmark(job)
        return 0
    # Only now torch: errors before come at once.
    from fcdm.engine.distributed import Ranks
    from fcdm.engine.worker import Worker
    from fcdm.jobs.progress import FileProgress
    from fcdm.jobs.run_job import do_job
    from fcdm.tracking.background import forwarding

    progress = FileProgress(run.folder, EVALUATION_PROGRESS_FILE if job.work == EVALUATE else PROGRESS_FILE)
    with forwarding(job.config, only=run.name) if mine else contextlib.nullcontext():
        try:
            ranks = Ranks.from_environment(job.config.device, stop)
            do_job(job, Worker(ranks, progress, stop))
            ranks.barrier()  # together: the first rank holds the store that the others still talk to
            ranks.close()
        except Stopped as stopped:  # in here: MLflow must not delay the requeue
            return _stopped(path, run, stop, stopped.signum, mine, first)
    return 0


def _stopped(path: Path, run: Run, stop: StopSignal, agreed: int, mine: str | None, first: bool) -> int:
    """`agreed`: the signal that all ranks stopped for. All is saved, and the run given up."""
    # scancel's SIGTERM after a user's signal means an end for good.
    signum = signal.SIGTERM if stop.signum == signal.SIGTERM else agreed
    if mine is not None and signum in USERS:
        if not first:
            return 0  # another code would have srun kill the first rank before it has done that
        limit = os.environ.get("FCDM_MAX_REQUEUES")
        name = signal.Signals(signum).name
        print(f"{name}: saved; back into the queue as job {mine}", flush=True)  # before: this ends the process
        if requeue(path, run, signum, int(limit) if limit else None, lambda: stop.signum == signal.SIGTERM):
            return 0
        signum = signal.SIGTERM  # it came while SLURM did not answer
    name = signal.Signals(signum).name
    if mine is not None and is_preempted(mine):
        # SLURM requeues what is still there when its grace time ends; what ended before counts as failed.
        print(f"{name}: preempted; saved, and waiting for SLURM to requeue job {mine}", flush=True)
        time.sleep(LONGEST_GRACE_S)
    if first:
        note_end(path, "stopped", signal=name)
    return 128 + signum


def _say(path: Path, line: str, trace: str) -> int:
    """Print the error and leave it beside the job file; ENOSPC where the disk has no room for that, else 0."""
    with contextlib.suppress(OSError):  # a full disk must not hide the error
        print(line, file=sys.stderr, flush=True)
    try:
        if path.is_file() and not path.with_suffix(".error.json").exists():  # the first rank to fail has the cause
            note_end(path, "error", error=line, traceback=trace)
    except (OSError, UserError) as error:
        reason = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
            return errno.ENOSPC
    return 0


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the launcher dies hard, so that no job goes on unattended.

    SIGTERM saves and stops; the same command then continues.
    """
    if "FCDM_PARENT" not in os.environ or not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.environ["FCDM_PARENT"] != str(os.getppid()):
        os.kill(os.getpid(), signal.SIGTERM)  # it died in between


if __name__ == "__main__":
    end_process(lambda: main(sys.argv[1:]))
