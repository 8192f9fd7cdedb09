"""`python -m fcdm.train` as its user meets it: what it prints, what is on disk, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcdm.sweep.jobs_asked import jobs_asked
from tests.support.commands import TINY, Command, environment, evaluations, only_run, records, values, weights


def test_one_run_leaves_everything_a_reader_needs(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("model=N", "steps=[2,4]", *TINY)
    assert done.returncode == 0, done.stderr
    assert "step 2: FID" in done.stdout
    assert "step 4: FID" in done.stdout
    run = only_run(tmp_path / "runs")
    assert run.name.startswith("N-digits-8px-")
    described = json.loads((run / "run.json").read_text())
    assert described["id"].startswith(run.name.rsplit("-", 1)[-1])
    assert described["cost"]["parameters"] > 100_000
    found = values(run)
    for step in (2, 4):
        for key in ("loss", "grad_norm", "train_pflops", "fid", "fid_heldout", "fid_pixels", "heldout_loss"):
            assert isinstance(found[step, key], float), (step, key)
        assert (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()
    (evaluation,) = (run / "evaluations").glob("step-00000004-*.json")
    protocol = json.loads(evaluation.read_text())["protocol"]
    assert protocol["sampler"] == "ddim"
    assert protocol["samples"] == 20
    assert protocol["features"].startswith("digits-cnn@")
    assert evaluation.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    start, *_, end = [line for line in records(run) if "segment" in line]
    assert start["threads"] == 1
    assert end["completed"] is True
    study = json.loads((tmp_path / "runs" / "studies" / "default.json").read_text())
    assert study["requests"][0]["run"] == run.name
    assert study["requests"][0]["budgets"] == [2, 4]
    assert "fcdm.train model=N" in study["commands"][0]


def test_again_is_done_at_once_and_more_steps_continue(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=2", *TINY).returncode == 0
    run = only_run(tmp_path / "runs")
    before = (run / "records.jsonl").read_bytes()
    again = fcdm("model=N", "steps=2", *TINY, PYTHONPROFILEIMPORTTIME="1")
    assert again.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert "fcdm.jobs.make_jobs" in imported
    assert "torch" not in imported, "what is done already is said without loading it"
    assert "done" in again.stdout
    assert (run / "records.jsonl").read_bytes() == before
    assert fcdm("model=N", "steps=4", *TINY).returncode == 0
    assert only_run(tmp_path / "runs") == run
    assert (4, "fid") in values(run)
    # What commands beside Hydra's (`fcdm.forecast`) take the words for is this run, and its evaluations.
    (job,) = jobs_asked(["model=N", "steps=[2,4]", f"runs_dir={tmp_path / 'runs'}", *TINY])
    assert (job.folder, job.missing()) == (run, [])
    # A straight run to 4 is the same, bit for bit.
    assert fcdm("model=N", "steps=[2,4]", "runs_dir=straight", *TINY).returncode == 0
    straight = only_run(tmp_path / "straight")
    assert weights(run, 4) == weights(straight, 4)
    assert values(run) == values(straight)


def test_budgets_of_a_sweep_are_one_trajectory(fcdm: Command, tmp_path: Path) -> None:
    """With Hydra's own basic launcher, and what the local one then finds done."""
    done = fcdm("-m", "model=N,M", "steps=2,4", *TINY)
    assert done.returncode == 0, done.stderr
    runs = sorted(path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    assert [run.name.split("-")[0] for run in runs] == ["M", "N"]
    for run in runs:
        assert {step for step, key in values(run) if key == "fid"} == {2, 4}
        assert sum(line.get("segment") == "start" for line in records(run)) == 1
    local = fcdm("-m", "model=N,M", "steps=2,4", "hydra/launcher=local", *TINY)
    assert local.returncode == 0
    assert local.stdout.count(": done") == 2


def test_submitit_local_does_whole_jobs(fcdm: Command, tmp_path: Path) -> None:
    """`hydra/launcher=submitit_local`: a process for each run, two protocols in one of them, and one that fails."""
    words = ("-m", "model=N", "steps=2,4", "evaluation.seed=0,1", "hydra/launcher=submitit_local", *TINY)
    done = fcdm(*words, "optimiser.lr=1e-3,1e30")
    assert done.returncode == 1
    assert "is not finite at step" in done.stderr
    assert done.stderr.count("failed: ") == 1, done.stderr
    assert done.stdout.count(": done: budgets 2, 4") == 1, done.stdout
    runs = [path.parent for path in (tmp_path / "runs").glob("*/run.json")]
    assert sorted(len(list((run / "evaluations").glob("step-*.json"))) for run in runs) == [0, 4]
    good = max(runs, key=lambda run: len(list((run / "evaluations").glob("step-*.json"))))
    starts = [line for line in records(good) if line.get("segment") == "start"]
    assert len({line["pid"] for line in starts}) == 1, "one process for both protocols"
    again = fcdm(*words, "optimiser.lr=1e-3")
    assert again.returncode == 0, again.stderr
    assert "done" in again.stdout


def test_local_launcher_shares_cores_and_reports_failures(fcdm: Command, tmp_path: Path) -> None:
    arguments = ("-m", "model=N,dit/N-2", "optimiser.lr=1e-3,1e30", "steps=4", "hydra/launcher=local", *TINY)
    done = fcdm(*arguments)
    assert done.returncode == 1
    assert "at a time with 1 CPU thread" in done.stdout
    assert done.stdout.count(": finished") == 2, done.stdout
    assert done.stdout.count(": failed") == 2
    assert "is not finite at step" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    for run in (tmp_path / "runs").glob("*/records.jsonl"):
        starts = [line for line in records(run.parent) if line.get("segment") == "start"]
        assert starts[0]["threads"] == 1
    # What is done stays done; the failed ones fail again and say so.
    again = fcdm(*arguments)
    assert again.returncode == 1
    assert again.stdout.count(": done") == 2


def test_a_sweep_file_is_a_list_of_grids(fcdm: Command, tmp_path: Path) -> None:
    folder = tmp_path / "config" / "sweeps"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\nstudy: mine\ngrids:\n"
        "  - {model: N, steps: [2, 4]}\n  - {model: dit/N-2, steps: [4, 6], seed: [0, 1]}\n"
    )
    done = fcdm("--config-dir", "config", "-m", "+sweeps=mine", "hydra/launcher=local", *TINY)
    assert done.returncode == 0, done.stderr + done.stdout
    study = json.loads((tmp_path / "runs" / "studies" / "mine.json").read_text())
    asked = sorted((item["run"].rsplit("-", 1)[0], item["budgets"]) for item in study["requests"])
    assert asked == [("N-digits-8px", [2, 4]), ("dit-N-2-digits-8px", [4, 6]), ("dit-N-2-digits-8px", [4, 6])]


def test_the_projects_sweeps_are_found_from_anywhere(fcdm: Command, tmp_path: Path) -> None:
    done = fcdm("-m", "+sweeps=digits", "model=N", "steps=2", "hydra/launcher=local", *TINY)
    assert done.returncode == 0, done.stderr + done.stdout
    study = json.loads((tmp_path / "runs" / "studies" / "digits.json").read_text())
    assert [item["budgets"] for item in study["requests"]] == [[2]]
    assert study["question"].startswith("The study of `make demo`: both families")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job", "model=N"], ["model=Q"], ["model=N", "stepz=3"]])
def test_help_and_errors_are_instant(fcdm: Command, arguments: list[str]) -> None:
    probe = (
        "import sys, runpy\n"
        f"sys.argv = ['fcdm.train', *{arguments!r}]\n"
        "try:\n    runpy.run_module('fcdm.train', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'sklearn', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    probed = subprocess.run(
        [sys.executable, "-c", probe], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert probed.returncode == 0, probed.stderr


def test_the_literal_command_without_imagenet_says_what_to_do(fcdm: Command, tmp_path: Path) -> None:
    refused = fcdm("-m", "model=S,B,L,XL")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "fcdm.prepare" in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=Q"], "model=Q is not known"),
        (["model=dit/N-3"], "did you mean dit/N-"),
        (["model=N", "stepz=3"], "did you mean steps?"),
        (["model=N", "+stepz=3"], "did you mean steps?"),
        (["model=N", "optimiser.lrr=3"], "did you mean optimiser.lr?"),
        (["model=N", "model.widht=3"], "did you mean model.width?"),
        (["model=N", "steps=0"], "at least 1 step"),
        (["model=N", "steps=-5"], "at least 1 step"),
        (["model=N", "steps=many"], "steps='many' is no number of steps"),
        (["model=N", "steps=[]"], "asks for nothing"),
        (["model=N", "batch_size=none"], "batch_size"),
        (["model=N", "batch_size=0"], "at least 1"),
        (["model=N", "optimiser.lr=-1"], "more than 0"),
        (["model=N", "precision=fp8"], "precision=fp8 is not known"),
        (["model=N", "resolution=10"], "multiple of 4"),
        (["model=dit/N-2", "resolution=9"], "patch"),
        (["model=N", "resolution=12"], "8, 16 or 32"),
        (["model=N", "data=imagenet"], "fcdm.prepare"),
        (["model=N", "device=tpu9"], "device=tpu9"),
        (["model=N", "evaluation.sampling_steps=2000"], "1000 steps of the diffusion"),
        (["model=N", "study=../x"], "study="),
        (["model=N,M"], "model"),
        (["+sweeps=digits"], "-m +sweeps"),
        (["model=N", "data.downsample=0"], "at least 1"),
        (["model=N", "data.classes=5"], "leave these"),
        (["model=N", "runs_dir="], "runs_dir is empty"),
        (["-m", "model=N", "runs_dir=a,b"], "cannot be swept"),
        (["-m", "model=N", "hydra/launcher=slurm"], "hydra/launcher=slurm is not known"),
        (["model=N", "threads=4096"], "CPU cores"),
        (["-m", "model=N,Q"], "model=Q is not known"),
        (["-m", "model=N", "optimiser.lr=1e-3,oops"], "optimiser.lr"),
        (["-m", "+sweeps=digitz"], "digits"),
        (["model=N", "data=digits", "data.path=img"], "python -m fcdm.prepare images images=img"),
        (["-m", "model=N", "data.vae=ft-mse", "hydra/launcher=plan"], "data.vae=ft-mse has no effect"),
        (["model=M", "model=N", "seed=0,1", "seed=2", "evaluation.atol=1"], "evaluation.atol=1.0 has no effect"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    fcdm: Command, tmp_path: Path, arguments: list[str], says: str
) -> None:
    refused = fcdm(*arguments)
    assert refused.returncode == 1
    lines = [line for line in refused.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, refused.stderr
    assert says in lines[0], lines[0]
    assert "Traceback" not in refused.stdout
    assert not list(tmp_path.glob("runs/*/records.jsonl"))


def test_jobs_for_evaluations_where_there_are_none_is_told(fcdm: Command, tmp_path: Path) -> None:
    note = "note: evaluation=job is for hydra/launcher=submitit_slurm: here each run evaluates its own budgets\n"
    alone = fcdm("model=N", "steps=2", "evaluation=job", *TINY)
    swept = fcdm("-m", "model=N", "steps=2", "evaluation=job", "hydra/launcher=local", *TINY)
    assert (alone.returncode, alone.stderr) == (swept.returncode, swept.stderr) == (0, note)
    assert len(evaluations(only_run(tmp_path / "runs"))) == 1


def test_a_runs_folder_below_a_file_is_refused(fcdm: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = fcdm("model=N", "steps=2", "runs_dir=file/runs", *TINY)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "file" in refused.stderr


def test_a_config_edited_by_hand_is_refused_with_the_difference(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=2", *TINY).returncode == 0
    frozen = only_run(tmp_path / "runs") / "config.yaml"
    frozen.write_text(frozen.read_text().replace("lr: 0.008", "lr: 0.08"))
    refused = fcdm("model=N", "steps=4", *TINY)
    assert refused.returncode == 1
    assert "changed by hand" in refused.stderr
    assert "optimiser.lr: 0.08 (the run is 0.008)" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_passed_budget_is_evaluated_from_its_checkpoint_or_refused(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=[2,6]", *TINY).returncode == 0
    run = only_run(tmp_path / "runs")
    before = values(run)
    other = fcdm("model=N", "steps=2", *TINY, "evaluation.sampling_steps=3")
    assert other.returncode == 0, other.stderr
    assert len(list((run / "evaluations").glob("step-00000002-*.json"))) == 2
    assert [line["step"] for line in records(run) if "fid" in line] == [2, 6, 2]
    assert before[6, "fid"]
    lost = fcdm("model=N", "steps=4", *TINY)
    assert lost.returncode == 1
    assert "steps=4 cannot be evaluated any more" in lost.stderr
    assert "kept: 2, 6" in lost.stderr
    swept = fcdm("-m", "model=N,M", "steps=4", *TINY, "hydra/launcher=local")
    assert swept.returncode == 1
    assert "steps=4 cannot be evaluated any more" in swept.stderr
    assert swept.stderr.count("\n") == 1
    assert only_run(tmp_path / "runs") == run, "all or nothing: M is not begun"
    (study,) = (tmp_path / "runs" / "studies").glob("*.json")
    assert {step for one in json.loads(study.read_text())["requests"] for step in one["budgets"]} == {2, 6}


def test_two_protocols_of_one_run_in_one_sweep(fcdm: Command, tmp_path: Path) -> None:
    """The part that is done first must not train past a budget of the other's."""
    folder = tmp_path / "config" / "sweeps"
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(
        "# @package _global_\ngrids:\n  - {model: N, steps: [4]}\n  - {model: N, steps: [2, 4], evaluation.seed: 1}\n"
    )
    for launcher in ("basic", "local"):
        sweep = ("--config-dir", "config", "-m", "+sweeps=two", f"hydra/launcher={launcher}", f"runs_dir={launcher}")
        done = fcdm(*sweep, *TINY)
        assert done.returncode == 0, done.stdout + done.stderr
        run = only_run(tmp_path / launcher)
        evaluated = [path.name.split("-")[1] for path in (run / "evaluations").glob("*.json")]
        assert sorted(evaluated) == ["00000002", "00000004", "00000004"]


def test_a_budget_that_was_asked_for_keeps_its_checkpoint(fcdm: Command, tmp_path: Path) -> None:
    """Asked for, trained to, but not evaluated yet when the next command asks for more."""
    assert fcdm("model=N", "steps=2", *TINY).returncode == 0
    run = only_run(tmp_path / "runs")
    for path in (run / "evaluations").glob("step-*"):
        path.unlink()
    assert fcdm("model=N", "steps=6", *TINY, "checkpoint.every_steps=1", "checkpoint.keep=1").returncode == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000006"]
    assert fcdm("model=N", "steps=2", *TINY).returncode == 0


def test_a_loss_record_always_covers_its_own_window(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=3", *TINY, "log_every=50").returncode == 0
    assert fcdm("model=N", "steps=8", *TINY).returncode == 0
    run = only_run(tmp_path / "runs")
    assert fcdm("model=N", "steps=8", *TINY, "runs_dir=straight").returncode == 0
    straight = values(only_run(tmp_path / "straight"))
    found = values(run)
    assert (4, "loss") not in found, "the window of step 4 is not whole"
    assert [found[step, "loss"] for step in (6, 8)] == [straight[step, "loss"] for step in (6, 8)]


def test_a_damaged_run_does_not_stop_the_others(fcdm: Command, tmp_path: Path) -> None:
    assert fcdm("model=N", "steps=2", *TINY).returncode == 0
    frozen = only_run(tmp_path / "runs") / "config.yaml"
    frozen.write_bytes(b"\xff\xfe")
    done = fcdm("-m", "model=N,M", "steps=4", "hydra/launcher=local", *TINY)
    assert done.returncode == 1
    assert done.stdout.count(": finished") == 1
    assert "1 of 2 done; not: N-digits-8px" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(fcdm: Command, tmp_path: Path) -> None:
    failed = fcdm("model=N", "steps=60", "optimiser.lr=1e18", "checkpoint.every_steps=1", *TINY, "log_every=20")
    assert failed.returncode == 1
    assert "is not finite at step" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stderr.count("\n") == 1
    run = only_run(tmp_path / "runs")
    assert records(run)[-1]["completed"] is False


def test_sigterm_saves_and_the_same_command_continues_bit_for_bit(fcdm: Command, tmp_path: Path) -> None:
    arguments = ("model=N", "steps=400", *TINY)
    started = subprocess.Popen(
        [sys.executable, "-m", "fcdm.train", *arguments, "checkpoint.keep=1"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _wait_for_steps(tmp_path, 10)
    started.send_signal(signal.SIGTERM)
    text, _ = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM, text
    assert "Traceback" not in text
    run = only_run(tmp_path / "runs")
    (kept,) = (run / "checkpoints").glob("step-*")
    assert 10 <= int(kept.name.split("-")[1]) < 400
    assert fcdm(*arguments).returncode == 0
    assert fcdm(*arguments, "runs_dir=straight").returncode == 0
    straight = only_run(tmp_path / "straight")
    assert weights(run, 400) == weights(straight, 400)
    assert values(run) == values(straight)


def test_a_second_process_is_told_who_holds_the_run(fcdm: Command, tmp_path: Path) -> None:
    arguments = ("model=N", "steps=100000", *TINY)
    started = subprocess.Popen(
        [sys.executable, "-m", "fcdm.train", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_steps(tmp_path, 2)
        second = fcdm(*arguments)
        assert second.returncode == 1
        assert f"process {started.pid} on" in second.stderr
        assert second.stderr.count("\n") == 1, second.stderr
        swept = fcdm("-m", *arguments, "hydra/launcher=local")
        assert swept.returncode == 1
        assert f"held: by process {started.pid}" in swept.stdout
    finally:
        started.kill()
        started.wait()
    # Killed hard: the next one takes over.
    after = fcdm("model=N", "steps=2", *TINY, "checkpoint.keep=5")
    assert after.returncode in (0, 1)
    assert "process" not in after.stderr


def _wait_for_steps(folder: Path, steps: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for path in folder.glob("runs/*/records.jsonl"):
            if any(
                '"loss"' in line and json.loads(line)["step"] >= steps for line in path.read_text().splitlines()[:-1]
            ):
                return
        time.sleep(0.1)
    raise AssertionError(f"no run reached {steps} steps")


def test_a_launcher_without_a_sweep_is_refused(fcdm: Command, tmp_path: Path) -> None:
    """Hydra ignores it then, and would train on the login node."""
    done = fcdm("model=N", "hydra/launcher=submitit_slurm")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "fcdm.train: hydra/launcher=submitit_slurm needs -m, for one run too: python -m fcdm.train -m ..."
    )
    assert not (tmp_path / "runs").exists()
