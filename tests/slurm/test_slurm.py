"""Life on a real SLURM: whatever happens to a job, what it leaves is what an undisturbed run leaves, once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcdm.jobs.job import EVALUATE
from tests.support import slurm_lab as lab
from tests.support.commands import only_run, values, weights
from tests.support.own_page import write_page
from tests.support.slurm_lab import BUDGETS, SMALL, STUDY, Lab, assert_undisturbed, starts
from tools.devcluster.cluster import DevCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves its connections to the collector
]


def test_the_literal_command_submits_and_leaves(here: Lab) -> None:
    """Four runs, arrays of at most three tasks; the command returns with the job ids; MLflow has each run once."""
    small = [word for word in SMALL if not word.startswith("mlflow")]
    began = time.monotonic()
    hold = "+hydra.launcher.additional_parameters.hold=true"
    done = here.sweep("model=N,M,dit/N-2,dit/M-2", "steps=10,20", *small, hold)
    returned = time.monotonic() - began
    again = here.sweep("model=N,M,dit/N-2,dit/M-2", "steps=10,20", *small)
    assert "4 in the queue" in again.stdout
    here.slurm("scontrol", "release", *sorted({name.split("_")[0] for name in here.ids()}))
    ids = here.ids()
    assert len(ids) == len(set(ids)) == 4
    assert {name.split("_")[1] for name in ids} == {"0", "1", "2"}, "3 and 1: no array above MaxArraySize"
    for name in ids:
        assert name in done.stdout
        assert here.state(name) in ("PENDING", "CONFIGURING", "RUNNING"), f"returned after {returned:.1f} s"
    here.wait_all_ended()
    for run in here.runs.glob("*/run.json"):
        assert sorted(path.name[:13] for path in run.parent.glob("evaluations/*.json")) == [
            "step-00000010",
            "step-00000020",
        ]
        assert starts(run.parent) == 1
    again = here.sweep("model=N,M,dit/N-2,dit/M-2", "steps=10,20", *small)
    assert "4 done" in again.stdout
    assert here.ids() == ids, "nothing was submitted again"

    forwarded = in_mlflow(here)
    assert set(forwarded) == {path.parent.name for path in here.runs.glob("*/run.json")}
    # A job waits for its last records to get there, but not for long: a busy machine leaves the rest to fcdm.sync.
    assert here.run(*here.command("runs", module="fcdm.sync")).returncode == 0
    assert in_mlflow(here) == {name: [10, 20] for name in forwarded}


def in_mlflow(here: Lab) -> dict[str, list[int]]:
    """The steps of each run's FIDs in MLflow; fails where a run stands there twice."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{here.runs / 'mlflow.db'}")
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)), names
    return {
        run.info.run_name: [point.step for point in client.get_metric_history(run.info.run_id, "fid")] for run in found
    }


def test_a_benchmark_is_submitted_measures_there_and_comes_back(here: Lab) -> None:
    words = ["-m", "model=N,dit/N-2", "micro_batch=4", "seconds=3", "hydra/launcher=submitit_slurm"]
    done = here.run(*here.command(*words, module="fcdm.benchmark"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 submitted" in done.stdout
    folders = sorted(path.parent.parent for path in here.runs.glob("benchmarks/*/jobs/*.slurm.json"))
    assert len(folders) == 2
    ids = [json.loads(path.read_text())["ids"][0] for path in here.runs.glob("benchmarks/*/jobs/*.slurm.json")]
    for name in ids:
        here.wait_state(name, "COMPLETED")
    (path,) = here.runs.glob("benchmarks/*.json")
    assert {entry["name"] for entry in json.loads(path.read_text())["models"].values()} == {"N 8px", "dit/N-2 8px"}
    assert all("measured ceilings" in (folder / "log.txt").read_text() for folder in folders)
    assert not list(here.runs.glob("*/run.json")), "a benchmark is no run"
    assert not list(here.runs.glob("studies/*")), "nor is it asked for by a study"


def test_a_launcher_that_is_killed_at_once_loses_nothing(here: Lab, undisturbed: Path) -> None:
    launcher = subprocess.Popen(
        here.command("-m", *STUDY, "hydra/launcher=submitit_slurm"),
        cwd=here.folder,
        env=here.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = set(here.slurm("squeue", "-h", "-r", "-t", "all", "-o", "%i").split())
    here.wait(
        lambda: set(here.slurm("squeue", "-h", "-r", "-t", "all", "-o", "%i").split()) - before, "the job in the queue"
    )
    launcher.kill()
    launcher.wait()
    again = here.sweep(*STUDY)
    assert "in the queue" in again.stdout or "done" in again.stdout
    here.wait(here.ids, "the job's own note of its id")
    here.wait_all_ended()
    assert len(here.ids()) == 1
    assert starts(here.run_folder()) == 1
    assert_undisturbed(here.run_folder(), undisturbed)


def test_edits_while_jobs_wait_change_nothing(here: Lab, checkout: Path, undisturbed: Path) -> None:
    here.sweep(*STUDY, "+hydra.launcher.additional_parameters.hold=true")
    (job,) = here.ids()
    assert here.state(job) == "PENDING"
    preset = checkout / "fcdm/conf/model/N.yaml"
    preset.write_text(preset.read_text().replace("width: 16", "width: 24"))
    (checkout / "fcdm/engine/train.py").write_text("raise RuntimeError('edited while the job waits')\n")
    (checkout / "fcdm/job.py").write_text("raise RuntimeError('edited while the job waits')\n")
    here.slurm("scontrol", "release", job)
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED", here.describe()
    assert_undisturbed(here.run_folder(), undisturbed)


def test_two_sweeps_at_once_train_each_run_once(here: Lab) -> None:
    words = here.command("-m", "model=N,M", "steps=10", *SMALL, "hydra/launcher=submitit_slurm")
    both = [
        subprocess.Popen(
            words, cwd=here.folder, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert len(here.ids()) == 2, texts
    here.wait_all_ended()
    runs = [path.parent for path in here.runs.glob("*/run.json")]
    assert [starts(run) for run in runs] == [1, 1]


BUG = """
_trained = Evaluator.trained


def _trained_with_a_bug(self, step, state, records):
    if step == 600:
        raise ValueError("a bug of the user's at step 600")
    _trained(self, step, state, records)


Evaluator.trained = _trained_with_a_bug
"""


def test_a_job_that_raises_is_failed_and_the_others_go_on(here: Lab, checkout: Path, undisturbed: Path) -> None:
    evaluate = checkout / "fcdm/engine/evaluate_run.py"
    whole = evaluate.read_text()
    evaluate.write_text(whole + BUG)
    here.sweep("model=N,M", STUDY[1], *SMALL, "model.blocks=[1,1,2,1,1]")
    (first, other) = here.ids()
    # afterok must mean what it says: this one may never start.
    dependent = here.slurm(
        "sbatch", "--parsable", f"--dependency=afterok:{first.split('_')[0]}", "--kill-on-invalid-dep=yes",
        "-o", "/dev/null", "--wrap", f"touch {here.folder}/afterok-ran",
    )  # fmt: skip
    here.wait_all_ended()
    assert here.state(first) == here.state(other) == "FAILED", here.describe()
    here.wait_state(dependent, "CANCELLED")
    assert not (here.folder / "afterok-ran").exists()
    (run,) = here.runs.glob("N-*")
    assert len(list(run.glob("evaluations/step-00000200-*.json"))) == 1, "its earlier budget stands"
    log = (run / "log.txt").read_text()
    assert "Traceback" in log
    (noted,) = run.glob("jobs/*.error.json")
    error = json.loads(noted.read_text())
    assert error["error"] == "ValueError: a bug of the user's at step 600"
    assert "_trained_with_a_bug" in error["traceback"]
    told = here.status()
    assert "a bug of the user's at step 600" in told.stdout
    assert str(run.name) in told.stdout
    # Mended, and the same command again: it goes on from the checkpoint of step 600.
    evaluate.write_text(whole)
    here.sweep("model=N", STUDY[1], *SMALL)
    here.wait_all_ended()
    assert_undisturbed(run, undisturbed)


def test_kill_9_of_a_task_and_retry(here: Lab, undisturbed: Path) -> None:
    here.sweep(*STUDY)
    run = here.wait_step(300)
    here.kill(here.task_pid(run))
    (job,) = here.ids()
    here.wait_state(job, "FAILED")
    told = here.status()
    assert "failed" in told.stdout
    assert "log.txt" in told.stdout or ".log" in told.stdout
    here.run(*here.command("--retry-failed", module="fcdm.status"))
    assert len(here.ids()) == 2
    here.wait_all_ended()
    assert_undisturbed(run, undisturbed)
    here.run(*here.command("--retry-failed", module="fcdm.status"))
    assert len(here.ids()) == 2, "a finished run is never run again"


def test_kill_9_of_a_nodes_daemons_goes_on_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, undisturbed: Path
) -> None:
    lab.require_slurm()
    cluster = DevCluster(
        tmp_path_factory.mktemp("slurm"), nodes=2, cpus=2, gpus=0, options={"SlurmdTimeout": 10, "MessageTimeout": 5}
    )
    cluster.up()
    try:
        here = Lab(cluster, tmp_path)
        here.sweep(*STUDY)
        run = here.wait_step(300)
        (job,) = here.ids()
        node = here.slurm("squeue", "-h", "-r", "-j", job, "-o", "%N")
        for pid in cluster.node_processes(node):
            with_signal = signal.SIGKILL
            try:
                os.kill(pid, with_signal)
            except ProcessLookupError:
                continue
        here.wait_state(job, "COMPLETED")
        claims = [json.loads(path.read_text()) for path in sorted((run / "holders").glob("*.json"))]
        assert [claim["node"] for claim in claims] == [node, "node2" if node == "node1" else "node1"]
        assert [claim["restart"] for claim in claims] == [0, 1]
        assert_undisturbed(run, undisturbed)
    finally:
        cluster.down(purge=True)


def test_a_real_preemption_requeues_and_resumes(here: Lab, undisturbed: Path) -> None:
    only = "hydra.launcher"
    here.sweep(*STUDY[:-1], f"{only}.nodelist=node1", f"{only}.exclusive=true")  # the last one turns MLflow off
    run = here.wait_step(300)
    (job,) = here.ids()
    urgent = here.slurm(
        "sbatch", "--parsable", "-p", "high", "-w", "node1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2"
    )
    here.wait_state(urgent, "RUNNING", "COMPLETING", "COMPLETED")
    here.wait(lambda: "preempted" in here.status().stdout, "the status to say so")
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED"
    assert starts(run) == 2
    assert "SIGUSR2: saved" in (run / "log.txt").read_text()
    (noted,) = run.glob("jobs/*.requeues.json")
    assert [entry.get("preempted") for entry in json.loads(noted.read_text())] == [True]
    assert in_mlflow(here) == {run.name: list(BUDGETS)}, "one MLflow run, before and after"
    assert_undisturbed(run, undisturbed)


def test_a_preemption_without_a_users_signal(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, undisturbed: Path
) -> None:
    """SLURM's default: SIGTERM at the start of the grace time, and a requeue of what is still there at its end."""
    lab.require_slurm()
    cluster = DevCluster(
        tmp_path_factory.mktemp("slurm"),
        nodes=1,
        cpus=1,
        gpus=0,
        grace_time=15,
        options={"SlurmctldParameters": "idle_on_node_suspend"},
    )
    cluster.up()
    try:
        here = Lab(cluster, tmp_path)
        here.sweep(*STUDY)
        run = here.wait_step(300)
        (job,) = here.ids()
        urgent = here.slurm("sbatch", "--parsable", "-p", "high", "-o", "/dev/null", "--wrap", "sleep 1")
        here.wait_state(urgent, "COMPLETED")
        here.wait_all_ended()
        assert here.state(job) == "COMPLETED", here.describe()
        assert "SIGTERM: preempted; saved" in (run / "log.txt").read_text()
        assert starts(run) == 2
        assert_undisturbed(run, undisturbed)
    finally:
        cluster.down(purge=True)


def test_a_sweep_inside_an_allocation_of_several_tasks(here: Lab) -> None:
    """Its SLURM_NTASKS are none of ours: nobody waits for ranks that never come."""
    words = " ".join(here.command("-m", "model=N", "steps=4", *SMALL, "hydra/launcher=local"))
    job = here.slurm(
        "sbatch", "--parsable", "-n", "2", "--mem-per-cpu=1000", "-o", f"{here.folder}/out.txt", "--wrap", words
    )
    here.wait_state(job, "COMPLETED")
    assert ": finished" in (here.folder / "out.txt").read_text()


def test_folders_with_odd_names(cluster: object, tmp_path: Path) -> None:
    folder = tmp_path / "50 % of $HOME's 'runs'"
    folder.mkdir()
    here = Lab(cluster, folder)
    here.sweep("model=N", "steps=4", *SMALL)
    (job,) = here.ids()
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED", here.describe()


def test_a_time_limit_that_needs_three_requeues(here: Lab, undisturbed: Path) -> None:
    """The shortest limit there is, one minute, told to save 40 s before it; each start is held up until it is told."""
    here.sweep(*STUDY, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=40")
    (job,) = here.ids()
    for start in (1, 2, 3):
        run = here.wait_step(100 * start)
        if starts(run) == start:
            _hold_until_told(here, here.task_pid(run))
        here.wait(lambda run=run, start=start: starts(run) > start, "the next start")
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED", here.describe()
    run = here.run_folder()
    assert starts(run) >= 4
    (noted,) = run.glob("jobs/*.requeues.json")
    assert [entry["signal"] for entry in json.loads(noted.read_text())] == ["SIGUSR2"] * (starts(run) - 1)
    assert_undisturbed(run, undisturbed)


def _hold_until_told(here: Lab, pid: int) -> None:
    """Stop the process until the user's signal waits for it; SLURM may be early, and it be gone already."""

    def is_told() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("ShdPnd:", "SigPnd:"))]
        return any(mask >> (signal.SIGUSR2 - 1) & 1 for mask in masks)

    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, signal.SIGSTOP)
        here.wait(is_told, "SLURM's signal before the limit")
        os.kill(pid, signal.SIGCONT)


def test_scancel_stays_cancelled(here: Lab, undisturbed: Path) -> None:
    here.sweep(*STUDY)
    run = here.wait_step(300)
    (job,) = here.ids()
    here.slurm("scancel", job)
    here.wait_state(job, "CANCELLED")
    # It may be killed (KillWait) before it has noted that, on a busy machine.
    for noted in run.glob("jobs/*.stopped.json"):
        assert json.loads(noted.read_text())["signal"] == "SIGTERM"
    time.sleep(12)  # a requeued job starts after about nine seconds
    assert here.state(job) == "CANCELLED"
    assert starts(run) == 1
    assert "cancelled" in here.status().stdout
    here.run(*here.command("--retry-failed", module="fcdm.status"))
    assert here.ids() == [job], "cancelled is not failed"
    here.sweep(*STUDY)  # the same command goes on
    here.wait_all_ended()
    assert_undisturbed(run, undisturbed)


def test_a_requeue_from_outside_when_it_is_about_to_end(here: Lab, undisturbed: Path) -> None:
    here.sweep(*STUDY)
    (job,) = here.ids()
    here.wait(lambda: list(here.runs.glob("*/evaluations/step-00000600-*.json")), "the last evaluation")
    here.slurm("scontrol", "requeue", job)
    here.wait(lambda: "nothing is left to do" in (here.run_folder() / "log.txt").read_text(), "the second start")
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED"
    assert starts(here.run_folder()) == 1
    assert_undisturbed(here.run_folder(), undisturbed)


ON_FOUR = ("resources.nodes=2", "hydra.launcher.tasks_per_node=2", "resources.cpus=1")


def test_two_nodes_of_two_tasks_give_the_same_result(here: Lab, undisturbed: Path) -> None:
    """And a user's signal in the middle, which all four ranks agree on."""
    here.sweep("model=N", "steps=40,80", *SMALL, *ON_FOUR)
    run = here.wait_step(20)
    (job,) = here.ids()
    here.slurm("scancel", "--signal=USR2", job)
    here.wait(lambda: starts(run) == 2, "its second start")
    here.wait_all_ended()
    assert here.state(job) == "COMPLETED", here.describe()
    straight = here.folder / "straight"
    straight.mkdir()
    ranks = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")
    words = ("-m", "fcdm.train", "model=N", "steps=[40,80]", *SMALL)
    done = subprocess.run(
        [*ranks, *words], cwd=straight, env=here.environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    alone = only_run(straight / "runs")
    for step in (40, 80):
        assert weights(run, step) == weights(alone, step)
    assert values(run).keys() == values(alone).keys(), "only rank 0 writes, each record once"
    segments = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines() if "segment" in line]
    assert {line["world_size"] for line in segments if line["segment"] == "start"} == {4}


def test_a_users_own_model_is_frozen_with_the_code(here: Lab) -> None:
    """Two ranks train it as it was submitted, with a helper of its own; both files are gone when the job starts."""
    write_page(here.folder)
    module = here.folder / "my_unet.py"
    module.write_text("from my_parts import SCALE\n" + module.read_text().replace("/ 1000", "/ SCALE"))
    helper = here.folder / "my_parts.py"
    helper.write_text("SCALE = 1000\n")
    hold = "+hydra.launcher.additional_parameters.hold=true"
    two = ("hydra.launcher.tasks_per_node=2", "resources.cpus=1")
    here.sweep("--config-dir", ".", "model=my_unet", "steps=4", *SMALL, *two, hold)
    (job,) = here.ids()
    module.unlink()
    helper.write_text("raise RuntimeError('edited while the job waits')\n")
    here.slurm("scontrol", "release", job)
    here.wait_all_ended()
    run = here.run_folder()
    assert here.state(job) == "COMPLETED", here.describe()
    assert len(list((run / "evaluations").glob("step-00000004-*.json"))) == 1
    (code,) = here.runs.glob("code/*")
    for name in ("my_unet.py", "my_parts.py"):
        assert (code / name).read_text() == (run / "source" / name).read_text()


def test_a_rank_that_dies_takes_its_job_down_at_once(here: Lab) -> None:
    here.sweep("model=N", "steps=100000", *SMALL, *ON_FOUR)
    run = here.wait_step(20)
    (job,) = here.ids()
    first = here.task_pid(run)
    other = next(pid for pid in here.cluster.node_processes("node2") if _is_rank(pid) and pid != first)
    here.kill(other)
    began = time.monotonic()
    here.wait_state(job, "FAILED")
    assert time.monotonic() - began < 30


def _is_rank(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"fcdm.job" in words and not any(word in (b"bash", b"srun") for word in words[:1])


def test_evaluated_by_jobs_of_their_own(here: Lab, checkout: Path, undisturbed: Path) -> None:
    """Training dies after its first budget: that one is evaluated all the same. Mended, the rest follows."""
    train = checkout / "fcdm/engine/train_step.py"
    whole = train.read_text()
    broken = whole.replace(
        "        state.advance(", "        if state.step == 450:\n"
        "            raise RuntimeError('out of luck')\n        state.advance(",
    )  # fmt: skip
    assert broken != whole
    train.write_text(broken)
    here.sweep(*STUDY, "evaluation=job")
    assert len(here.ids()) == 2
    here.wait_all_ended()
    run = here.run_folder()
    states = {json.loads(path.with_suffix("").with_suffix(".json").read_text())["work"]: here.state(
        json.loads(path.read_text())["job"]) for path in run.glob("jobs/*.slurm.json")}  # fmt: skip
    assert states == {"train": "FAILED", EVALUATE: "COMPLETED"}, here.describe()
    assert [path.name[:13] for path in run.glob("evaluations/step-*.json")] == ["step-00000200"]
    train.write_text(whole)
    here.sweep(*STUDY, "evaluation=job")
    here.wait_all_ended()
    assert len(here.ids()) == 4
    assert lab.evaluations(run) == lab.evaluations(undisturbed)
    assert lab.weights(run, 600) == lab.weights(undisturbed, 600)
    assert "done" in here.sweep(*STUDY, "evaluation=job").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.launcher.partition=mian"], "partitions here are high, main"),
        (["resources.gpus=8"], "spread it with"),
        (["resources.mem_gb=900"], "ask for less"),
        (["hydra.launcher.constraint=h100"], "SLURM refuses"),
        (["hydra.launcher.slurm_conf=nowhere/slurm.conf"], "nowhere/slurm.conf"),
        (["hydra.launcher.timout_min=3"], "timeout_min"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused_in_one_line(here: Lab, words: list[str], said: str) -> None:
    done = here.sweep(*STUDY, *words, ok=False)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(here.runs.glob("*/jobs/*")), "nothing half-submitted"
    assert not list(here.runs.glob("launches/2*"))


def test_code_that_cannot_be_imported_is_refused(here: Lab, checkout: Path) -> None:
    (checkout / "fcdm/engine/ema.py").write_text("def broken(:\n")
    done = here.sweep(*STUDY, ok=False)
    assert "ema.py" in done.stderr
    assert "SyntaxError" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(here.runs.glob("launches/2*"))


def test_waiting_with_a_live_table(here: Lab) -> None:
    done = here.sweep("model=N,M", "steps=10", *SMALL, "hydra.launcher.wait=true")
    assert len(list(here.runs.glob("*/evaluations/step-00000010-*.json"))) == 2
    assert "FID" in done.stdout


def test_no_slurm_on_this_machine(tmp_path: Path) -> None:
    here = Lab(None, tmp_path)
    words = here.command("-m", *STUDY, "hydra/launcher=submitit_slurm")
    done = subprocess.run(
        words, cwd=tmp_path, env=lab.environment(PATH=str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no SLURM on this machine" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not here.runs.exists()


assert BUDGETS == (200, 600), "the scenarios above know these"
