"""A SLURM in memory, behind the interface `fcdm.slurm.client.Scheduler`: tests move its jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fcdm.errors import UserError
from fcdm.slurm.client import Cluster, JobInfo, Partition, Refused


@dataclass
class Submission:
    """One call of sbatch."""

    script: Path
    array: str
    dependency: str
    id: str


class FakeScheduler:
    """`start`, `end`, `requeue`, `forget` move jobs on; `refuse` and `down` make it say no."""

    def __init__(self, max_array_size: int = 1001, max_minutes: float = float("inf")) -> None:
        main = Partition("main", True, max_minutes, ("node1", "node2"))
        self.facts = Cluster("fake", max_array_size, {"main": main})
        self.submissions: list[Submission] = []
        self.tested: list[str] = []
        """Texts of the scripts that were tried."""
        self.refuse = ""
        """What sbatch says instead of taking a job."""
        self.accept: int | None = None
        """Refuse once so many submissions were taken."""
        self.keeps: dict[str, str] = {}
        """Jobs that scancel may not end, and why."""
        self.down = ""
        """Why the controller does not answer."""
        self.accounting = True
        self.asked: list[list[str]] = []
        """The ids of each call of `history`."""
        self._jobs: dict[str, JobInfo] = {}
        self._past: dict[str, JobInfo] = {}
        self._after: dict[str, list[str]] = {}
        self._next = 1

    # --------------------------------------------------------------------------------- what a Scheduler can do

    def cluster(self) -> Cluster:
        self._answer()
        return self.facts

    def queue(self) -> dict[str, JobInfo]:
        self._answer()
        return {job: self._waiting(info) for job, info in self._jobs.items()}

    def history(self, ids: Sequence[str]) -> dict[str, JobInfo]:
        self._answer()
        self.asked.append(list(ids))
        return {job: self._past[job] for job in ids if job in self._past} if self.accounting else {}

    def test(self, text: str) -> None:
        self._answer()
        if self.refuse:
            raise Refused(self.refuse)
        self.tested.append(text)

    def recall(self, since: float) -> dict[str, JobInfo]:
        self._answer()
        return dict(self._past) if self.accounting else {}

    def submit(self, script: Path, *, array: str = "", dependency: str = "") -> str:
        self._answer()
        found = re.search(r"^#SBATCH --array=(\S+)", script.read_text(), re.M)
        array = array or (found[1] if found else "")
        indices = list(_indices(array))
        if max(indices, default=0) >= self.facts.max_array_size:
            raise Refused("Batch job submission failed: Invalid job array specification")
        if self.refuse or (self.accept is not None and len(self.submissions) >= self.accept):
            raise Refused(self.refuse or "Batch job submission failed: Requested node configuration is not available")
        name = str(self._next)
        self._next += 1 + len(indices)
        self.submissions.append(Submission(script, array, dependency, name))
        for job in [f"{name}_{index}" for index in indices] or [name]:
            self._after[job] = dependency.partition(":")[2].split(":") if dependency else []
            plain = str(int(name) + 1 + int(job.partition("_")[2] or -1))
            self._set(JobInfo(job, "PENDING", reason="Priority", script=str(script), plain_id=plain))
        return name

    def cancel(self, ids: Sequence[str]) -> dict[str, str]:
        self._answer()
        for job in [task for name in ids for task in self._tasks(name)]:
            if self._jobs[job].active and job not in self.keeps:
                self.end(job, "CANCELLED", cancelled_by="root")
        return {job: why for job, why in self.keeps.items() if job in ids}

    # ------------------------------------------------------------------------------------- what a test does to it

    def start(self, job: str, node: str = "node1") -> None:
        self._set(replace(self._jobs[job], state="RUNNING", reason="None", nodes=node))

    def end(self, job: str, state: str = "COMPLETED", exit_code: str = "0:0", cancelled_by: str = "") -> None:
        self._set(replace(self._jobs[job], state=state, exit_code=exit_code, reason="", cancelled_by=cancelled_by))

    def fail(self, job: str, exit_code: str = "1:0") -> None:
        self.end(job, "FAILED", exit_code)

    def requeue(self, job: str, preempted: bool = False) -> None:
        """Back into the queue as the same job."""
        info = self._jobs[job]
        again = {"restarts": info.restarts + 1, "preempted": info.preempted + preempted}
        self._set(replace(info, state="PENDING", reason="BeginTime", nodes="", **again))

    def set(self, job: str, **changes: object) -> None:
        """Any field of a job."""
        self._set(replace(self._jobs[job], **changes))  # type: ignore[arg-type]

    def forget(self, job: str) -> None:
        """The controller forgets a job minutes after its end; accounting does not."""
        del self._jobs[job]

    def active(self) -> list[str]:
        """What waits or runs."""
        return [job for job, info in self._jobs.items() if info.active]

    def _set(self, info: JobInfo) -> None:
        self._jobs[info.id] = self._past[info.id] = info

    def _waiting(self, info: JobInfo) -> JobInfo:
        before = [self._jobs[job] for name in self._after[info.id] for job in self._tasks(name)]
        held = info.state == "PENDING" and any(other.active for other in before)
        return replace(info, reason="Dependency") if held else info

    def _tasks(self, name: str) -> list[str]:
        """The tasks of a whole array, or the one job."""
        return [job for job in self._jobs if job == name or job.startswith(f"{name}_")]

    def _answer(self) -> None:
        if self.down:
            raise UserError(self.down)


def _indices(array: str) -> Iterator[int]:
    """`0-3,7%2` -> 0 1 2 3 7"""
    for part in filter(None, array.partition("%")[0].split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
