"""On a real SLURM: what the options ask is what the job gets, and what cannot be is refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from fcdm.slurm.executor import submitted_jobs
from tests.support.slurm_lab import SMALL, STUDY, Lab, assert_undisturbed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

QUICK = ("model=N", "steps=[4]", *SMALL)
HOLD = "+hydra.launcher.additional_parameters.hold=true"


def log(here: Lab) -> str:
    return (here.run_folder() / "log.txt").read_text()


def shown(here: Lab, job: str) -> dict[str, str]:
    """What SLURM knows of a job."""
    words = here.slurm("scontrol", "-o", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_every_option_of_submitit_reaches_the_job(here: Lab) -> None:
    """Partition, nodes, mail, comment, exclusive and the like, of the launcher and of the run's own resources."""
    here.sweep(
        *QUICK, HOLD, "resources.partition=high,main".replace(",", "\\,"), "hydra.launcher.partition=main",
        "hydra.launcher.nodelist=node2", "hydra.launcher.mail_type=FAIL", "hydra.launcher.mail_user=kim",
        "hydra.launcher.exclusive=true", "hydra.launcher.comment='two words'",
        "hydra.launcher.timeout_min=7", "hydra.launcher.mem_gb=1", "+hydra.launcher.additional_parameters.nice=5",
    )  # fmt: skip
    (job,) = here.ids()
    found = shown(here, job)
    assert found["Partition"] == "high,main"
    assert found["ReqNodeList"] == "node2"
    assert found["MailUser"] == "kim"
    assert found["MailType"] == "FAIL"
    assert found["OverSubscribe"] == "NO", "exclusive"
    assert found["Comment"] == "two"  # and `words` behind the blank
    assert found["TimeLimit"] == "00:07:00"
    assert found["MinMemoryNode"] == "1G"
    assert found["Requeue"] == "1"
    assert int(found["Priority"]) == 0, "held"
    here.slurm("scancel", job)


def test_evaluations_go_where_they_are_sent(here: Lab) -> None:
    """On CPUs elsewhere, without the GPUs that the training's `gres` asks for."""
    here.sweep(
        *QUICK, HOLD, "evaluation=job", "hydra.launcher.gres=gpu:2", "evaluation.resources.partition=high",
        "resources.gpus=2", "evaluation.resources.hours=0.5",
    )  # fmt: skip
    training, evaluation = (shown(here, job) for job in sorted(here.ids(), key=lambda name: int(name.split("_")[0])))
    assert (training["Partition"], evaluation["Partition"]) == ("main", "high")
    assert "gpu" in training["TresPerNode"]
    assert "TresPerNode" not in evaluation
    assert evaluation["TimeLimit"] == "00:30:00"
    here.slurm("scancel", *here.ids())


def test_a_sites_policies(here: Lab, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--export=NONE` kept the code from the tasks; SBATCH_* of the shell were dropped."""
    monkeypatch.setenv("SBATCH_PARTITION", "high")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_WAIT", "1")
    export = "+hydra.launcher.additional_parameters.export=NONE"
    done = here.sweep(*STUDY, export, "hydra.launcher.python=" + str(interpreter(here)))
    assert "SBATCH_PARTITION=high of this shell is asked for, where resources says nothing else" in done.stderr
    assert "SBATCH_TIMELIMIT, SBATCH_WAIT of this shell have no effect" in done.stderr
    (job,) = here.ids()
    assert shown(here, job)["Partition"] == "high"
    here.wait_state(job, "COMPLETED")
    assert_undisturbed(here.run_folder(), undisturbed)


def interpreter(here: Lab) -> Path:
    """Another name of this Python, as a container would have it, with the packages of this one."""
    path = here.folder / "their python"
    path.write_text(f'#!/bin/sh\nexport THEIRS=1\nexec {shlex.quote(sys.executable)} "$@"\n')
    path.chmod(0o755)
    return path


def test_a_prefix_srun_arguments_and_a_teardown(here: Lab) -> None:
    """Each task starts inside what stands for a container; the lines after it see how it ended, under `set -e` too."""
    after, inside, container = (here.folder / name for name in ("after", "inside", "container"))
    container.write_text(f'#!/bin/sh\necho "$MORE $OUTSIDE $2" > {inside}\n[ "$1" = run ] && shift && exec "$@"\n')
    container.chmod(0o755)
    here.sweep(
        *QUICK,
        f"hydra.launcher.launch_prefix={container} run",
        'hydra.launcher.srun_args=["--export=ALL,MORE=more"]',
        'hydra.launcher.setup=["set -euo pipefail","export OUTSIDE=outside"]',
        f'hydra.launcher.teardown=["echo $code $OUTSIDE > {after}","false","exit 9"]',
    )
    (job,) = here.ids()
    here.wait_state(job, "COMPLETED")
    assert inside.read_text().split() == ["more", "outside", sys.executable]
    assert after.read_text().split() == ["0", "outside"]


def test_a_job_with_a_teardown_is_told_to_save_and_cancelled_for_good(here: Lab) -> None:
    """The batch shell outlives scancel's SIGTERM, and the teardown comes after the tasks."""
    after = here.folder / "after"
    setup = 'hydra.launcher.setup=["set -e"]'
    here.sweep("model=N", "steps=[50000]", *SMALL, setup, f'hydra.launcher.teardown=["echo $code > {after}"]')
    (job,) = here.ids()
    here.wait_step(20)
    here.slurm("scancel", job)
    here.wait_state(job, "CANCELLED")
    here.wait(after.exists, "the teardown")
    here.wait(after.read_text, "what it says")
    assert after.read_text().strip() in ("143", "137"), "137 where SLURM's KillWait is over before it has saved"
    assert '"signal": "SIGTERM"' in next(here.runs.glob("*/jobs/*.stopped.json")).read_text()
    assert list(here.runs.glob("*/checkpoints/step-*")), "saved"


def test_without_srun_a_job_is_told_to_save_and_requeues(here: Lab, undisturbed: Path) -> None:
    here.sweep(*STUDY, "hydra.launcher.use_srun=false")
    (job,) = here.ids()
    here.wait_step(100)
    here.slurm("scancel", "--batch", "--signal=USR2", job)
    here.wait(lambda: list(here.runs.glob("*/jobs/*.requeues.json")), "requeued")
    here.wait_state(job, "COMPLETED")
    assert_undisturbed(here.run_folder(), undisturbed)


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        ("fcdm_no_such_module load cuda", "setup line failed (exit code 127): fcdm_no_such_module load cuda"),
        ("source sourced.sh", "setup line failed (exit code 3): source "),
    ],
)
def test_a_setup_line_that_fails_ends_the_job(here: Lab, setup: str, reason: str) -> None:
    sourced = here.folder / "sourced.sh"
    sourced.write_text("false\ngrep -q x /dev/null\n(exit 3)\n")
    setup = setup.replace("sourced.sh", str(sourced))
    here.sweep(*QUICK, f'hydra.launcher.setup=["false || true","if true; then","export A=1","fi","{setup}"]')
    (job,) = here.ids()
    here.wait_state(job, "FAILED")
    assert log(here).splitlines()[-1].startswith(reason)
    if "module" in setup:
        assert "command not found" in log(here), "what the lines print stands there too"
    assert reason in here.status().stdout
    assert not list(here.runs.glob("*/checkpoints/*"))


def test_submitted_jobs_in_python(here: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    here.sweep("model=N", "steps=[4]", "seed=0,1", *SMALL)
    monkeypatch.setenv("SLURM_CONF", str(here.cluster.conf))
    jobs = submitted_jobs(here.runs)
    assert sorted(job.job_id for job in jobs) == sorted(here.ids())
    for job in jobs:
        # A job's state is accounting's, which hears of an end after the queue.
        here.wait(partial(job.done, force_check=True), f"job {job.job_id} done")
        assert job.state == "COMPLETED"
        assert job.result() == job.run
        assert job.exception() is None
        assert "EMA" in (job.stdout() or "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+hydra.launcher.additional_parameters.time=00:02:00"], "say hydra.launcher.timeout_min="),
        (["+hydra.launcher.additional_parameters.array=0-3"], "array_parallelism"),
        (["hydra.launcher.stderr_to_stdout=false"], "log.txt"),
        (["hydra.launcher.use_srun=false", "evaluation=job", "evaluation.resources.gpus=2"], "starts one process"),
        (["resources.partition=mian"], "partitions here are"),
        (['hydra.launcher.setup=["echo \'open"]'], "no shell"),
    ],
)
def test_what_would_not_be_done_is_refused(here: Lab, words: list[str], said: str) -> None:
    done = here.sweep(*QUICK, *words, ok=False)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not here.runs.exists(), "nothing is written"


def test_two_shells_of_one_allocation(here: Lab) -> None:
    """Inside a job, its SBATCH_* and SLURM_* are not the new job's."""
    words = here.command("-m", *QUICK, "hydra/launcher=submitit_slurm")
    inner = shlex.join(words)
    done = subprocess.run(
        ["salloc", "-Q", "--ntasks=2", "--partition=high", "bash", "-c", inner],
        cwd=here.folder,
        env={**here.environment, "SBATCH_PARTITION": "nope"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "SBATCH_PARTITION of this shell has no effect: inside a SLURM job" in done.stderr
    (job,) = here.ids()
    assert shown(here, job)["Partition"] == "main"
    here.wait_state(job, "COMPLETED")
