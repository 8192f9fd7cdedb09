"""`tools/install.py fashion-mnist`: where Debian's data set is, and what to do where it cannot be installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment
from tools.install import FASHION_MNIST, fashion_mnist, missing_fashion_mnist


def test_the_data_are_found_below_the_systems_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'nothing'}:{tmp_path / 'share'}")
    for name in FASHION_MNIST:
        assert (fashion_mnist(), missing_fashion_mnist()) == (None, ["dataset-fashion-mnist"]), "not all are there"
        (folder / name).touch()
    assert (fashion_mnist(), missing_fashion_mnist()) == (folder, [])


def test_without_apt_it_says_which_files_to_put_where(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "install.py"), "fashion-mnist"],
        env=environment(XDG_DATA_DIRS=str(tmp_path), PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert all(name in done.stderr for name in FASHION_MNIST)
    assert "make fashion FASHION=<that folder>" in done.stderr
