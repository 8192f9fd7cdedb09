"""Acting on jobs through `fcdm.status`, on a real SLURM: dead controllers, deleted folders, other code."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fcdm.jobstatus.actions import Done, retry_failed
from fcdm.jobstatus.collect import Looker, what_is_asked
from fcdm.slurm.client import JobInfo, Slurm
from tests.support.full_disk import SmallDisk
from tests.support.slurm_lab import SMALL, STUDY, Lab, assert_undisturbed, starts

pytestmark = pytest.mark.slow
HOLD = "+hydra.launcher.additional_parameters.hold=true"


@contextmanager
def controller_down(here: Lab) -> Iterator[None]:
    pid = here.cluster.daemons()["slurmctld"]
    os.kill(pid, signal.SIGTERM)  # hard, it would forget what it was told in the last seconds
    try:
        here.wait(lambda: "slurmctld" not in here.cluster.daemons(), "the controller's end")
        yield
    finally:
        here.cluster.up()


def test_a_dead_controller_is_never_taken_for_an_empty_queue(here: Lab) -> None:
    here.sweep("model=N", "steps=4", *SMALL, HOLD)
    (job,) = here.ids()
    with controller_down(here):
        for words in (("--cancel", "--yes"), ("--cancel", "--yes", job), ("--retry-failed",), ("--replace", "--yes")):
            done = here.status(*words)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert "SLURM does not answer" in done.stderr
    assert here.state(job) == "PENDING"
    done = here.status("--cancel", "--yes")
    assert (done.returncode, done.stdout.split()[:3]) == (0, ["cancelled", "job", job])
    here.wait_state(job, "CANCELLED", "")
    assert Slurm(str(here.cluster.conf)).cancel([job, "987654"]) == {}, "one that has ended is none to end"


def test_a_retry_on_a_full_disk_is_found_again(here: Lab, small_disk: SmallDisk) -> None:
    """In the queue by its script; and, when it has left the queue, in accounting."""
    here.runs = small_disk.folder / "runs"
    there = ("--runs", str(here.runs))
    (here.folder / "setup.sh").write_text(f"[ ! -e {here.folder}/second ] || sleep 100\nexit 3\n")
    here.sweep(
        "model=N", "steps=4", *SMALL, f"runs_dir={here.runs}", f"hydra.launcher.setup=[bash {here.folder}/setup.sh]"
    )
    (first,) = here.ids()
    here.wait_state(first, "FAILED")
    (here.folder / "second").touch()
    small_disk.fill()
    done = here.status("--retry-failed", *there)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "the disk is full" in done.stdout
    assert here.ids() == [first], "nothing could be noted"
    assert here.status("--retry-failed", *there).stdout == "nothing has failed\n"
    (again,) = here.slurm("squeue", "-h", "-r", "-o", "%i").split()
    here.wait_state(again, "RUNNING")
    assert f"  {again}  " in here.status(*there).stdout
    here.slurm("scancel", again)
    here.wait_state(again, "CANCELLED")
    small_disk.free()
    forgotten = Forgetful(str(here.cluster.conf), again)
    here.wait(lambda: again in forgotten.recall(0.0), "accounting, which is late")
    looker = Looker(here.runs, lambda conf: forgotten)
    assert retry_failed(looker, what_is_asked(here.runs)) == Done(), "what was cancelled is not failed"
    assert here.ids() == [first, again]
    assert "  cancelled  " in here.status(*there).stdout


class Forgetful(Slurm):
    """As the controller is, minutes after a job's end."""

    def __init__(self, conf: str, job: str) -> None:
        super().__init__(conf)
        self.forgotten = job

    def queue(self) -> dict[str, JobInfo]:
        return {job: info for job, info in super().queue().items() if job != self.forgotten}


def test_a_deleted_folder_in_the_queue(here: Lab) -> None:
    words = ("model=N", "steps=4", *SMALL)
    here.sweep(*words, HOLD)
    (job,) = here.ids()
    shutil.rmtree(here.run_folder())
    told = here.status().stdout
    assert f"  waiting  {job}  in the queue, folder gone" in told
    again = here.sweep(*words, ok=False)
    assert f"job {job} of its deleted folder" in again.stdout
    assert not list(here.runs.glob("N-*")), "nothing begins beside it"
    assert f"cancelled job {job} of N-" in here.status("--cancel", "--yes").stdout
    here.wait_state(job, "CANCELLED", "")
    assert "1 submitted" in here.sweep(*words).stdout
    here.wait_all_ended()
    assert starts(here.run_folder()) == 1


def test_a_running_job_goes_on_with_other_code(here: Lab, checkout: Path, undisturbed: Path) -> None:
    here.sweep(*STUDY)
    run = here.wait_step(300)
    (old,) = here.ids()
    with here.paused(run):
        same = here.status("--replace", "--yes")
        assert f"job {old} has this code already" in same.stdout, same.stderr
        (checkout / "fcdm/job.py").write_text((checkout / "fcdm/job.py").read_text() + "\n# mended\n")
        done = here.status(run.name, "--replace", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"cancelled job {old}" in done.stdout
    (new,) = set(here.ids()) - {old}
    here.wait_all_ended()
    assert (here.state(old), here.state(new)) == ("CANCELLED", "COMPLETED"), here.describe()
    assert starts(run) == 2
    revisions = [path for path in here.runs.glob("code/*") if path.is_dir()]
    assert len(revisions) == 2
    claims = [json.loads(path.read_text())["job"] for path in sorted((run / "holders").glob("0*.json"))]
    assert claims == [old, new]
    assert list((here.runs / "launches").glob(f"*/{new}.log"))
    assert_undisturbed(run, undisturbed)


def test_what_a_sweep_file_lost_is_cancelled(here: Lab) -> None:
    file = here.folder / "conf" / "sweeps" / "mine.yaml"
    file.parent.mkdir(parents=True)
    for models in ("[N, M]", "[N]"):
        file.write_text(f"# @package _global_\nstudy: mine\ngrids:\n  - model: {models}\n    steps: [4]\n")
        here.sweep("--config-dir", "conf", "+sweeps=mine", *SMALL, HOLD)
    lost, kept = (
        json.loads(path.read_text())["job"] for model in "MN" for path in here.runs.glob(f"{model}-*/jobs/*.slurm.json")
    )
    refused = here.status("mine", "--cancel", "--not-in-study")
    assert lost in refused.stdout
    assert kept not in refused.stdout
    assert "--cancel would end 1 SLURM job: say --yes" in refused.stderr
    done = here.status("mine", "--cancel", "--not-in-study", "--yes")
    assert done.returncode == 0, done.stderr
    here.wait_state(lost, "CANCELLED", "")
    assert here.state(kept) == "PENDING"
    here.slurm("scancel", kept)
