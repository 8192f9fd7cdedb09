"""hydra/launcher=local on a machine with GPUs: each job sees one of its own, and no more jobs run than there are."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fcdm.errors import UserError
from fcdm.jobs import local_pool
from fcdm.jobs.job import Job
from fcdm.jobs.local_gpus import _listed, local_gpus, machine_gpus
from fcdm.jobs.local_pool import check_devices, run_local
from fcdm.jobs.make_jobs import make_jobs
from fcdm.runs.processes import cores
from tests.support.commands import TINY, Command, composed
from tests.support.environ import environment_of

WHOLE = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-8f1e)"
CUT_UP = """GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-77aa)
  MIG 3g.40gb     Device  0: (UUID: MIG-0001)
  MIG 1g.10gb     Device  1: (UUID: MIG-0002)"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (None, ["GPU-a", "GPU-b"]),
        ("3,5", ["3", "5"]),
        (" 1 , GPU-b,MIG-x/1/0", ["1", "GPU-b", "MIG-x/1/0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["0"]),
        ("0,0", ["0"]),
    ],
)
def test_what_is_inherited_is_kept_to(monkeypatch: pytest.MonkeyPatch, given: str | None, seen: list[str]) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert local_gpus(lambda: ["GPU-a", "GPU-b"]) == seen
    assert local_gpus(list) == [], "where there is no GPU, names of some say nothing"


@pytest.mark.parametrize(
    ("text", "code", "names"),
    [
        (WHOLE, 0, ["GPU-8f1e"]),
        (f"{WHOLE}\n{CUT_UP}", 0, ["GPU-8f1e", "MIG-0001", "MIG-0002"]),
        ("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", 9, []),
        ("No devices were found", 0, []),
    ],
)
def test_the_names_that_nvidia_smi_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int, names: list[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 2\ncat <<END\n{text}\nEND\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert _listed() == names
    if metadata.version("torch").endswith("+cpu"):
        assert machine_gpus() == [], "a torch for CPUs sees none"
    program.unlink()


def jobs_of(folder: Path, *choices: tuple[str, ...]) -> list[Job]:
    return make_jobs([composed("model=N", "steps=[4]", f"runs_dir={folder}", *TINY, *words) for words in choices])


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, list[str | None]]]:
    """Of each process started: the GPUs that it sees, and those of the jobs that run beside it."""
    real = subprocess.Popen
    running: list[tuple[Any, str | None]] = []
    noted: list[tuple[str | None, list[str | None]]] = []

    class Noting(real):  # type: ignore[misc, valid-type]
        def __init__(self, words: list[str], **options: Any) -> None:
            super().__init__(words, **options)
            if "fcdm.job" in words:
                gpu = environment_of(self.pid).get("CUDA_VISIBLE_DEVICES")
                noted.append((gpu, [other for process, other in running if process.poll() is None]))
                running.append((self, gpu))

    monkeypatch.setattr(local_pool.subprocess, "Popen", Noting)
    return noted


def test_each_job_sees_one_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    jobs = jobs_of(tmp_path, *((f"seed={seed}", "resources.gpus=4") for seed in range(4)))
    ended = run_local(jobs, gpus=lambda: local_gpus(lambda: ["GPU-a", "GPU-b"]))
    assert [outcome.state for outcome in ended] == ["finished"] * 4
    assert len(starts) == 4
    for gpu, beside in starts:
        assert gpu in ("3", "5")
        assert gpu not in beside, "no two jobs on one GPU"
    told = capfd.readouterr().out
    if cores() >= 2:
        assert {gpu for gpu, _ in starts} == {"3", "5"}
        assert "2 at a time" in told
    assert "one GPU of 2 for each of 4" in told
    assert told.count("resources.gpus=4 is for clusters") == 1
    assert "torchrun" in told


def test_no_more_jobs_than_gpus_and_others_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: Any
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-x,7")
    jobs = jobs_of(tmp_path, ("seed=0",), ("seed=1", "device=auto"), ("seed=2", "device=cpu"), ("seed=3", "device=cpu"))
    ended = run_local(jobs, gpus=lambda: ["MIG-x"])
    assert [outcome.state for outcome in ended] == ["finished"] * 4
    assert sorted(gpu for gpu, _ in starts) == ["MIG-x", "MIG-x", "MIG-x,7", "MIG-x,7"], "on CPUs: as it was"
    assert all("MIG-x" not in beside for gpu, beside in starts if gpu == "MIG-x")


def test_the_cap_of_the_user_is_kept(tmp_path: Path, starts: Any) -> None:
    run_local(jobs_of(tmp_path, ("seed=0",), ("seed=1",)), at_once=1, gpus=lambda: ["0", "1"])
    assert [beside for _, beside in starts] == [[], []]


def test_without_gpus_nothing_is_said_or_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run_local(jobs_of(tmp_path, ("resources.gpus=4",)), gpus=list)
    assert starts == [(None, [])]
    assert "GPU" not in capfd.readouterr().out


def test_a_gpu_by_number_is_refused(fcdm: Command, tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, ("device=cuda",))
    check_devices([job])
    with pytest.raises(UserError, match=r"say device=cuda, and CUDA_VISIBLE_DEVICES=1 before"):
        check_devices(jobs_of(tmp_path, ("device=cuda:1",)))
    done = fcdm("-m", "model=N", "steps=4", *TINY, "device=cuda:1", "hydra/launcher=local")
    assert done.returncode == 1
    assert "device=cuda:1: hydra/launcher=local gives each job a GPU of its own" in done.stderr
    assert not (tmp_path / "runs").exists(), "nothing was begun"
