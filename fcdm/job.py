"""`python -m fcdm.job runs/<run>/jobs/<file>.json`: do one frozen job. Launchers call this; people use fcdm.train."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from fcdm.errors import UserError
from fcdm.launch.jobs import Job

FAILED_FILE = "failed.txt"


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done, 1 failed (the reason's line is the last of the output), 128 + n stopped by signal n."""
    if len(arguments) != 1:
        print("fcdm.job: give one job file: runs/<run>/jobs/<file>.json", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    folder = path.parent.parent
    _end_with_parent()
    try:
        with contextlib.suppress(OSError):
            (folder / FAILED_FILE).unlink()
        job = Job.load(path)
        # Only now torch: errors before come at once.
        from fcdm.engine.ranks import Ranks
        from fcdm.engine.stop import StopSignal
        from fcdm.launch.here import do_job
        from fcdm.launch.show import FileProgress
        from fcdm.runs.folder import Run

        with StopSignal() as stop:
            ranks = Ranks.from_environment(job.config.device)
            do_job(job, Run(folder, job.id), ranks, FileProgress(folder), stop)
            ranks.close()
    except UserError as error:
        return _fail(folder, str(error))
    except Exception as error:
        traceback.print_exc()
        return _fail(folder, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return 0


def _fail(folder: Path, line: str) -> int:
    print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        (folder / FAILED_FILE).write_text(line + "\n")
    return 1


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the launcher dies hard, so that no job goes on unattended.

    SIGTERM saves and stops; the same command then continues.
    """
    if os.environ.get("FCDM_PARENT") != str(os.getppid()) or not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.environ["FCDM_PARENT"] != str(os.getppid()):
        os.kill(os.getpid(), signal.SIGTERM)  # it died in between


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
