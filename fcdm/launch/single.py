"""One job in this process, with a bar in the terminal: `python -m fcdm.train model=N`, also under torchrun."""

from __future__ import annotations

import contextlib
import os

from fcdm.launch.forwarder import forwarding
from fcdm.launch.jobs import Job


def train_here(job: Job, forward: bool) -> None:
    """Train and judge the job's run here, unless that is done. Raises UserError, Stopped."""
    main = int(os.environ.get("RANK", 0)) == 0
    run = job.open()
    if not job.missing(run):
        if main:
            print(f"{run.name}: done: budgets {', '.join(map(str, job.budgets))} are trained and judged")
        return
    # Only now torch: errors and "done" come before it.
    from fcdm.engine.ranks import Ranks
    from fcdm.engine.stop import StopSignal
    from fcdm.launch.here import do_job
    from fcdm.launch.show import TerminalProgress

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        if forward:
            stack.enter_context(forwarding(job.config))
        progress = stack.enter_context(TerminalProgress(run.name, job.budgets[-1], quiet=not main))
        ranks = Ranks.from_environment(job.config.device)
        try:
            do_job(job, run, ranks, progress, stop)
            ranks.barrier()  # together: the first rank holds the store that the others still talk to
        finally:
            ranks.close()
