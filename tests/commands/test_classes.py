"""Classes from images to samples: none at all (unconditional models), names, and names that are numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcdm.data.dataset import open_dataset
from fcdm.engine.distributed import Ranks
from fcdm.engine.evaluate import heldout_loss
from fcdm.engine.load_model import open_model
from fcdm.engine.train import train
from fcdm.engine.worker import Worker
from fcdm.jobs.make_jobs import make_jobs
from fcdm.prepare import main as prepare
from fcdm.runs.find_weights import find_weights
from fcdm.runs.folder import Run
from fcdm.sample import main as sample
from tests.support.commands import composed
from tests.support.silent import Silent
from tests.support.tiny_images import picture, save_vae

CPU = torch.device("cpu")
DRAW = ("samples=4", "sampling_steps=2", "batch_size=4")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vae(tmp_path_factory.mktemp("vae") / "vae")


def store(folder: Path, vae: Path, *names: str, more: tuple[str, ...] = ()) -> Path:
    """A store of pictures of these names."""
    for number, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)
    where = (f"images={folder / 'images'}", f"out={folder / 'store'}", f"vae={vae}")
    assert prepare(["latents", *where, "resolution=32", "device=cpu", "workers=2", *more]) == 0
    return folder / "store"


def trained(folder: Path, vae: Path, classes: int, *more: str) -> Run:
    """A run of two steps on the store in `folder`; nothing is evaluated but the held-out loss."""
    np.savez(folder / "reference.npz", arr_0=np.zeros((4, 32, 32, 3), np.uint8))  # only named by the protocol
    words = [
        "data=imagenet", f"data.path={folder / 'store'}", f"data.vae={vae}", f"data.classes={classes}",
        "resolution=32", "batch_size=4", "precision=fp32", "steps=2", "mlflow_uri=off", "threads=1",
        f"evaluation.reference={folder / 'reference.npz'}", f"runs_dir={folder / 'runs'}", *more,
    ]  # fmt: skip
    (job,) = make_jobs([composed(*words)])
    run, config = job.open(), job.parts[0].config
    worker = Worker(Ranks(0, 1, CPU), Silent())
    train(run, job.parts[:1], worker, keep=set(), evaluate=False)
    model = open_model(find_weights(f"{run.folder}@2", str(folder / "runs")), config, CPU)
    with torch.no_grad():
        bins = heldout_loss(model, config, open_dataset(config, CPU), worker)
    assert np.isfinite(bins).all() or not bins
    return run


@pytest.mark.parametrize("model", [("model=N", "model.width=8"), ("model=dit/N-2", "model.width=24", "model.heads=2")])
def test_images_without_labels_train_and_sample(
    model: tuple[str, ...], vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, vae, *(f"{number}.png" for number in range(12)), more=("heldout=0.1",))
    told = capsys.readouterr().out
    assert f"no labels (no class folders in {tmp_path / 'images'})" in told
    assert "one class (unlabelled): models of it are unconditional, and trained without label drop" in told
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    assert (manifest["classes"], manifest["class_counts"]) == (["unlabelled"], [12])

    run = trained(tmp_path, vae, 1, "label_drop.probability=0", *model)
    out = tmp_path / "drawn"
    assert sample([str(run.folder), *DRAW, f"out={out}", f"decoder={vae}"]) == 0
    with np.load(out / "samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (4, 32, 32, 3)
        assert arrays["arr_1"].tolist() == [0] * 4


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, vae: Path) -> tuple[Path, Run]:
    """A run on twelve classes, called by numbers but for one."""
    folder = tmp_path_factory.mktemp("classes")
    store(folder, vae, *(f"{number}/a.png" for number in range(11)), "faces/a.png")
    shutil.copytree(folder / "store", folder / "other")
    manifest = json.loads((folder / "other/manifest.json").read_text())
    (folder / "other/manifest.json").write_text(json.dumps(manifest | {"classes": ["x"] * 12}))
    return folder, trained(folder, vae, 12, "model=N", "model.width=8")


@pytest.mark.parametrize(
    ("label", "number", "name"),
    [
        ("3", 3, "2"),  # a number is always the class's number: 0, 1, 10, 2, ...
        ("name:3", 4, "3"),
        ("name:10", 2, "10"),
        ("faces", 11, "faces"),
        ("name:faces", 11, "faces"),
        ("12", 12, "the null class"),
    ],
)
def test_a_class_by_its_number_or_its_name(
    label: str, number: int, name: str, lab: Any, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = lab
    assert sample([str(run.folder), f"label={label}", *DRAW, f"out={tmp_path / 'out'}", f"decoder={vae}"]) == 0
    assert f"all of class {number}, {name}\n" in capsys.readouterr().out
    said = json.loads((tmp_path / "out/samples.json").read_text())
    assert said["class"] == {"number": number, "name": name}
    assert said["protocol"]["labels"] == number
    with np.load(tmp_path / "out/samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_1"].tolist() == [number] * 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["label=face"], "label=face is no class's number or name: did you mean name:faces?"),
        (["label=zebra"], "label=zebra is no class's number or name: there are 0, 1, 10, 2, 3, 4 and 6 more"),
        (["label=99"], "label=99 cannot be: a class from 0 to 11, or 12, the null class (unconditional)"),
        (["label=-1"], "label=-1 is no class's number or name"),
        (["label=x", "data.path={other}"], "is not what this model was trained on"),
        (["label=x", "data.path=nowhere"], "no store at nowhere"),
    ],
)
def test_a_class_that_is_none_is_one_line(
    words: list[str], says: str, lab: Any, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = lab
    given = [word.format(other=folder / "other") for word in words]
    assert sample([str(run.folder), *given, *DRAW, "--dry-run", f"decoder={vae}"]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_without_the_store_there_are_numbers_only(
    lab: Any, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = lab
    (folder / "store").rename(folder / "away")
    words = [str(run.folder), *DRAW, f"decoder={vae}", f"out={tmp_path / 'out'}"]
    try:
        assert sample([*words, "label=3", "--dry-run"]) == 0
        assert "all of class 3, whose name the store knows (data.path=STORE)" in capsys.readouterr().out
        assert sample([*words, "label=faces", "--dry-run"]) == 1
        assert "no store at" in capsys.readouterr().err
        assert sample([*words, "label=faces", f"data.path={folder / 'away'}", "--dry-run"]) == 0
        assert "all of class 11, faces" in capsys.readouterr().out
    finally:
        (folder / "away").rename(folder / "store")


def test_digits_are_called_as_they_are_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.tiny_runs import tiny_run

    run, _, _ = tiny_run(tmp_path / "runs")
    assert sample([str(run.folder), "label=7", *DRAW, "--dry-run"]) == 0
    assert "all of class 7, 7\n" in capsys.readouterr().out
