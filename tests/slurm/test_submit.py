"""The SLURM launcher's decisions, on a SLURM in memory: what is submitted, how it is grouped, what is left out."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import typing
from pathlib import Path
from typing import Any

import pytest
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from submitit import SlurmExecutor, SlurmJob

from fcdm.atomic import write_json
from fcdm.config.check import config_from
from fcdm.config.presets import load_preset
from fcdm.config.schema import Config, PowerEMAConfig, ResourcesConfig
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE, Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.plan import remaining
from fcdm.plan.estimate import starts
from fcdm.plan.remaining import IN_FLIGHT, Standings
from fcdm.plan.warnings import warnings_before_submission
from fcdm.redact import redacted_words
from fcdm.runs.branches import branches_of
from fcdm.runs.run_cost import run_cost
from fcdm.runs.run_lock import claim
from fcdm.slurm import submit as submitting
from fcdm.slurm.client import Partition, minutes
from fcdm.slurm.executor import ArrayExecutor, submitted_jobs
from fcdm.slurm.job_credentials import credentials_warnings
from fcdm.slurm.ledger import list_tasks
from fcdm.slurm.left_to_submit import Row
from fcdm.slurm.options import PlanOptions, SlurmOptions, lowest, options_from
from fcdm.slurm.preflight import check_folder, file_system, try_requests
from fcdm.slurm.resources import Resources, request_of, signal_delay
from fcdm.slurm.shell_options import with_shell
from fcdm.slurm.submit import submit
from tests.support.commands import composed
from tests.support.fake_scheduler import FakeScheduler

COMMAND = ["python", "-m", "fcdm.train", "-m"]


@pytest.fixture(autouse=True)
def _no_snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Copying and importing the code takes seconds; the tests on the real SLURM do it."""
    monkeypatch.setattr(submitting, "take_snapshot", lambda runs_dir, models: tmp_path / "code")


def config(tmp_path: Path, seed: int = 0, steps: tuple[int, ...] = (10, 20), **changes: object) -> Config:
    base = composed("model=N")
    own = {"resources": ResourcesConfig(), **changes}
    return dataclasses.replace(base, seed=seed, steps=list(steps), runs_dir=str(tmp_path / "runs"), **own)  # type: ignore[arg-type]


def jobs_of(*configs: Config) -> list[Job]:
    return make_jobs(configs)


def send(scheduler: FakeScheduler, *configs: Config, **options: object) -> list[Row]:
    return submit(jobs_of(*configs), SlurmOptions(**options), scheduler, COMMAND)


def evaluate(row: Row, *steps: int) -> None:
    """Lay the files that a job leaves: an evaluation at each budget."""
    run = row.job.open()
    run.evaluations.mkdir(exist_ok=True)
    for part in row.job.parts:
        for step in steps:
            write_json(run.evaluation(step, part.protocol_id), {"metrics": {"fid": 1.0}})


def test_one_array_for_each_set_of_resources(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    two = ResourcesConfig(gpus=2, hours=3)
    rows = send(scheduler, config(tmp_path), config(tmp_path, 1, resources=two), config(tmp_path, 2))
    assert [row.state for row in rows] == ["submitted"] * 3
    assert [submission.array for submission in scheduler.submissions] == ["0-1%2", "0-0%1"]
    assert rows[0].ids[0].split("_")[0] == rows[2].ids[0].split("_")[0] != rows[1].ids[0].split("_")[0]
    text = scheduler.submissions[1].script.read_text()
    assert "#SBATCH --gpus-per-node=2" in text
    assert "#SBATCH --ntasks-per-node=2" in text
    assert "#SBATCH --time=180" in text


def test_arrays_are_split_at_the_clusters_limit(tmp_path: Path) -> None:
    scheduler = FakeScheduler(max_array_size=3)
    rows = send(scheduler, *(config(tmp_path, seed) for seed in range(7)), array_parallelism=2)
    assert [submission.array for submission in scheduler.submissions] == ["0-2%2", "0-2%2", "0-0%1"]
    assert len({row.ids[0] for row in rows}) == 7
    tasks = list_tasks(tmp_path / "runs")
    assert {task.run.name: task.ids for task in tasks} == {row.job.name: tuple(row.ids) for row in rows}


def test_what_is_on_its_way_or_done_is_left_out(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    first = send(scheduler, config(tmp_path), config(tmp_path, 1))
    again = send(scheduler, config(tmp_path), config(tmp_path, 1))
    assert [row.state for row in again] == ["in the queue"] * 2
    assert [row.ids for row in again] == [row.ids for row in first]
    evaluate(first[0], 10, 20)
    scheduler.end(first[0].ids[0], "COMPLETED")
    scheduler.end(first[1].ids[0], "FAILED")
    last = send(scheduler, config(tmp_path), config(tmp_path, 1))
    assert [row.state for row in last] == ["done", "submitted"]
    assert len(scheduler.submissions) == 2


def test_more_budgets_than_a_waiting_job_has_wait_for_it(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    (first,) = send(scheduler, config(tmp_path))
    (more,) = send(scheduler, config(tmp_path, steps=(10, 40)))
    assert more.state == "submitted"
    assert scheduler.submissions[1].dependency == f"afterany:{first.ids[0]}"
    (fewer,) = send(scheduler, config(tmp_path, steps=(10,)))
    assert fewer.state == "in the queue"
    other = config(tmp_path)
    other.evaluation = dataclasses.replace(other.evaluation, samples=30)
    (evaluated,) = send(scheduler, other)
    assert evaluated.state == "submitted", "another protocol is another evaluation"


def test_a_budget_that_is_evaluated_is_not_asked_of_the_queue(tmp_path: Path) -> None:
    """10 is done and 20 on its way: nothing is left to submit."""
    scheduler = FakeScheduler()
    (first,) = send(scheduler, config(tmp_path, steps=(20,)))
    evaluate(first, 10)
    (again,) = send(scheduler, config(tmp_path))
    assert (again.state, again.ids) == ("in the queue", first.ids)


def test_a_refused_array_leaves_nothing_submitted(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    scheduler.refuse = "invalid account"
    with pytest.raises(UserError, match=r"SLURM took none of the arrays: invalid account"):
        send(scheduler, config(tmp_path))
    assert not scheduler.queue()
    assert not list((tmp_path / "runs").glob("launches/2*"))
    assert not list((tmp_path / "runs").glob("*/jobs/*.json"))


def test_a_refusal_half_way_takes_the_first_part_back(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    scheduler.accept = 1
    with pytest.raises(UserError, match="cancelled again"):
        send(scheduler, config(tmp_path), config(tmp_path, 1, resources=ResourcesConfig(gpus=1)))
    assert not any(info.active for info in scheduler.queue().values())
    assert not list((tmp_path / "runs").glob("launches/2*"))


def test_what_cannot_be_taken_back_is_told_and_stays_known(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    scheduler.accept = 1
    scheduler.keeps = {"1": "Access/permission denied", "1_0": "Access/permission denied"}
    with pytest.raises(UserError, match=r"does not cancel what it has of it \(1: Access/perm.*scancel it"):
        send(scheduler, config(tmp_path), config(tmp_path, 1, resources=ResourcesConfig(gpus=1)))
    (task, _) = list_tasks(tmp_path / "runs", scheduler.queue())
    assert task.ids == ("1_0",)


def test_a_launcher_killed_before_it_noted_the_ids(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    (row,) = send(scheduler, config(tmp_path))
    for path in (tmp_path / "runs").glob("*/jobs/*.slurm.json"):
        path.unlink()
    (task,) = list_tasks(tmp_path / "runs", scheduler.queue())
    assert task.ids == tuple(row.ids), "the queue names the script"
    assert send(scheduler, config(tmp_path))[0].state == "in the queue"


def test_evaluations_wait_for_their_own_training(tmp_path: Path) -> None:
    scheduler = FakeScheduler()

    def with_job(seed: int) -> Config:
        made = config(tmp_path, seed)
        resources = ResourcesConfig(gpus=1, hours=2)
        made.evaluation = dataclasses.replace(made.evaluation, where="job", resources=resources)
        return made

    rows = send(scheduler, with_job(0), with_job(1))
    assert [submission.array for submission in scheduler.submissions] == ["0-1%2", "0", "1"]
    assert [submission.dependency for submission in scheduler.submissions[1:]] == [
        f"afterany:{row.ids[0]}" for row in rows
    ]
    works = {json.loads(path.read_text())["work"] for path in (tmp_path / "runs").glob("*/jobs/*[0-9].json")}
    assert works == {"train", EVALUATE}
    # Training is through and its checkpoints are there: only the evaluation is left.
    for row in rows:
        for name in row.ids:
            scheduler.end(name, "COMPLETED" if name == row.ids[0] else "FAILED")
        run = row.job.open()
        for step in (10, 20):
            (run.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    again = send(scheduler, with_job(0), with_job(1))
    assert [row.state for row in again] == ["submitted"] * 2
    assert [(s.array, s.dependency) for s in scheduler.submissions[3:]] == [("0-1%2", "")]
    job = Job.load(next(task.job_file for task in list_tasks(tmp_path / "runs") if task.ids == tuple(again[0].ids)))
    assert job.work == EVALUATE
    assert job.left() == [10, 20]


def _evaluated_apart(tmp_path: Path, steps: tuple[int, ...] = (10, 20)) -> Config:
    made = config(tmp_path, steps=steps)
    made.evaluation = dataclasses.replace(made.evaluation, where="job")
    return made


def test_a_training_that_is_submitted_again_has_an_evaluation_of_its_own(tmp_path: Path) -> None:
    """The old evaluation job still runs, but may be past what the new training will reach."""
    scheduler = FakeScheduler()
    (row,) = send(scheduler, _evaluated_apart(tmp_path))
    train, evaluate_ = row.ids
    scheduler.end(train, "FAILED")
    scheduler.start(evaluate_)
    (again,) = send(scheduler, _evaluated_apart(tmp_path))
    assert len(again.ids) == 2
    assert scheduler.submissions[-1].dependency == f"afterany:{again.ids[0]}"
    (third,) = send(scheduler, _evaluated_apart(tmp_path))
    assert third.state == "in the queue", "the evaluation that follows the last training is trusted"


def test_inline_waits_for_every_job_of_the_run(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    (row,) = send(scheduler, _evaluated_apart(tmp_path))
    (inline,) = send(scheduler, config(tmp_path))
    assert inline.state == "submitted"
    assert scheduler.submissions[-1].dependency == f"afterany:{':'.join(row.ids)}"


def test_ids_that_begin_anew_are_not_taken_for_ours(tmp_path: Path) -> None:
    """The cluster was made again: another run has the id that this one had."""
    send(FakeScheduler(), config(tmp_path, 1))
    scheduler = FakeScheduler()
    (other,) = send(scheduler, config(tmp_path, 2))
    (mine,) = send(scheduler, config(tmp_path, 1))
    assert mine.state == "submitted"
    assert mine.ids != other.ids


def test_a_run_in_the_queue_of_another_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = FakeScheduler(), FakeScheduler()
    for name in ("a.conf", "b.conf"):
        (tmp_path / name).touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "a.conf"))
    (first,) = send(there, config(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "b.conf"))
    asked: list[str | None] = []

    def elsewhere(conf: str | None) -> FakeScheduler:
        asked.append(conf)
        return there

    (again,) = submit(jobs_of(config(tmp_path)), SlurmOptions(), here, COMMAND, elsewhere)
    assert asked == [str(tmp_path / "a.conf")]
    assert (again.state, again.ids) == ("in the queue", first.ids)
    (more,) = submit(jobs_of(config(tmp_path, steps=(10, 99))), SlurmOptions(), here, COMMAND, elsewhere)
    assert more.state == "held"
    there.down = "no answer"
    with pytest.raises(UserError, match="cannot be told: no answer"):
        submit(jobs_of(config(tmp_path)), SlurmOptions(), here, COMMAND, elsewhere)
    (tmp_path / "a.conf").unlink()  # taken down for good, and its jobs with it
    (last,) = submit(jobs_of(config(tmp_path)), SlurmOptions(), here, COMMAND, elsewhere)
    assert last.state == "submitted"


def test_nothing_begins_beside_a_job_of_a_deleted_folder(tmp_path: Path) -> None:
    """It may write there yet; it can be ended, or waited for. The command's other runs go their way."""
    scheduler = FakeScheduler()
    (row,) = send(scheduler, config(tmp_path))
    folder = row.job.folder
    shutil.rmtree(folder)
    rows = send(scheduler, config(tmp_path), config(tmp_path, 1))
    assert [found.state for found in rows] == ["held", "submitted"]
    assert f"by job {row.ids[0]} of its deleted folder: end it (scancel {row.ids[0]}, or" in rows[0].text
    assert not folder.exists()
    scheduler.cancel(row.ids)
    assert [found.state for found in send(scheduler, config(tmp_path))] == ["submitted"]


def test_a_plan_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = FakeScheduler()
    monkeypatch.setattr(remaining, "Slurm", lambda conf: scheduler)
    (row,) = send(scheduler, config(tmp_path))
    shutil.rmtree(row.job.folder)
    (job,) = jobs_of(config(tmp_path))
    found = Standings(tmp_path / "runs").of(job)
    assert (found.state, found.text[:10]) == (IN_FLIGHT, "held by jo")
    assert found.steps_left == 0
    assert not found.evaluations


def test_a_broken_off_submission_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between two arrays; and sbatch took one whose answer never came."""
    scheduler = FakeScheduler()
    whole = scheduler.submit

    def interrupted(script: Path, *, array: str = "", dependency: str = "") -> str:
        found = whole(script, array=array, dependency=dependency)
        if len(scheduler.submissions) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(scheduler, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        send(scheduler, config(tmp_path), config(tmp_path, 1, resources=ResourcesConfig(gpus=1)))
    assert len(scheduler.submissions) == 2
    assert not scheduler.active()
    assert not list((tmp_path / "runs").glob("launches/2*"))


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    odd = config(tmp_path, batch_size=15, resources=ResourcesConfig(gpus=2))
    with pytest.raises(UserError, match="batch_size=15 does not divide over 2 processes"):
        submitting.check(jobs_of(odd), SlurmOptions(check_folder=False), FakeScheduler())


def test_frozen_jobs_have_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scheduler = FakeScheduler()
    made = dataclasses.replace(config(tmp_path), runs_dir="runs", mlflow_uri="sqlite:///my/mlflow.db")
    send(scheduler, made)
    (task,) = list_tasks(tmp_path / "runs")
    frozen = Job.load(task.job_file).config
    assert frozen.runs_dir == str(tmp_path / "runs")
    assert frozen.mlflow_uri == f"sqlite:///{tmp_path}/my/mlflow.db"


def test_a_damaged_evaluation_of_one_run_keeps_no_other_from_being_submitted(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    first, _ = send(scheduler, config(tmp_path), config(tmp_path, 1))
    evaluate(first, 10, 20)
    next(first.job.open().evaluations.glob("*.json")).write_text("{")
    for row in (first, _):
        scheduler.end(row.ids[0], "FAILED")
    rows = send(scheduler, config(tmp_path), config(tmp_path, 1))
    assert [row.state for row in rows] == ["failed", "submitted"]
    assert "remove it" in rows[0].text


# ------------------------------------------------------------------------------------------------ options


def script(request: Resources, options: SlurmOptions, launch: Path, files: list[Path] | None = None) -> str:
    """The batch script, as it would be written into this launch's folder."""
    return ArrayExecutor(launch, 0, request, options, FakeScheduler(), Path("/code")).prepare(files or [launch / "j"])


@pytest.mark.parametrize(
    ("resources", "options", "wanted"),
    [
        (ResourcesConfig(), {}, Resources(1, 1, 0, 1440, None, None)),
        (ResourcesConfig(gpus=8, nodes=2, hours=0.5, mem_gb=64, cpus=8), {}, Resources(2, 4, 4, 30, 64, 8)),
        (ResourcesConfig(gpus=8), {"max_gpus_per_node": 4}, Resources(2, 4, 4, 1440, None, None)),
        (ResourcesConfig(gpus=2), {"max_gpus_per_node": 4}, Resources(1, 2, 2, 1440, None, None)),
        (ResourcesConfig(gpus=1), {"timeout_min": 3, "mem_gb": 5}, Resources(1, 1, 1, 3, 5, None)),
        (ResourcesConfig(), {"nodes": 2, "tasks_per_node": 2}, Resources(2, 2, 0, 1440, None, None)),
        (ResourcesConfig(gpus=1), {"gpus_per_node": 2, "cpus_per_task": 3}, Resources(1, 2, 2, 1440, None, 3)),
        (ResourcesConfig(hours=1, mem_gb=2), {"timeout_min": 0, "mem_gb": 0}, Resources(1, 1, 0, 0, 0, None)),
        (ResourcesConfig(mem_gb=0, hours=0.001), {}, Resources(1, 1, 0, 1, 0, None)),
        (ResourcesConfig(gpus=2), {"gpus_per_node": 0}, Resources(1, 1, 0, 1440, None, None)),
    ],
)
def test_resources_and_options(resources: ResourcesConfig, options: dict[str, object], wanted: Resources) -> None:
    assert request_of(resources, SlurmOptions(**options)) == wanted


def test_zero_is_what_slurm_means_by_it(tmp_path: Path) -> None:
    """--mem=0: all of the node; --time=0: no limit. Both were read as nothing said."""
    whole = Resources(1, 1, 0, 0, 0, None)
    text = script(whole, SlurmOptions(), tmp_path)
    assert "#SBATCH --mem=0GB\n" in text
    assert "#SBATCH --time=0\n" in text
    assert "#SBATCH --signal=USR2@120\n" in text, "not a quarter of nothing"
    assert str(whole) == "1 CPU, no time limit, all memory"
    assert starts(1e9, whole, SlurmOptions(), 0) == 1
    assert "--mem" not in script(Resources(1, 1, 0, 60, None, None), SlurmOptions(), tmp_path)
    (job,) = make_jobs([composed("model=N", "resources.mem_gb=0", f"runs_dir={tmp_path}")])
    assert not warnings_before_submission([job], None, options=SlurmOptions(timeout_min=0))
    scheduler = FakeScheduler(max_minutes=120)
    try_requests({whole: "run"}, SlurmOptions(partition="other"), scheduler)
    with pytest.raises(UserError, match=r"asks for no time limit \(hydra.launcher.timeout_min=0\), but its partition"):
        try_requests({whole: "run"}, SlurmOptions(), scheduler)


@pytest.mark.parametrize("name", [name for name, low in lowest().items() if low == 1])
def test_a_zero_that_slurm_has_no_meaning_for_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"hydra.launcher.{name}=0 cannot be: at least 1"):
        options_from(SlurmOptions, {name: 0})
    options_from(SlurmOptions, {"gpus_per_task": 1, name: 1})


def test_every_number_of_the_launcher_has_its_lowest_value() -> None:
    hints = typing.get_type_hints(SlurmOptions)
    numbers = {name for name, hint in hints.items() if hint in (int, int | None, float | None)}
    assert numbers - {"mfu"} == set(lowest())
    for name in lowest():
        with pytest.raises(UserError, match="cannot be"):
            options_from(SlurmOptions, {name: -1})


def test_gpus_that_cannot_be_shared_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="multiple"):
        request_of(ResourcesConfig(gpus=7), SlurmOptions(max_gpus_per_node=4))


def test_a_stock_option_that_means_nothing_here_is_refused() -> None:
    for options in (SlurmOptions, PlanOptions):
        with pytest.raises(UserError, match=r"submitit_folder has no effect: .*launches.*: leave it away"):
            options_from(options, {"submitit_folder": ".submitit"})


def test_every_option_of_the_stock_launcher_and_every_parameter_of_submitit_is_there() -> None:
    ours = set(typing.get_type_hints(SlurmOptions))
    assert {item.name for item in dataclasses.fields(SlurmQueueConf)} <= ours
    shared = {"job_name": "name", "time": "timeout_min", "mem": "mem_gb", "ntasks_per_node": "tasks_per_node"}
    wanted = {shared.get(name, name) for name in SlurmExecutor._valid_parameters()} - {"num_gpus"}
    assert wanted <= ours
    assert wanted == set(SlurmOptions(**dict.fromkeys(wanted, 1)).said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"additional_parameters": {"time": "00:02:00"}},
            r"additional_parameters.time .*hydra.launcher.timeout_min=",
        ),
        ({"additional_parameters": {"ntasks-per-node": 2}}, "say hydra.launcher.tasks_per_node="),
        ({"additional_parameters": {"part": "high"}}, "say hydra.launcher.partition="),
        ({"additional_parameters": {"mail-type": "FAIL"}}, "say hydra.launcher.mail_type="),
        ({"additional_parameters": {"array": "0-3"}}, "one index is one run"),
        ({"additional_parameters": {"signal": "B:TERM@9"}}, "hydra.launcher.signal_delay_s="),
        ({"additional_parameters": {"output": "x"}}, r"log\.txt"),
        ({"additional_parameters": {"p": "high"}}, "no long option of sbatch"),
        ({"stderr_to_stdout": False}, r"log\.txt"),
        ({"dependency": "afterok:1?afterok:2"}, "commas"),
        ({"cpus_per_gpu": 2}, "submitit warns"),
        ({"mem_gb": 3, "mem_per_cpu": "1G"}, "mem_gb has no effect beside hydra.launcher.mem_per_cpu"),
        ({"gpus_per_node": 3, "gpus_per_task": 1}, "gpus_per_node has no effect beside"),
        ({"additional_parameters": {"clusters": "other"}}, "slurm_conf"),
        ({"additional_parameters": {"--reservation": "r"}}, "no long option"),
        ({"srun_args": ["--output=x"]}, "says that itself"),
        ({"mail_type": "END,FIAL"}, "mail_type=END,FIAL: did you mean FAIL"),
        ({"srun_args": ["-n1"]}, "says that itself"),
        ({"srun_args": ["--export=NONE"]}, "--export=ALL"),
        ({"launch_prefix": "module load x &&"}, "setup"),
    ],
)
def test_what_would_be_dropped_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        options_from(PlanOptions, values)


def test_where_a_job_goes_is_said_of_it_or_of_all(tmp_path: Path) -> None:
    """`resources` of a run, of its evaluations' jobs, then the launcher; how much training gets is no evaluation's."""
    there = ResourcesConfig(partition="high", qos="fast", gpus=2, gpu_type="h100", hours=1)
    made = config(tmp_path, resources=there)
    made.evaluation = dataclasses.replace(made.evaluation, where="job", resources=ResourcesConfig(account="other"))
    scheduler = FakeScheduler()
    options = {"partition": "main", "account": "lab", "gres": "gpu:4", "mem_per_gpu": "9G", "exclusive": True}
    (row,) = send(scheduler, made, **options, constraint="ib", mail_type="FAIL")
    training, evaluation = (submission.script.read_text() for submission in scheduler.submissions)
    for line in ("partition=high", "qos=fast", "account=lab", "gres=gpu:4", "gpus-per-node=h100:2", "exclusive"):
        assert f"#SBATCH --{line}\n" in training, line
    for line in ("partition=main", "account=other", "constraint=ib", "mail-type=FAIL"):
        assert f"#SBATCH --{line}\n" in evaluation, line
    for name in ("qos", "gres", "gpus-per-node", "mem", "exclusive"):
        assert f"#SBATCH --{name}" not in evaluation, name
    assert str(row.request) == "2 h100 GPUs, 1 h, partition high, qos fast"
    with pytest.raises(UserError, match="gpu_type=h100 has no effect on a job without GPUs"):
        request_of(ResourcesConfig(gpu_type="h100"), SlurmOptions())


def test_one_run_has_one_place(tmp_path: Path) -> None:
    """Two grids ask for the run, each with another partition and another protocol."""
    first = config(tmp_path)
    other = config(tmp_path, resources=ResourcesConfig(partition="high"))
    other.evaluation = dataclasses.replace(other.evaluation, samples=30)
    with pytest.raises(UserError, match=r"one run, .* with resources.partition=None and with resources.partition=high"):
        jobs_of(first, other)
    first.evaluation = dataclasses.replace(first.evaluation, resources=ResourcesConfig(hours=2))
    with pytest.raises(UserError, match=r"with evaluation.resources.hours=2 and with evaluation.resources.hours="):
        jobs_of(first, config(tmp_path))


def test_what_the_shell_says_of_sbatch() -> None:
    shell = {"SBATCH_ACCOUNT": "lab", "SBATCH_PARTITION": "high", "SBATCH_RESERVATION": "r", "SBATCH_TIMELIMIT": "5"}
    shell["SLURM_CLUSTERS"] = "other"
    options, notes = with_shell(SlurmOptions(partition="main"), shell)
    assert (options.account, options.partition, options.additional_parameters) == ("lab", "main", {"reservation": "r"})
    assert notes == [
        "SBATCH_ACCOUNT=lab of this shell is asked for, where resources says nothing else",
        "SBATCH_RESERVATION=r of this shell is asked for, where resources says nothing else",
        "SBATCH_PARTITION of this shell has no effect: hydra.launcher says otherwise",
        "SBATCH_TIMELIMIT, SLURM_CLUSTERS of this shell have no effect: say hydra.launcher.* instead",
    ]
    same, (note,) = with_shell(SlurmOptions(), {**shell, "SLURM_JOB_ID": "7"})
    assert same == SlurmOptions()
    assert note.endswith("have no effect: inside a SLURM job")


def test_a_dependency_of_the_users_is_kept_beside_ours(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.evaluation = dataclasses.replace(made.evaluation, where="job")
    scheduler = FakeScheduler()
    (row,) = send(scheduler, made, dependency="afterok:77")
    assert [submission.dependency for submission in scheduler.submissions] == ["", f"afterok:77,afterany:{row.ids[0]}"]
    assert "#SBATCH --dependency=afterok:77\n" in scheduler.submissions[0].script.read_text()


def test_one_process_without_srun(tmp_path: Path) -> None:
    text = script(Resources(1, 1, 0, 60, None, None), SlurmOptions(use_srun=False), tmp_path)
    assert "srun --" not in text
    assert "#SBATCH --signal=B:USR2@120\n" in text, "there is no step that could be told"
    two = config(tmp_path, resources=ResourcesConfig(gpus=2))
    with pytest.raises(UserError, match=r"use_srun=false starts one process, and .* asks for 2"):
        submitting.check(jobs_of(two), SlurmOptions(use_srun=False), FakeScheduler())


def test_what_was_submitted_is_there_in_python(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    rows = send(scheduler, config(tmp_path), config(tmp_path, 1))
    assert all(isinstance(job, SlurmJob) for row in rows for job in row.jobs)
    assert [job.job_id for row in rows for job in row.jobs] == [row.ids[0] for row in rows]
    assert [job.job_id for job in submitted_jobs(tmp_path / "runs", scheduler)] == [row.ids[0] for row in rows]
    assert submitted_jobs(tmp_path / "runs", FakeScheduler()) != []
    other = FakeScheduler()
    send(other, config(tmp_path / "elsewhere"), config(tmp_path / "elsewhere", 1))
    assert submitted_jobs(tmp_path / "runs", other) == [], "the cluster was made anew: these ids are another's"
    (job,) = rows[0].jobs
    assert job.stdout() is None
    (job.run / "log.txt").write_text("hello\n")
    assert job.stdout() == "hello\n"
    assert job.run == rows[0].job.folder


def test_stock_options_reach_sbatch(tmp_path: Path) -> None:
    options = SlurmOptions(
        partition="main", qos="high", comment="a comment", constraint="h100", exclude="n1", account="lab",
        gres="disk:1", signal_delay_s=30, setup=["module load cuda"], name="mine",
        mail_type="FAIL", mail_user="kim", exclusive=True, nodelist="n[2-3]", wckey="w", dependency="afterok:7",
        cpus_per_gpu=2, gpus_per_task=1, mem_per_gpu="8G", srun_args=["--mpi=none", "--a b"],
        additional_parameters={"licenses": "l:1", "contiguous": True, "time_min": "10", "nice": False},
    )  # fmt: skip
    text = script(request_of(ResourcesConfig(), options), options, tmp_path)
    for line in (
        "--partition=main", "--qos=high", "--comment='a comment'", "--constraint=h100", "--exclude=n1",
        "--account=lab", "--gres=disk:1", "--signal=USR2@30", "--job-name=mine", "--mail-type=FAIL", "--requeue",
        "--mail-user=kim", "--exclusive", "--nodelist='n[2-3]'", "--wckey=w", "--dependency=afterok:7",
        "--cpus-per-gpu=2", "--gpus-per-task=1", "--mem-per-gpu=8G", "--licenses=l:1", "--contiguous", "--time-min=10",
        "--open-mode=append", f"--chdir={tmp_path}", f"--output={tmp_path}/%A_%a.log", "--array=0-0%1",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text, line
    assert "--error" not in text
    assert "--nice" not in text
    assert "srun --unbuffered --kill-on-bad-exit=1 --wait=0 --export=ALL --mpi=none '--a b' \\\n" in text
    assert text.index("module load cuda") < text.index("exec srun")
    assert text.index("module load cuda") < text.index("export PYTHONPATH"), "the code stays what it was"
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_short_limit_is_told_early_enough_and_not_at_once(tmp_path: Path) -> None:
    for limit, delay in ((1, 15), (5, 75), (10, 120), (600, 120)):
        options = SlurmOptions(timeout_min=limit)
        text = script(request_of(ResourcesConfig(), options), options, tmp_path)
        assert f"--signal=USR2@{delay}\n" in text


def test_a_large_checkpoint_is_given_time_to_reach_a_slow_disk() -> None:
    """100 MB/s, and half a minute for the step in hand; at most a quarter of the limit, and what is asked wins."""
    day, hour = SlurmOptions(timeout_min=1440), SlurmOptions(timeout_min=20)
    for saved, options, delay in (
        (8_999_999_999, day, 120),
        (9_000_000_001, day, 121),
        (11_200_000_000, day, 142),
        (112_000_000_000, day, 1150),
        (112_000_000_000, hour, 300),
        (112_000_000_000, SlurmOptions(timeout_min=1440, signal_delay_s=60), 60),
    ):
        assert signal_delay(request_of(ResourcesConfig(), options), options, saved) == delay


def test_the_largest_checkpoint_of_an_array_sets_its_signal(tmp_path: Path) -> None:
    """Of what training writes: weights, EMA, two moments, and the power function averages, which a snapshot has too."""
    for tracked, copies in ((None, 4), ([], 4), ([0.05, 0.1], 8)):
        folder = tmp_path / str(tracked)
        large = config(folder, 1, model=load_preset("XL"), power_ema=PowerEMAConfig(tracked))
        scheduler = FakeScheduler()
        send(scheduler, config(folder), large, config(folder, 2))
        (array,) = scheduler.submissions
        delay = 30 + math.ceil(4 * copies * run_cost(large).parameters / 100e6)
        assert delay > 120
        assert f"--signal=USR2@{delay}\n" in array.script.read_text()


def test_training_that_does_not_wait_for_its_kept_checkpoints_has_time_for_two(tmp_path: Path) -> None:
    """Its last one may still be on its way to the disk when it is told to save; the evaluation's job writes little."""
    large = config(tmp_path, 1, model=load_preset("XL"))
    apart = dataclasses.replace(large, evaluation=dataclasses.replace(large.evaluation, where="job"))
    scheduler = FakeScheduler()
    send(scheduler, apart)
    training, evaluation = (array.script.read_text() for array in scheduler.submissions)
    delay = 30 + math.ceil(2 * 4 * 4 * run_cost(large).parameters / 100e6)
    assert f"--signal=USR2@{delay}\n" in training
    assert "--signal=USR2@120\n" in evaluation


# ------------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Requested node configuration is not available", r"ask for less with resources.gpus, .*max_gpus_per_node"),
        ("invalid partition specified: nope", "partitions here are main"),
        ("Invalid account", "Invalid account$"),
    ],
)
def test_what_slurm_refuses_is_told_before_anything_is_written(tmp_path: Path, words: str, said: str) -> None:
    scheduler = FakeScheduler()
    scheduler.refuse = words
    (job,) = jobs_of(config(tmp_path))
    with pytest.raises(UserError, match=rf"SLURM refuses {job.name} \(1 CPU, 24 h\): .*{said}"):
        submitting.check([job], SlurmOptions(check_folder=False), scheduler)
    assert not (tmp_path / "runs").exists()


def test_each_request_is_tried_once(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    apart = config(tmp_path, 9, evaluation=dataclasses.replace(config(tmp_path).evaluation, where="job"))
    jobs = jobs_of(*(config(tmp_path, seed) for seed in range(5)), apart)
    submitting.check(jobs, SlurmOptions(check_folder=False), scheduler)
    assert len(scheduler.tested) == 2


def test_more_time_than_the_partition_gives_is_refused(tmp_path: Path) -> None:
    """sbatch --test-only takes it, and the job would wait for ever."""
    day = {Resources(1, 1, 0, 1440, None, None): "run"}
    with pytest.raises(UserError, match=r"run asks for 1440 min, but its partition gives at most 120: say resources.h"):
        try_requests(day, SlurmOptions(), FakeScheduler(max_minutes=120))
    several = FakeScheduler(max_minutes=120)
    several.facts.partitions["long"] = Partition("long", False, 2000)
    try_requests(day, SlurmOptions(partition="main,long"), several)


def test_a_setup_that_no_shell_can_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"setup, teardown, srun_args or launch_prefix is no shell: .*EOF"):
        try_requests({Resources(1, 1, 0, 60, None, None): "run"}, SlurmOptions(setup=["echo 'open"]), FakeScheduler())


def test_a_runs_folder_that_the_nodes_cannot_see(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\ntmpfs {tmp_path}/local tmpfs rw 0 0\n"
    )
    assert file_system(tmp_path / "runs" / "deep", mounts) == ("nfs4", str(tmp_path))
    check_folder(tmp_path / "runs", ["n1"], mounts)
    (tmp_path / "local").mkdir()
    with pytest.raises(UserError, match="check_folder=false"):
        check_folder(tmp_path / "local" / "runs", ["n1"], mounts)
    check_folder(tmp_path / "local" / "runs", [os.uname().nodename], mounts)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("10:00", 10), ("1:30:00", 90), ("2-12:00:00", 3600), ("45", 45), ("1-0", 1440), ("UNLIMITED", float("inf"))],
)
def test_slurms_times(text: str, wanted: float) -> None:
    assert minutes(text) == wanted


def test_the_frozen_config_reads_back(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert config_from(dataclasses.asdict(made)) == made


@pytest.fixture
def credentials_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a tracking server, in this shell; no file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "kim")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cr3t")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("credentials_here")
def test_a_submission_writes_no_password_down(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    uri = "http://kim:s3cr3t@host:5000/prefix"
    asked = composed("model=N", f"mlflow_uri='{uri}'", f"runs_dir='{tmp_path / 'runs'}'", "resources.gpus=0")
    evaluated = dataclasses.replace(asked.evaluation, where="job")
    command = redacted_words([*COMMAND, f"mlflow_uri={uri}", "+model.options.api_key=s3cr3t"])
    submit(jobs_of(dataclasses.replace(asked, evaluation=evaluated)), SlurmOptions(), scheduler, command)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"launch.json", "0.sh", "1.sh", "config.yaml"}
    for path in files:
        assert b"s3cr3t" not in path.read_bytes(), path
    (launch,) = (tmp_path / "runs" / "launches").glob("*/launch.json")
    content = json.loads(launch.read_text())
    assert content["command"][-2:] == ["mlflow_uri=http://host:5000/prefix", "+model.options.api_key=***"]
    assert content["credentials"] == ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]


@pytest.mark.usefixtures("credentials_here")
def test_where_credentials_do_not_reach_the_jobs_submission_says_so(tmp_path: Path) -> None:
    uri = "http://host:5000"
    jobs = jobs_of(dataclasses.replace(config(tmp_path), mlflow_uri=uri))

    def told(jobs: list[Job] = jobs, **options: Any) -> str:
        return "\n".join(credentials_warnings(jobs, SlurmOptions(**options)))

    none = {"additional_parameters": {"export": "NONE"}}
    assert told() == told(additional_parameters={"export": "ALL,X=1"}) == ""
    assert told(additional_parameters={"export": "MLFLOW_TRACKING_USERNAME,MLFLOW_TRACKING_PASSWORD"}) == ""
    assert told(**none) == (
        "additional_parameters.export=NONE keeps MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD from the jobs, "
        "which cannot forward to MLflow then: export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to them, or "
        "write ~/.mlflow/credentials"
    )
    assert told(jobs_of(dataclasses.replace(config(tmp_path), mlflow_uri="off")), **none) == ""
    assert told(jobs_of(config(tmp_path)), **none) == ""  # sqlite
    file = tmp_path / "home" / ".mlflow" / "credentials"
    file.parent.mkdir(parents=True)
    file.touch()
    assert told(**none) == ""
    assert "holds a secret" in told(launch_prefix="env WANDB_API_KEY=s3cr3t")
    secret = told(setup=["module load cuda", "export MLFLOW_TRACKING_PASSWORD=s3cr3t"])
    assert "holds a secret (export MLFLOW_TRACKING_PASSWORD=***)" in secret
    assert "s3cr3t" not in secret


def test_batch_scripts_are_their_users_alone(tmp_path: Path) -> None:
    """What a user's `setup` exports is nobody else's."""
    scheduler = FakeScheduler()
    send(scheduler, config(tmp_path), setup=["export MLFLOW_TRACKING_PASSWORD=s3cr3t"])
    (submission,) = scheduler.submissions
    assert submission.script.stat().st_mode & 0o777 == 0o600


def test_a_budget_that_a_job_on_its_way_passes_is_refused(tmp_path: Path) -> None:
    """It would be lost by the time that its own job starts; one beyond waits for it."""
    scheduler = FakeScheduler()
    (first,) = send(scheduler, config(tmp_path, steps=(20, 40)))
    with pytest.raises(UserError, match=rf"steps=10 could not be evaluated: job {first.ids[0]} trains the run to 40"):
        send(scheduler, config(tmp_path, steps=(10, 80)), config(tmp_path, 1))
    assert len(scheduler.submissions) == 1
    (beyond,) = send(scheduler, config(tmp_path, steps=(20, 80)))
    assert beyond.state == "submitted"


def _branches(tmp_path: Path, seed: int = 0, **changes: object) -> list[Config]:
    """What `cooldown=0.2` makes of the budgets 10 and 20: a parent to 8 and 16, and the branches 8-10 and 16-20."""
    return branches_of(dataclasses.replace(config(tmp_path, seed), cooldown=0.2, **changes), ["evaluation.weights"])  # type: ignore[arg-type]


def test_branches_wait_for_their_own_parent(tmp_path: Path) -> None:
    """Trajectories are one array; each branch is a submission of its own, which waits for one task of it."""
    scheduler = FakeScheduler()
    rows = send(scheduler, *_branches(tmp_path), *_branches(tmp_path, 1), config(tmp_path, 2))
    parents = [row for row in rows if row.job.parent_id is None]
    assert [submission.array for submission in scheduler.submissions] == ["0-2%3", "0", "1", "2", "3"]
    waits = {parent.job.id: f"afterany:{parent.ids[0]}" for parent in parents}
    branches = [row for row in rows if row.job.parent_id is not None]
    assert [submission.dependency for submission in scheduler.submissions] == [
        "",
        *(waits[row.job.parent_id or ""] for row in branches),
    ]
    again = send(scheduler, *_branches(tmp_path), *_branches(tmp_path, 1), config(tmp_path, 2))
    assert {row.state for row in again} == {"in the queue"}


def test_a_branch_waits_for_a_parent_that_is_in_the_queue(tmp_path: Path) -> None:
    scheduler = FakeScheduler()
    (parent,) = send(scheduler, _branches(tmp_path)[0])
    _, *branches = send(scheduler, *_branches(tmp_path))
    assert {submission.dependency for submission in scheduler.submissions[1:]} == {f"afterany:{parent.ids[0]}"}
    # Where it leaves there is a checkpoint: it waits for nobody.
    (parent.job.open().checkpoints / "step-00000008").mkdir(parents=True)
    for row in branches:
        scheduler.end(row.ids[0], "FAILED")
    _, first, second = send(scheduler, *_branches(tmp_path))
    assert (first.state, second.state) == ("submitted", "submitted")
    assert [submission.dependency for submission in scheduler.submissions[-2:]] == ["", f"afterany:{parent.ids[0]}"]


def test_the_evaluation_of_a_branch_waits_for_the_branch(tmp_path: Path) -> None:
    """And nothing evaluates a parent that is only trained."""
    scheduler = FakeScheduler()
    evaluation = dataclasses.replace(config(tmp_path).evaluation, where="job")
    parent, first, _ = send(scheduler, *_branches(tmp_path, evaluation=evaluation))
    assert (len(parent.ids), len(first.ids)) == (1, 2)
    by_id = {submission.id: submission.dependency for submission in scheduler.submissions}
    train, evaluator = (name.split("_")[0] for name in first.ids)
    assert by_id[train] == f"afterany:{parent.ids[0]}"
    assert by_id[evaluator] == f"afterany:{first.ids[0]}"


def test_nothing_is_evaluated_of_a_parent_whose_budgets_are(tmp_path: Path) -> None:
    """It is trained on for a new branch: no job waits to find that out."""
    scheduler = FakeScheduler()
    apart = _evaluated_apart(tmp_path)
    (first,) = send(scheduler, apart)
    evaluate(first, 10, 20)
    for name in first.ids:
        scheduler.end(name, "COMPLETED")
    branched = branches_of(dataclasses.replace(apart, steps=[40], cooldown=0.2), ["evaluation.weights"])
    parent, branch = send(scheduler, apart, *branched)
    assert (len(parent.ids), len(branch.ids)) == (1, 2)


def test_a_branch_is_not_submitted_where_nothing_trains_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be refused when it starts, or train what the parent is to train."""

    def told(scheduler: FakeScheduler) -> list[tuple[str, str]]:
        parent, *branches = send(scheduler, *_branches(tmp_path))
        assert all(row.text.startswith(f"{parent.job.name}, which it branches from, comes first") for row in branches)
        return [(row.state, row.text.partition("and is ")[2]) for row in branches]

    parent, *_ = jobs_of(*_branches(tmp_path))
    parent.open()
    with claim(parent.folder):  # another process trains it
        ((state, text), _) = told(FakeScheduler())
    assert (state, text[:20]) == ("held", "held: by process " + str(os.getpid())[:3])
    frozen = parent.folder / "config.yaml"
    kept = frozen.read_text()
    frozen.write_text(kept.replace("batch_size: ", "batch_size: 1"))
    ((state, text), _) = told(FakeScheduler())
    assert (state, text[:8]) == ("failed", "failed: ")
    assert "was changed by hand" in text
    frozen.write_text(kept)

    there, here = FakeScheduler(), FakeScheduler()
    for name in ("a.conf", "b.conf"):
        (tmp_path / name).touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "a.conf"))
    (first,) = send(there, _branches(tmp_path)[0])
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "b.conf"))
    rows = submit(jobs_of(*_branches(tmp_path)), SlurmOptions(), here, COMMAND, lambda conf: there)
    assert [row.state for row in rows] == ["in the queue", "held", "held"]
    assert f"in the queue of another cluster, as {first.ids[0]}" in rows[1].text
    assert not here.submissions

    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "a.conf"))
    shutil.rmtree(parent.folder)
    ((state, text), _) = told(there)
    assert (state, text[:14]) == ("held", "held: by job 1")
    assert len(there.submissions) == 1


def test_a_branch_waits_for_a_training_in_the_queue_also_where_an_evaluation_is_new(tmp_path: Path) -> None:
    """The row of its parent says `submitted` then, and means that evaluation."""
    scheduler = FakeScheduler()
    apart = _evaluated_apart(tmp_path)
    branched = branches_of(dataclasses.replace(apart, cooldown=0.2), ["evaluation.weights"])
    (first,) = send(scheduler, branched[0], apart)
    other = dataclasses.replace(apart, evaluation=dataclasses.replace(apart.evaluation, samples=30))
    parent, *branches = send(scheduler, other, *branched)
    assert [row.state for row in (parent, *branches)] == ["submitted"] * 3
    by_id = {submission.id: submission.dependency for submission in scheduler.submissions}
    assert {by_id[row.ids[0].split("_")[0]] for row in branches} == {f"afterany:{first.ids[0]}"}
