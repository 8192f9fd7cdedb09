"""Submission through submitit: its executor writes the header of a batch script and gives jobs to use in Python.

What it cannot do is done here: one array of frozen jobs, whose script is on the disk before it is submitted, so that
the queue names it whatever dies in between. (`map_array` and `batch` make their arrays with a plain SlurmExecutor.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor, SlurmJob
from submitit.core.utils import FailedJobError

from fcdm.errors import UserError
from fcdm.jobs.job import Job, end_file
from fcdm.slurm.client import Scheduler, Slurm
from fcdm.slurm.ledger import list_tasks, ours, this_conf
from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources, signal_delay
from fcdm.slurm.sbatch_script import after, before, command, dependency_of


class RunJob(SlurmJob[Path]):
    """A submitted job, as submitit's in Python: `state`, `wait()`, `cancel()`; its log is the run's, its result the
    run's folder. They ask the SLURM of this environment, whose accounting tells states."""

    def __init__(self, folder: Path, job_id: str, job_file: Path) -> None:
        super().__init__(folder, job_id)
        self.job_file = job_file

    @property
    def run(self) -> Path:
        return self.job_file.parent.parent

    def stdout(self) -> str | None:
        """What it printed, errors too; None before it started."""
        path = self.run / "log.txt"
        return path.read_text(errors="replace") if path.exists() else None

    def stderr(self) -> None:
        """Nothing of its own: `stdout` has both, in their order."""

    def _get_outcome_and_result(self) -> tuple[str, Any]:
        try:
            if not Job.load(self.job_file).left():
                return "success", self.run
        except UserError as error:
            return "error", str(error)
        try:
            note = json.loads(end_file(self.job_file, "error").read_text())
            return "error", note.get("traceback") or note["error"]
        except (OSError, ValueError, KeyError):
            last = ((self.stdout() or "").strip().splitlines() or [""])[-1]
            return "error", f"{self.state}: {last} ({self.run / 'log.txt'})"

    def exception(self) -> FailedJobError | None:
        """Waits for its end; why it failed, or None."""
        self.wait()
        outcome, said = self._get_outcome_and_result()
        return None if outcome == "success" else FailedJobError(f"{self.run.name}, job {self.job_id}: {said}")


def submitted_jobs(runs_dir: str | Path, scheduler: Scheduler | None = None) -> list[RunJob]:
    """The jobs that a folder of runs gave to this environment's SLURM (SLURM_CONF), oldest first, to use in Python.

    Without those that this SLURM knows as another's: ids begin anew where a cluster is made anew. Raises UserError for
    a damaged launch, and where SLURM does not answer.
    """
    conf = this_conf(None)
    tasks = [task for task in list_tasks(Path(runs_dir).absolute()) if task.conf == conf]
    slurm = scheduler or Slurm()
    known = {**slurm.history([job for task in tasks for job in task.ids]), **slurm.queue()}
    return [
        RunJob(task.launch, job, task.job_file)
        for task in tasks
        for job in task.ids
        if job not in known or ours(known[job], task) is not None
    ]


class ArrayExecutor(SlurmExecutor):
    """Submits frozen jobs that ask for the same as one array of one batch script."""

    def __init__(
        self, launch: Path, number: int, request: Resources, options: SlurmOptions, scheduler: Scheduler, code: Path
    ) -> None:
        """`number`: of the array in its launch. `code`: the package that the jobs run."""
        super().__init__(launch)
        self.script = launch / f"{number}.sh"
        self.request, self.options, self.scheduler, self.code = request, options, scheduler, code
        self.job_files: list[Path] = []

    @classmethod
    def affinity(cls) -> int:
        """There is a SLURM: the scheduler has been asked."""
        return 2

    def prepare(self, job_files: Sequence[Path], saved_bytes: int = 0) -> str:
        """The text of the batch script whose i-th task does the i-th job file.

        saved_bytes: what a task writes when it is told to save; the most of all.
        """
        self.job_files = list(job_files)
        self.update_parameters(**self._convert_parameters(self._asked(saved_bytes)))
        self.parameters["map_count"] = len(self.job_files)
        return self._make_submission_file_text(command(self.request, self.options), "")

    def write(self, job_files: Sequence[Path], saved_bytes: int = 0) -> Path:
        """Lay the batch script down, to be read by nobody else: a user's `setup` may hold what only he is to know."""
        text = self.prepare(job_files, saved_bytes)
        self.script.touch(0o600)
        self.script.write_text(text)
        return self.script

    def submit_array(self, job_files: Sequence[Path], *, after: str = "") -> list[RunJob]:  # type: ignore[override]
        """Submit the tasks of these job files, all or some of the written script's, in one call of sbatch.

        after: jobs that have to be over first, as sbatch's afterany takes them. Raises Refused.
        """
        indices = [self.job_files.index(path) for path in job_files]
        self._array = "" if len(indices) == len(self.job_files) else ",".join(map(str, indices))
        self._dependency = dependency_of(self.script, after)
        whole = self._submit_command("")
        return [RunJob(self.folder, f"{whole.job_id}_{index}", self.job_files[index]) for index in indices]

    def _submit_command(self, command: str) -> SlurmJob[Path]:
        """The array, as one job; the command stands in the script already."""
        job_id = self.scheduler.submit(self.script, array=self._array, dependency=self._dependency)
        return SlurmJob(self.folder, job_id)

    def _asked(self, saved_bytes: int) -> dict[str, Any]:
        """submitit's parameters, by the shared names."""
        delay = signal_delay(self.request, self.options, saved_bytes)
        forced: dict[str, Any] = {
            "requeue": True,
            "open-mode": "append",
            "chdir": str(self.folder),
            "output": f"{str(self.folder).replace('%', '%%')}/%A_%a.log",
        }
        if self.options.use_srun is False:
            forced["signal"] = f"B:USR2@{delay}"  # without a step, only the batch shell is there to be told
        return {
            "wckey": None,  # else submitit's own name
            **self.request.parameters(self.options),
            "signal_delay_s": delay,
            "stderr_to_stdout": True,
            "use_srun": False,  # submitit's srun prints into files of its own
            "srun_args": None,
            "setup": before(self.request, self.options, self.job_files, self.code),
            "teardown": after(self.options),
            "additional_parameters": {**_flags(self.options.additional_parameters), **forced},
        }


def _flags(additional: dict[str, Any]) -> dict[str, Any]:
    """By sbatch's names, without those that are switched off."""
    return {
        key.replace("_", "-"): value for key, value in additional.items() if value is not None and value is not False
    }
