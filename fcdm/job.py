"""`python -m fcdm.job runs/<run>/jobs/<file>.json`: do one frozen job. Launchers call this; people use fcdm.train."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from fcdm.errors import UserError
from fcdm.launch.jobs import Job
from fcdm.launch.show import HELD
from fcdm.runs.holder import RunHeld


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done, 1 failed, 3 held by another, 128 + n stopped by signal n. The reason is the last line."""
    if len(arguments) != 1:
        print("fcdm.job: give one job file: runs/<run>/jobs/<file>.json", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    folder = path.parent.parent
    _end_with_parent()
    try:
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
        print(error, file=sys.stderr, flush=True)
        return HELD if isinstance(error, RunHeld) else 1
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
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
    sys.exit(main(sys.argv[1:]))
