"""Doing a job in this process; with a bar in the terminal for `python -m fcdm.train model=N`, also under torchrun.

The engine, and torch with it, is imported where work begins: errors and "done" come before it.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from fcdm.atomic import remove_unfinished
from fcdm.config.user_code import SCIENCE, codes_of
from fcdm.engine.stop import StopSignal
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE, Job
from fcdm.runs.branches import refuse_early
from fcdm.runs.folder import Run, check_frozen
from fcdm.runs.identity import science
from fcdm.runs.kept_source import check_source
from fcdm.runs.processes import is_first_process
from fcdm.runs.protocol import sharing_samples
from fcdm.runs.reader import budgets_asked_of
from fcdm.runs.run_paths import evaluation_files
from fcdm.tracking.background import forwarding

if TYPE_CHECKING:
    from fcdm.engine.worker import Worker


def do_job(job: Job, worker: Worker) -> None:
    """Claim the run, train it to its last budget and evaluate every budget, or what of it is this job's work.

    Raises UserError, Stopped.
    """
    from fcdm.engine.evaluate_run import evaluate_checkpoints
    from fcdm.engine.train import train

    run = job.run
    check_frozen(run.folder, science(job.config))
    check_source(codes_of(job.config, SCIENCE), run.folder)

    # An evaluation has a claim of its own: training may go on, or be continued, while it works.
    folders = {"train": [run.folder], EVALUATE: [run.evaluations]}.get(job.work, [run.folder, run.evaluations])

    def prepare() -> None:
        remove_unfinished(*folders, *([run.folder / "jobs"] if job.work != EVALUATE else []))
        if job.work != EVALUATE:
            job.refuse_lost_budgets()
            refuse_early(run, science(job.config))

    with worker.claiming(folders, lambda: not job.left(), prepare) as holder:
        if holder is None:  # a job that was requeued from outside when it was about to end
            return
        if worker.ranks.is_main and job.work != EVALUATE:
            for text in job.lag_notes():
                worker.progress.note(text)
        for parts in sharing_samples(job.parts):
            if job.work == EVALUATE:
                if not parts[0].evaluates:
                    continue
                evaluate_checkpoints(run, parts, holder)
            else:
                train(run, parts, holder, keep=set(job.budgets) | _asked_before(run), evaluate=job.work == "all")
    if worker.ranks.is_main and (missing := job.left()):
        wanted = "trained" if job.work == "train" else "evaluated"
        raise UserError(
            f"{run.name}: budgets {', '.join(map(str, missing))} are not {wanted}; the same command goes on"
        )


def _asked_before(run: Run) -> set[int]:
    """Budgets that any study asked of this run: their checkpoints stay, evaluated or not yet."""
    steps = {step for step, *_ in evaluation_files(run.evaluations)}
    with contextlib.suppress(UserError):  # a study file that cannot be read asks for nothing
        steps |= budgets_asked_of(run)
    return steps


def train_here(job: Job, forward: bool) -> None:
    """Train and evaluate the job's run here, unless that is done. Raises UserError, Stopped."""
    job.open()
    if not is_done(job):
        do_here(job, forwarding(job.config) if forward else contextlib.nullcontext())


def is_done(job: Job) -> bool:
    """Whether all budgets are evaluated, which is said then. Raises UserError for a damaged evaluation."""
    done = not job.missing()
    if done and is_first_process():
        print(f"{job.name}: done: {job.done_text}")
    return done


def do_here(job: Job, forwarder: AbstractContextManager[object]) -> None:
    """Do the job in this process with a bar in the terminal, the forwarder to MLflow around it."""
    from fcdm.engine.distributed import Ranks
    from fcdm.engine.worker import Worker
    from fcdm.jobs.progress import TerminalProgress

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        stack.enter_context(forwarder)
        quiet = not is_first_process()
        progress = stack.enter_context(TerminalProgress(job.name, job.budgets[-1], quiet=quiet))
        ranks = Ranks.from_environment(job.config.device, stop)
        try:
            do_job(job, Worker(ranks, progress, stop))
            ranks.barrier()  # together: the first rank holds the store that the others still talk to
        finally:
            ranks.close()
