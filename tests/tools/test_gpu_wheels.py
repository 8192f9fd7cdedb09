"""What `make gpu-wheels` makes is enough on a machine without mlflow and a registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, TINY, environment
from tools.gpu_wheels import PACKAGES, fill
from tools.setup_venv import pinned


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the wheels' packages before all others, in which mlflow is not to be had."""
    folder = tmp_path_factory.mktemp("bare")
    wheels = fill(folder / ".whl")
    versions = {path.name.split("-")[0].replace("_", "-"): path.name.split("-")[1] for path in wheels}
    assert versions == dict(pinned(name).split("==") for name in PACKAGES)
    assert sum(path.stat().st_size for path in wheels) < 10e6
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder / "installed"), *map(str, wheels)], check=True)
    (folder / "mlflow.py").write_text("raise ModuleNotFoundError('mlflow is not on this machine')")
    return environment(PYTHONPATH=os.pathsep.join(map(str, (folder / "installed", folder, ROOT))), FCDM_GPU_TESTS="cpu")


def run(bare: dict[str, str], folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, env=bare, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_trains_evaluates_and_plans(bare: dict[str, str], tmp_path: Path) -> None:
    imported = "hydra, omegaconf, antlr4, diffusers, importlib_metadata, submitit, cloudpickle"
    where = run(bare, tmp_path, "-c", f"import {imported}\nfor one in ({imported}): print(one.__file__)").split()
    assert [path.startswith(bare["PYTHONPATH"].split(os.pathsep)[0]) for path in where] == [True] * len(PACKAGES)
    assert "step 4: FID" in run(bare, tmp_path, "-m", "fcdm.train", "model=N", "steps=4", *TINY)
    plan = ("hydra/launcher=plan", "hydra.launcher.gpu=H100")
    assert "Nothing was started" in run(bare, tmp_path, "-m", "fcdm.train", "-m", "model=S", *plan)


def test_the_gpu_tests_are_found(bare: dict[str, str]) -> None:
    """All that are marked gpu, in files named so that one pattern finds them."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*_gpu.py"))
    words = ("-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-m", "gpu")
    plain = {name: value for name, value in bare.items() if name != "PYTEST_ADDOPTS"}  # -v there: a tree is printed
    found = run(plain, ROOT, *words, *files).splitlines()
    assert {line.split("::")[0] for line in found if "::" in line} == set(files)
    marked = {str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text()}
    assert marked - {str(Path(__file__).relative_to(ROOT))} == set(files)
