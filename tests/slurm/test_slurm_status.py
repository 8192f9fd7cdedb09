"""On a real SLURM: the reason that `fcdm.status` shows is the cause, and its words choose jobs."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support.full_disk import SmallDisk
from tests.support.slurm_lab import SMALL, Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

QUICK = ("model=N", "steps=4", *SMALL)
LONG = ("model=N", "steps=100000", *SMALL)
HOLD = "+hydra.launcher.additional_parameters.hold=true"


def row(here: Lab, *words: str) -> dict[str, object]:
    """The first row that the words choose."""
    done = here.status(*words, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)[0])


def test_words_choose_a_running_job_its_log_is_followed_and_a_shell_opens_beside_it(here: Lab) -> None:
    here.sweep(*LONG, "seed=0,1")
    run = here.wait_step(100)
    (job,) = json.loads(next(run.glob("jobs/*.slurm.json")).read_text())["ids"]
    other = next(name for name in here.ids() if name != job)
    follower = subprocess.Popen(
        here.command("--follow", job, module="fcdm.status"),
        cwd=here.folder,
        env=here.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = here.status(job)
    assert f"log: runs/{run.name}/log.txt" in told.stdout
    assert other not in told.stdout
    (shell,) = [line for line in told.stdout.splitlines() if line.startswith("a shell beside a job: ")]
    words = shell.removeprefix("a shell beside a job: ").replace("--pty bash", "printenv SLURM_JOB_ID").split()
    words = [word for word in words if not word.startswith("SLURM_CONF=")]
    assert here.slurm(*words) == here.slurm("squeue", "-h", "-j", job, "-O", "JobID").split()[0]
    logged = here.status("--log", run.name)
    assert logged.stdout.startswith(f"==> runs/{run.name}/log.txt <==\n")
    seed = "0" if "seed: 0" in (run / "config.yaml").read_text() else "1"
    ended = here.status("--cancel", "--yes", f"seed={1 - int(seed)}")
    assert ended.stdout.startswith(f"cancelled job {other} of ")
    here.wait_state(other, "CANCELLED")
    assert here.state(job) == "RUNNING"

    here.kill(here.task_pid(run))
    out, err = follower.communicate()
    assert follower.returncode == 1
    assert out.startswith(f"==> runs/{run.name}/log.txt <==\n")
    assert "killed by SIGKILL" in err
    assert row(here, "failed")["text"] == "killed by SIGKILL, by hand or for its memory", "not srun's closing lines"
    again = here.status("--retry-failed", "cancelled")
    assert again.stdout == "nothing has failed\n", "of what is chosen"


def test_the_cause_of_a_job_that_never_came_to_python(here: Lab) -> None:
    """A line of setup, an interpreter that is not there, and SLURM's own file that cannot be opened."""
    # A line that fails at the second start; the first one leaves a note that it was stopped.
    here.sweep(*LONG, "hydra.launcher.setup=['export A=1','test -z $SLURM_RESTART_COUNT']")
    (job,) = here.ids()
    run = here.wait_step(20)
    here.slurm("scontrol", "requeue", job)
    here.wait_state(job, "FAILED")
    assert list(run.glob("jobs/*.stopped.json")), here.describe()
    failed = row(here, job)
    assert failed["text"] == "setup line failed (exit code 1): test -z $SLURM_RESTART_COUNT"
    assert (failed["requeued"], str(failed["log"])) == (1, str(run / "log.txt"))

    here.sweep(*QUICK, "seed=1", "hydra.launcher.launch_prefix=/nowhere/apptainer")
    job = next(name for name in here.ids() if name != job)
    here.wait_state(job, "FAILED")
    text = str(row(here, job)["text"])
    assert "/nowhere/apptainer" in text, here.describe()

    here.sweep(*QUICK, "seed=1", HOLD)
    (job,) = (name for name in here.ids() if here.state(name) == "PENDING")
    (launch,) = (
        path.parent for path in here.runs.glob("launches/*/launch.json") if not list(path.parent.glob("*.log"))
    )
    (launch / f"{job}.log").mkdir()
    here.slurm("scontrol", "release", job)
    here.wait_state(job, "FAILED")
    text = str(row(here, job)["text"])
    assert text.startswith("SLURM could not start it on node"), here.describe()
    assert launch.name in text


def test_a_job_that_follows_what_failed_is_told_what_helps_and_that_helps(here: Lab) -> None:
    before = here.slurm("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "false")
    here.wait_state(before, "FAILED")
    here.sweep(*QUICK, f"hydra.launcher.dependency=afterok:{before}")
    (job,) = here.ids()
    here.wait(lambda: "for ever" in here.status().stdout, "SLURM to notice")
    text = str(row(here)["text"])
    assert f"afterok:{before}" in text
    command = text[text.index("python -m fcdm.status") :].partition(")")[0].split()[3:]
    assert command == ["--cancel", job]
    assert here.status(*command, "--yes").stdout.startswith(f"cancelled job {job} of ")
    here.wait(lambda: here.state(job) != "PENDING", "its end")
    here.sweep(*QUICK)
    assert here.ids()[-1] != job
    assert here.state(here.ids()[-1]) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "COMPLETED")
    here.status("--cancel", "--yes")


def test_a_full_disk_is_called_so(cluster: object, small_disk: SmallDisk) -> None:
    """So full that the job cannot say so itself."""
    here = Lab(cluster, small_disk.folder)
    here.sweep(*LONG, "checkpoint.every_steps=400")
    run = here.wait_step(50)
    (job,) = here.ids()
    small_disk.fill()
    assert os.statvfs(small_disk.folder).f_bavail == 0
    here.wait_state(job, "FAILED")
    assert not list(run.glob("jobs/*.error.json")), "no room for a note"
    assert str(row(here)["text"]).startswith("disk full: "), here.describe()
    small_disk.free()
    assert str(row(here)["text"]).startswith("disk full: "), "not guessed from how full it is now"
