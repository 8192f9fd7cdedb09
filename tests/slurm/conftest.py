"""A private SLURM for the scenarios of this folder, one for each process of pytest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import slurm_lab as lab
from tests.support.commands import ROOT
from tests.support.slurm_lab import Lab
from tools.devcluster.cluster import DevCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Two nodes of four CPUs and two make-believe GPUs; arrays of at most three tasks."""
    lab.require_slurm()
    private = DevCluster(tmp_path_factory.mktemp("slurm"), nodes=2, cpus=4, gpus=2, options={"MaxArraySize": "3"})
    private.up()
    yield private
    private.down(purge=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.train_undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def here(cluster: object, tmp_path: Path) -> Lab:
    return Lab(cluster, tmp_path)


@pytest.fixture
def checkout(here: Lab, tmp_path: Path) -> Path:
    """A copy of the code, to be edited; commands take it from there."""
    folder = tmp_path / "checkout"
    for name in ("fcdm", "hydra_plugins", "sweeps", "slurm"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    here.checkout = folder
    return folder
