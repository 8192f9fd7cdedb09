"""What of these runs waits or runs already, on whichever cluster it was submitted to."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fcdm.errors import UserError
from fcdm.launch.jobs import Job
from fcdm.launch.slurm.scheduler import JobInfo, Schedulers, Slurm
from fcdm.launch.slurm.submissions import Task, list_tasks, ours, with_queued
from fcdm.runs.holder import HolderInfo, current_holder


@dataclass(frozen=True)
class Queued:
    """A job that waits or runs, and what it does."""

    id: str
    job: Job
    conf: str | None
    """slurm.conf of its cluster."""


def this_conf(slurm_conf: str | None) -> str | None:
    """The slurm.conf that commands go by: the launcher's option, else the environment's, else None."""
    return str(Path(slurm_conf).absolute()) if slurm_conf else os.environ.get("SLURM_CONF") or None


def in_flight(runs_dir: Path, runs: Collection[str], schedulers: Schedulers = Slurm) -> dict[str, list[Queued]]:
    """Run's folder name -> its jobs that wait or run, oldest first.

    Raises UserError where a cluster that was given one of these runs cannot be asked.
    """
    queues: dict[str | None, dict[str, JobInfo]] = {}
    known = [task for task in list_tasks(runs_dir) if task.run.name in runs]
    for conf in {task.conf for task in known}:
        if conf is not None and not Path(conf).exists():
            continue  # a cluster that was taken down for good, and its jobs with it
        try:
            queues[conf] = schedulers(conf).queue()
        except UserError as error:
            names = ", ".join(sorted({task.run.name for task in known if task.conf == conf})[:3])
            raise UserError(f"whether {names} is in a queue already cannot be told: {error}") from None
    found: dict[str, list[Queued]] = {}
    for conf, queue in queues.items():
        for task in with_queued([task for task in known if task.conf == conf], queue):
            alive = [name for name in task.ids if _is_alive(queue.get(name), task)]
            if alive and task.job_file.exists():  # else the run's folder was removed: that job can only fail
                found.setdefault(task.run.name, []).append(Queued(alive[-1], Job.load(task.job_file), conf))
    return found


def held_outside(folder: Path, queued: Collection[str]) -> HolderInfo | None:
    """Who holds the run's folder, or may, and is none of these SLURM jobs."""
    holder = current_holder(folder)
    if holder is None or holder.alive is False or (holder.claim and holder.claim.job in queued):
        return None
    return holder


def _is_alive(info: JobInfo | None, task: Task) -> bool:
    mine = ours(info, task)
    return mine is not None and mine.active
