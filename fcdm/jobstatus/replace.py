"""Jobs in the queue go on with the code of now: the same frozen jobs, resources and options, from their checkpoints.

The new jobs are submitted first, each after the old ones of its run, and only then are the old ones ended: where SLURM
refuses one, everything is as it was.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fcdm.atomic import file_errors, locked, read_json
from fcdm.config.user_code import SCIENCE, UserCode, codes_of
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.pin_weights import codes_needed
from fcdm.jobstatus.actions import Done, Submitter, end_jobs
from fcdm.jobstatus.collect import Asked, Looker, Overview
from fcdm.jobstatus.rows import Attempt
from fcdm.runs.identity import run_id, science
from fcdm.runs.kept_source import check_source
from fcdm.runs.revision import code_revision
from fcdm.slurm.code_snapshot import CODE, take_snapshot
from fcdm.slurm.ledger import LAUNCHES, Task, new_launch, write_launch


@dataclass
class _New:
    """What is written for the new jobs."""

    launches: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)


def in_queue_of(overview: Overview, runs: Collection[str]) -> list[Attempt]:
    """All that waits or runs for these runs. A run's jobs go together: what was left would be in the way of the new."""
    return [attempt for run in runs for attempt in overview.attempts.get(run, ()) if attempt.active]


def replace_jobs(looker: Looker, asked: Asked, runs: Collection[str]) -> Done:
    """Replace all that waits or runs for these runs. Raises UserError where nothing is replaced."""
    done = Done()
    with locked(looker.runs_dir / LAUNCHES / ".lock"):
        overview = looker.look(asked)
        old = in_queue_of(overview, runs)
        new = _New()
        try:
            if overview.problem:
                raise UserError(overview.problem)
            code = _code_for([attempt.task for attempt in old], looker.runs_dir)
            stale = {attempt.task.run for attempt in old if _code_of(attempt.task.launch) != code}
            done.lines = [
                f"{attempt.task.run.name}: job {', '.join(attempt.active)} has this code already"
                for attempt in old
                if attempt.task.run not in stale
            ]
            old = [attempt for attempt in old if attempt.task.run in stale]
            with file_errors(looker.runs_dir / LAUNCHES, "writing the new batch scripts"):
                _write(looker.runs_dir, [attempt.task for attempt in old], code, new)
            for task in {task.script: task for task in new.tasks}.values():
                looker.scheduler(task.conf).test(task.script.read_text())
            Submitter(looker, overview.attempts, done, together=True).submit(new.tasks)
        except BaseException as error:
            left = _take_back(looker, new)
            if isinstance(error, UserError):
                raise UserError(left or f"nothing is replaced, and the jobs go on: {error}") from None
            raise
        jobs = {(attempt.task.conf, job): attempt.task.run.name for attempt in old for job in attempt.active}
        ended = end_jobs(looker, jobs)
    done.lines += ended.lines
    done.problem = f"{ended.problem}: what replaces it waits for its end" if ended.problem else ""
    return done


def _code_for(tasks: Sequence[Task], runs_dir: Path) -> Path:
    """A copy of the code of now. Raises UserError where it makes another run of one of the jobs, or none at all."""
    codes: list[UserCode] = []
    for task in tasks:
        if not task.job_file.exists():
            raise UserError(f"the folder of {task.run.name} was deleted: --cancel its job")
        job = Job.load(task.job_file)
        if (now := run_id(science(job.config))) != job.id:
            raise UserError(
                f"to this code the configuration of {job.name} is another run ({now[:8]}): --cancel its job, and give "
                "the command again"
            )
        check_source(codes_of(job.config, SCIENCE), task.run)
        codes += codes_needed(job.parts)
    return take_snapshot(runs_dir, codes)


def _code_of(launch: Path) -> Path:
    return Path(str(read_json(launch / "launch.json").get("code")))


def _write(runs_dir: Path, old: Sequence[Task], code: Path, new: _New) -> None:
    """A launch in place of each old one, with these of its jobs, each from a job file of its own."""
    for launch in dict.fromkeys(task.launch for task in old):
        folder = new_launch(runs_dir)
        new.launches.append(folder)
        facts = read_json(launch / "launch.json")
        arrays = []
        for array in facts["arrays"]:
            script = launch / array["script"]
            tasks = []
            for task in sorted((task for task in old if task.script == script), key=lambda task: task.index):
                again = Job.load(task.job_file).freeze()
                new.files.append(again)
                tasks.append(replace(task, launch=folder, script=folder / script.name, job_file=again, ids=()))
            if not tasks:
                continue
            names = [str(task.job_file.relative_to(runs_dir)) for task in tasks]
            arrays.append({**array, "jobs": names, "indices": [task.index for task in tasks]})
            swaps = {f"/{CODE}/{_code_of(launch).name}": f"/{CODE}/{code.name}"}
            swaps[f"/{LAUNCHES}/{launch.name}"] = f"/{LAUNCHES}/{folder.name}"
            before = [task for task in old if task.script == script]
            swaps |= _files(sorted(before, key=lambda task: task.index), tasks)
            text = swapped(script, swaps)
            tasks[0].script.touch(0o600)  # as the old one: it may hold a secret
            tasks[0].script.write_text(text)
            new.tasks += tasks
        known = {key: value for key, value in facts.items() if key not in ("created", "arrays")}
        write_launch(folder, arrays, **{**known, "code": str(code), "revision": code_revision()}, replaces=launch.name)


def _files(before: Sequence[Task], after: Sequence[Task]) -> dict[str, str]:
    return {
        f"/{old.run.name}/jobs/{old.job_file.name}": f"/{new.run.name}/jobs/{new.job_file.name}"
        for old, new in zip(before, after, strict=True)
    }


def swapped(script: Path, swaps: dict[str, str]) -> str:
    """The batch script with these ends of paths replaced; their beginnings may stand there in quotes, or % doubled.

    Raises UserError where one of them does not stand in it.
    """
    text = script.read_text()
    for old, new in swaps.items():
        if old not in text:
            raise UserError(f"{script} says nothing of {old}: --cancel its jobs, and give their command again")
        text = text.replace(old, new)
    return text


def _take_back(looker: Looker, new: _New) -> str:
    """End what was submitted, by the scripts' names: an sbatch that got no answer may have submitted all the same.

    Returns why that cannot be told, "" where it is done; the files stay then, for the jobs that may be there.
    """
    names = {launch.name for launch in new.launches}
    for conf in {task.conf for task in new.tasks}:
        scheduler = looker.scheduler(conf)
        try:
            mine = [info.id for info in scheduler.queue().values() if Path(info.script).parent.name in names]
            refused = scheduler.cancel(mine)
        except UserError as error:
            refused = {"": str(error)}
        if refused:
            why = next(iter(refused.values()))
            return (
                f"the old jobs go on; new ones that are to follow them may be in the queue (--cancel ends both): {why}"
            )
    for launch in new.launches:
        shutil.rmtree(launch, ignore_errors=True)
    for path in new.files:
        for note in (path, path.with_suffix(".slurm.json")):
            with contextlib.suppress(OSError):
                note.unlink()
    return ""
