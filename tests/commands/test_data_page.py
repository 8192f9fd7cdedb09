"""docs/data.md: its three studies, each command as it stands there but for the size."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.commands import ROOT, environment
from tests.support.pixel_data import idx_folder, parquet_folder
from tests.support.tiny_images import encoded, odd_images, picture

TEXT = (ROOT / "docs/data.md").read_text().partition("## In three commands")[2].partition("\n## ")[0]
BLOCKS = [
    [shlex.split(line) for line in block.splitlines()] for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
]
TINY = "steps=2 batch_size=8 evaluation.samples=12 evaluation.sampling_steps=2 evaluation.batch_size=6 mlflow_uri=off"


QUICK = "import sys, fcdm.features.train_classifier as t; t.STEPS = 60; from fcdm.prepare import main; sys.exit(main())"


def run(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def photos(folder: Path) -> Path:
    """250 pictures of odd formats, sizes and modes, without labels."""
    folder.mkdir()
    odd = odd_images()
    for name, data in odd.items():
        (folder / name).write_bytes(data)
    for number in range(250 - len(odd)):
        size = (64 + number % 40, 64 + number % 9)
        (folder / f"{number:03d}.png").write_bytes(encoded(Image.fromarray(picture(number, *size)), "PNG"))
    return folder


def test_a_folder_parquet_and_idx_files_are_there() -> None:
    assert [block[0][4] for block in BLOCKS] == ["images=photos", "images=cifar10", "images=fashion-mnist"]
    for block in BLOCKS:
        assert [words[:3] for words in block] == [
            ["python", "-m", name] for name in ("fcdm.prepare", "fcdm.train", "analysis.report")
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "source"),
    [
        (0, lambda folder: photos(folder / "photos")),
        (1, lambda folder: parquet_folder(folder / "cifar10", 240, 48)),
        (2, lambda folder: idx_folder(folder / "fashion-mnist", 240, 48, side=28)),
    ],
    ids=["photos", "cifar10", "fashion-mnist"],
)
def test_its_commands_go_from_nothing_to_a_report(block: int, source: Callable[[Path], Path], tmp_path: Path) -> None:
    """A folder of odd formats, CIFAR's parquet and MNIST's files: the store, a study in two spaces, its page."""
    source(tmp_path)
    store, study, report = (words[1:] for words in BLOCKS[block])
    run(tmp_path, *store)
    (folder,) = (tmp_path / "data").iterdir()
    assert f"data.path=data/{folder.name}" in study
    # What the study's command would do first, in fewer steps.
    run(tmp_path, "-c", QUICK, "features", f"data.path={folder}")
    run(tmp_path, *study, *TINY.split())
    run(tmp_path, *report)
    (page,) = (tmp_path / "reports").glob("*.html")
    assert page.stat().st_size > 10_000
    protocols = {path.name.partition("-")[2] for path in tmp_path.glob("runs/*/evaluations/step-*.json")}
    assert len(protocols) >= 2, "two spaces of features"
