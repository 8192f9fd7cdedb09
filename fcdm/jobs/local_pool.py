"""`hydra/launcher=local`: jobs side by side on this machine, its cores and GPUs shared out among them.

Two jobs of two threads each on two cores run ten times slower than with one thread each, so a job never gets
more threads than its share, and there are never more jobs at once than cores. A job that uses a GPU has one of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import Progress, TaskID

from fcdm.atomic import read_json_if_whole
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.jobs.job import Job, end_file
from fcdm.jobs.local_gpus import local_gpus
from fcdm.jobs.progress import HELD, PROGRESS_FILE, JobProgress, bars, read_progress
from fcdm.runs.processes import cores
from fcdm.runs.run_cost import train_flops
from fcdm.runs.run_lock import current_holder
from fcdm.tracking.background import forwarding

POLL_S = 0.25
LINE_EVERY_S = 30.0  # where there is no terminal to draw bars in


@dataclass
class Outcome:
    """How a job ended."""

    job: Job
    state: str
    """`done` (nothing was left to do), `finished`, `failed`, `held`, `stopped`."""
    text: str = ""

    @property
    def ok(self) -> bool:
        return self.state in ("done", "finished")


@dataclass
class _Running:
    job: Job
    file: Path
    process: subprocess.Popen[bytes]
    log: BinaryIO
    task: TaskID
    seen: JobProgress
    gpu: str | None
    said_at: float = field(default_factory=time.monotonic)


def check_devices(jobs: list[Job]) -> None:
    """Raise UserError where a job asks for a GPU by its number: the pool says which it gets."""
    for job in jobs:
        for part in job.parts:
            kind, _, number = part.config.device.partition(":")
            if kind == "cuda" and number:
                raise UserError(
                    f"device=cuda:{number}: hydra/launcher=local gives each job a GPU of its own: say device=cuda, and "
                    f"CUDA_VISIBLE_DEVICES={number} before the command where not all GPUs are to be used"
                )


def run_local(jobs: list[Job], at_once: int | None = None, gpus: Callable[[], list[str]] = local_gpus) -> list[Outcome]:
    """Do the jobs, several at a time, longest first; returns how each ended, in the given order.

    gpus: names for CUDA_VISIBLE_DEVICES of the GPUs that may be used. A failed job does not stop the others. SIGINT
    and SIGTERM are passed on: the jobs save and stop.
    """
    console = Console(file=sys.stdout)
    outcomes: dict[str, Outcome] = {}
    waiting: list[Job] = []
    for job in jobs:
        outcome = _nothing_to_do(job) or _parent_is_not_there(job, outcomes)
        if outcome is not None:
            outcomes[job.id] = outcome
            console.print(f"{job.name}: {outcome.state}{_colon(outcome.text)}", highlight=False, soft_wrap=True)
        else:
            waiting.append(job)
    waiting.sort(key=lambda job: -train_flops(job.config, job.budgets[-1]))
    if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
        raise UserError(f"hydra.launcher.jobs={at_once} cannot be: at least 1 job at a time, or null for one per core")
    _tell_lags(console, waiting)
    if waiting:
        with forwarding(waiting[0].config):
            _Pool(console, waiting, outcomes, at_once, gpus() if any(map(_wants_gpu, waiting)) else []).work()
    found = [outcomes[job.id] for job in jobs]
    missing = [outcome for outcome in found if not outcome.ok]
    if missing:
        names = ", ".join(f"{outcome.job.name} ({outcome.state})" for outcome in missing)
        done = len(found) - len(missing)
        console.print(f"{done} of {len(found)} done; not: {names}", highlight=False, soft_wrap=True)
    elif waiting:
        console.print(f"all {len(found)} done", highlight=False)
    return found


def _tell_lags(console: Console, jobs: list[Job]) -> None:
    """Here too: jobs print into their own logs. What several have to say alike is one line."""
    told: dict[str, list[str]] = {}
    for job in jobs:
        for text in job.lag_notes():
            told.setdefault(text, []).append(job.name)
    for text, names in told.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"{names[0]}{more}: {text}", highlight=False, soft_wrap=True)


def _nothing_to_do(job: Job) -> Outcome | None:
    """Why there is nothing to start; else the run's folder is made."""
    try:
        job.open()
        if not job.missing():
            return Outcome(job, "done", job.done_text)
        holder = current_holder(job.folder)
        if holder is not None and holder.alive is not False:
            return Outcome(job, "held", f"by {holder}")
        job.refuse_lost_budgets()
    except UserError as error:
        return Outcome(job, "failed", str(error))
    return None


def _parent_is_not_there(branch: Job, outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """What becomes of a branch where what it branches from has come to nothing, or another process is at work on it."""
    parent = outcomes.get(branch.parent_id or "")
    if parent is None or parent.ok or branch.can_begin(parent.job):
        return None
    return Outcome(branch, parent.state, f"{parent.job.name}, which it branches from, is {parent.state}")


def _wants_gpu(job: Job) -> bool:
    """Whether the job uses a GPU where there is one."""
    return any(part.config.device != "cpu" for part in job.parts)


class _Pool:
    """The running and the waiting jobs of one command."""

    def __init__(
        self,
        console: Console,
        waiting: list[Job],
        outcomes: dict[str, Outcome],
        at_once: int | None,
        gpus: list[str],
    ) -> None:
        self.console, self.waiting, self.outcomes = console, waiting, outcomes
        self.gpus, self.free = gpus, list(gpus)
        on_gpus = sum(map(self._on_gpu, waiting))
        self.asked = max(job.config.threads or 1 for job in waiting)
        most = len(waiting) - on_gpus + min(on_gpus, len(gpus))
        self.at_once = min(at_once or cores(), max(1, cores() // self.asked), most)
        # OMP_NUM_THREADS says how many the user grants a process: on a shared machine, fewer than the cores.
        granted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        self.share = max(1, min(cores() // self.at_once, int(granted) if granted.isdecimal() else cores()))
        self.running: list[_Running] = []
        self.stopping: int | None = None
        self.bars: Progress = bars(console)

    def work(self) -> None:
        jobs, threads = plural(len(self.waiting), "job"), plural(self.share, "CPU thread")
        on_gpus = [job for job in self.waiting if self._on_gpu(job)]
        where = f"; one GPU of {len(self.gpus)} for each of {len(on_gpus)}" if on_gpus else ""
        self.console.print(f"{jobs}, {self.at_once} at a time with {threads} each{where}", highlight=False)
        if several := [job for job in on_gpus if job.config.resources.gpus > 1]:
            self.console.print(
                f"{several[0].name}: resources.gpus={several[0].config.resources.gpus} is for clusters: here a job has "
                "one GPU (torchrun -m fcdm.train trains one run on several)",
                highlight=False,
                soft_wrap=True,
            )
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        if self.console.is_terminal:
            self.bars.start()
        try:
            while self.running or (self.waiting and self.stopping is None):
                while self.stopping is None and (job := self._next()):
                    self._start(job)
                time.sleep(POLL_S)
                for item in list(self.running):
                    self._look(item)
        finally:
            self.bars.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        for job in self.waiting:
            self.outcomes[job.id] = Outcome(job, "stopped", "not started")
        if self.stopping is not None:
            self.console.print("stopped; the same command continues", highlight=False)
            raise SystemExit(128 + self.stopping)

    def _on_gpu(self, job: Job) -> bool:
        return bool(self.gpus) and _wants_gpu(job)

    def _next(self) -> Job | None:
        """Takes the first waiting job for which there is room now."""
        if len(self.running) >= self.at_once:
            return None
        job = next((job for job in self.waiting if (self.free or not self._on_gpu(job)) and self._is_ready(job)), None)
        if job is not None:
            self.waiting.remove(job)
        return job

    def _is_ready(self, job: Job) -> bool:
        """Whether it branches from none of the jobs that are still to train what it begins with."""
        busy = [*self.waiting, *(item.job for item in self.running)]
        parent = next((other for other in busy if other.id == job.parent_id), None)
        return parent is None or job.can_begin(parent)

    def _fail_branches(self) -> None:
        """What branches from a job that came to nothing before the branch's start does not start."""
        for job in list(self.waiting):
            if outcome := _parent_is_not_there(job, self.outcomes):
                self.waiting.remove(job)
                self._ended(outcome)

    def _start(self, job: Job) -> None:
        log = open(job.folder / "log.txt", "ab")  # noqa: SIM115 - closed when the job ends
        environment = {**os.environ, "FCDM_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self.share)
        gpu = self.free.pop(0) if self._on_gpu(job) else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        file = job.freeze()
        process = subprocess.Popen(
            [sys.executable, "-m", "fcdm.job", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # Its own group: a Ctrl-C in the terminal reaches this process alone, which passes it on once.
            start_new_session=True,
        )
        task = self.bars.add_task("", total=job.budgets[-1], name=job.name, doing="starting")
        self.running.append(_Running(job, file, process, log, task, _progress(job), gpu))

    def _look(self, item: _Running) -> None:
        """Show a job's news; if it has ended, note how."""
        news = _progress(item.job)
        self.bars.update(item.task, completed=news.step, doing=news.text)
        if news.evaluated_text not in ("", item.seen.evaluated_text):
            self.console.print(f"{item.job.name}: {news.evaluated_text}", highlight=False, soft_wrap=True)
        elif not self.console.is_terminal and time.monotonic() - item.said_at > LINE_EVERY_S:
            item.said_at = time.monotonic()
            line = f"{item.job.name}: step {news.step}/{item.job.budgets[-1]}, {news.text}"
            self.console.print(line, highlight=False, soft_wrap=True)
        item.seen = news
        code = item.process.poll()
        if code is None:
            return
        self.running.remove(item)
        if item.gpu is not None:
            self.free.append(item.gpu)
        item.log.close()
        self.bars.remove_task(item.task)
        self._ended(_ended(item, code))
        self._fail_branches()

    def _ended(self, outcome: Outcome) -> None:
        self.outcomes[outcome.job.id] = outcome
        told = f"{outcome.job.name}: {outcome.state}{_colon(outcome.text)}"
        self.console.print(told, highlight=False, soft_wrap=True)

    def _stop(self, signum: int, frame: object) -> None:
        if self.stopping is None:
            self.stopping = signum
            self.console.print("stopping: the jobs save first (again: stop them at once)", highlight=False)
        for item in self.running:
            with contextlib.suppress(ProcessLookupError):
                item.process.send_signal(signum)


def _ended(item: _Running, code: int) -> Outcome:
    if code == 0:
        return Outcome(item.job, "finished")
    log = item.job.folder / "log.txt"
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        state = "stopped" if code > 128 else "failed"
        return Outcome(item.job, state, f"by {name}; the same command continues ({log})")
    silent = f"disk full: {item.job.folder}" if code == errno.ENOSPC else f"exit code {code}"
    line = read_json_if_whole(end_file(item.file, "error")).get("error") or silent
    if code == HELD:
        return Outcome(item.job, "held", line)
    return Outcome(item.job, "failed", f"{line} ({log})")


def _progress(job: Job) -> JobProgress:
    return read_progress(job.folder / PROGRESS_FILE) or JobProgress()


def _colon(text: str) -> str:
    return f": {text}" if text else ""
