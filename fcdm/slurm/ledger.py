"""What was submitted to SLURM, on disk: which job of which run went where, under which job ids.

A launch is a folder `runs/launches/<time>-<random>/`: `launch.json` says what each array's tasks are, `<n>.sh` is the
batch script of the n-th array, `<job id>.log` what SLURM itself printed. It is written before anything is submitted.
The ids stand in the run's folder, `jobs/<n>.slurm.json` beside the job file, written after submission by the launcher
and at its start by the job itself. A launcher killed between the two loses nothing: the queue names the script.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcdm.atomic import locked, read_json_if_whole, write_json
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.runs.run_lock import HolderInfo, current_holder
from fcdm.slurm.client import JobInfo, Schedulers, Slurm

LAUNCHES = "launches"


@dataclass(frozen=True)
class Task:
    """One task of a submitted array: one job file of one run."""

    launch: Path
    """The launch's folder."""
    script: Path
    """Batch script of the array."""
    index: int
    """Its index in the array."""
    job_file: Path
    work: str
    """`all`: train and evaluate; `train`; EVALUATE."""
    ids: tuple[str, ...]
    """SLURM jobs that were given it, oldest first: the last one counts. Empty: not known (yet)."""
    submitted: float
    """Unix time of the launch."""
    conf: str | None
    """The slurm.conf of its cluster, where that is not the machine's own."""

    @property
    def run(self) -> Path:
        return self.job_file.parent.parent

    @property
    def log(self) -> Path:
        """Where its processes print."""
        return self.run / "log.txt"


def new_launch(runs_dir: Path) -> Path:
    """An empty folder for a launch, named by its time."""
    folder = runs_dir.absolute() / LAUNCHES / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    return folder


def write_launch(folder: Path, arrays: list[dict[str, Any]], **facts: Any) -> None:
    """`arrays`: {"script": name, "work": ..., "jobs": [job files, below the runs' folder], ...} each.

    "indices" where the array's tasks are not numbered from 0.
    """
    write_json(folder / "launch.json", {"created": time.time(), **facts, "arrays": arrays})


def add_id(job_file: Path, job_id: str) -> None:
    """Note in the run's folder that this SLURM job was given the job file. Doing it twice changes nothing."""
    path = _ids_file(job_file)
    with locked(job_file.parent / ".slurm.lock"):
        ids = read_ids(job_file)
        if job_id not in ids:
            write_json(path, {"job": job_id, "ids": [*ids, job_id], "submitted": time.time()})


def read_ids(job_file: Path) -> tuple[str, ...]:
    return tuple(str(name) for name in read_json_if_whole(_ids_file(job_file)).get("ids") or ())


def _ids_file(job_file: Path) -> Path:
    return job_file.with_suffix(".slurm.json")


def list_tasks(runs_dir: Path, queue: Mapping[str, JobInfo] | None = None) -> list[Task]:
    """Everything ever submitted below `runs_dir`, oldest first, with ids that only the `queue` knows."""
    paths = sorted((runs_dir.absolute() / LAUNCHES).glob("*/launch.json"))
    tasks = [task for path in paths for task in _tasks_of(path)]
    # Names of launches go by the second.
    return with_queued(sorted(tasks, key=lambda task: task.submitted), queue or {})


def with_queued(tasks: Iterable[Task], jobs: Mapping[str, JobInfo]) -> list[Task]:
    """The tasks, with ids that only the queue (or accounting) knows, by their scripts' names."""
    named: dict[tuple[str, str], list[str]] = {}
    for info in jobs.values():
        named.setdefault((_place(info.script), info.id.rpartition("_")[2]), []).append(info.id)
    return [_with(task, named.get((_place(str(task.script)), str(task.index)), ())) for task in tasks]


def _place(script: str) -> str:
    """`<launch>/<n>.sh`: the runs may be mounted elsewhere on the machine that submitted."""
    return "/".join(script.split("/")[-2:])


def _with(task: Task, found: Collection[str]) -> Task:
    """The task with these of its jobs too, each before the next younger one of them: the last one counts."""
    ids = list(task.ids)
    for job in sorted(set(found) - set(ids), key=_age):
        later = (at for at, other in enumerate(ids) if other in found and _age(other) > _age(job))
        ids.insert(next(later, len(ids)), job)
    return replace(task, ids=tuple(ids)) if len(ids) > len(task.ids) else task


def _age(job: str) -> int:
    array = job.partition("_")[0]
    return int(array) if array.isdigit() else 0


def _tasks_of(path: Path) -> Iterable[Task]:
    try:
        content = json.loads(path.read_text())
        for array in content["arrays"]:
            script = path.parent / array["script"]
            # Without its indices an array has a task for each of its jobs.
            for index, name in zip(array.get("indices") or range(len(array["jobs"])), array["jobs"], strict=True):
                job_file = path.parent.parent.parent / name
                yield Task(
                    launch=path.parent,
                    script=script,
                    index=index,
                    job_file=job_file,
                    work=array["work"],
                    ids=read_ids(job_file),
                    submitted=float(content["created"]),
                    conf=content.get("slurm_conf"),
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): what it submitted cannot be told; move {path.parent} away "
            "once none of its jobs is in the queue"
        ) from None


def ours(info: JobInfo | None, task: Task) -> JobInfo | None:
    """None for a job of the same id that is another's: ids start again where a cluster is made anew."""
    same = info is not None and (not info.script or _place(info.script) == _place(str(task.script)))
    return info if same else None


@dataclass(frozen=True)
class Queued:
    """A job that waits or runs, and what it does."""

    id: str
    job: Job
    conf: str | None
    """slurm.conf of its cluster."""
    gone: bool = False
    """Its run's folder was deleted: it can only fail, or write where nobody looks. `job` is empty then."""


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
    waiting: dict[str, list[Queued]] = {}
    for conf, queue in queues.items():
        for task in with_queued([task for task in known if task.conf == conf], queue):
            alive = [name for name in task.ids if _is_alive(queue.get(name), task)]
            if not alive:
                continue
            gone = not task.job_file.exists()
            job = Job("", task.run, (), task.work) if gone else Job.load(task.job_file)
            waiting.setdefault(task.run.name, []).extend(Queued(name, job, conf, gone) for name in alive)
    return waiting


def held_by_deleted(queued: Iterable[Queued]) -> str:
    """Why nothing is to begin beside these jobs of a run: one of them is of a folder that was deleted; else ""."""
    gone = [other.id for other in queued if other.gone]
    if not gone:
        return ""
    jobs = " and ".join(gone)
    return f"by job {jobs} of its deleted folder: end it (scancel {' '.join(gone)}, or fcdm.status --cancel), or wait"


def held_outside(folder: Path, queued: Collection[str]) -> HolderInfo | None:
    """Who holds the run's folder, or may, and is none of these SLURM jobs."""
    holder = current_holder(folder)
    if holder is None or holder.alive is False or (holder.claim and holder.claim.job in queued):
        return None
    return holder


def _is_alive(info: JobInfo | None, task: Task) -> bool:
    mine = ours(info, task)
    return mine is not None and mine.active
