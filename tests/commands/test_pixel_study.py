"""Studies on images of one's own, through the command line: prepare, train, evaluate, sample, continue."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.commands import evaluations, only_run, python_in, values, weights
from tests.support.pixel_data import idx_folder, image_folder, parquet_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CIFAR-like store of 32 x 32 RGB, one of 64 x 64 without labels, and a grey one of MNIST's files."""
    folder = tmp_path_factory.mktemp("pixels")
    parquet_folder(folder / "cifar10")
    image_folder(folder / "photos", 40, 64, classes=())
    idx_folder(folder / "mnist", 40, 12, side=8)
    for words in (
        "images=cifar10 resolution=32 out=data/cifar10-32",
        "images=photos resolution=64 out=data/photos-64",
        "images=mnist resolution=8",
    ):
        python_in(folder, "-m", "fcdm.prepare", "images", *words.split())
    return folder


def study(store: str, *more: str) -> list[str]:
    return [
        "-m", "fcdm.train", f"data.path=data/{store}", "batch_size=8", "log_every=1", "steps=[2,4]",
        "evaluation.features=pixels", "evaluation.samples=12", "evaluation.sampling_steps=2", "evaluation.batch_size=6",
        "mlflow_uri=off", "data.flip=random", "threads=1", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("store", "model", "more", "shape"),
    [
        ("cifar10-32", "N", (), (32, 32, 3)),
        ("cifar10-32", "dit/N-2", ("model.patch_size=4",), (32, 32, 3)),
        ("photos-64", "N", ("model.width=8",), (64, 64, 3)),
        ("mnist-8", "N", (), (8, 8, 1)),
    ],
)
def test_a_study_from_a_store_to_samples(
    lab: Path, store: str, model: str, more: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    runs = f"runs-{store}-{model.replace('/', '-')}"
    words = study(store, f"model={model}", f"runs_dir={runs}", *more)
    python_in(lab, *words)
    folder = only_run(lab / runs)
    for path in folder.glob("evaluations/step-*.json"):
        found = json.loads(path.read_text())
        assert found["metrics"]["heldout_loss"] > 0
        assert "decoder" not in found["protocol"], "there is nothing to decode"
    assert len(evaluations(folder)) == 2
    assert "done" in python_in(lab, *words).stdout, "the same command again does nothing"

    drawn = f"drawn-{store}-{model.replace('/', '-')}"
    python_in(lab, "-m", "fcdm.sample", f"{runs}/{folder.name}@4", "samples=6", "sampling_steps=2", f"out={drawn}")
    with np.load(lab / drawn / "samples.npz", allow_pickle=False) as arrays:
        images = arrays["arr_0"]
    assert (images.shape, images.dtype) == ((6, *shape), np.uint8)


def test_a_run_cut_in_two_and_one_on_two_ranks_are_the_same(lab: Path) -> None:
    words = study("cifar10-32", "model=N", "model.width=8")
    python_in(lab, *words, "runs_dir=whole")
    python_in(lab, *words, "runs_dir=parts", "steps=2")
    python_in(lab, *words, "runs_dir=parts")
    whole, parts = only_run(lab / "whole"), only_run(lab / "parts")
    assert weights(parts, 4) == weights(whole, 4), "bit for bit"
    assert values(parts) == values(whole)

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    python_in(lab, *launcher, *words, "runs_dir=ranks")
    both = only_run(lab / "ranks")
    assert both.name == whole.name
    mine, wanted = (load_file(f / "checkpoints/step-00000004/model.safetensors") for f in (both, whole))
    for name, tensor in wanted.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_store_of_a_run_may_not_change(lab: Path) -> None:
    image_folder(lab / "small", 30, 8)
    python_in(lab, "-m", "fcdm.prepare", "images", "images=small", "resolution=8", "out=data/small")
    words = study("small", "model=N", "model.width=8", "runs_dir=small-runs", "steps=2")
    python_in(lab, *words)
    checksum = json.loads((only_run(lab / "small-runs") / "run.json").read_text())
    image_folder(lab / "small", 3, 8, first=500)
    refused = python_in(lab, "-m", "fcdm.prepare", "images", "images=small", "resolution=8", "out=data/small", ok=False)
    assert "is a whole store of other images (30; small has 33)" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert json.loads((only_run(lab / "small-runs") / "run.json").read_text()) == checksum


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.path=cifar10"], "fcdm.prepare images images=cifar10 resolution=32 out=cifar10-32`, then say"),
        (["data.vae=ft-ema"], "these are pixels, and no latents of a VAE: leave it away"),
        (["data=imagenet"], "leave data=imagenet away"),
        (["model.patch_size=5", "model=dit/N-2"], "fcdm.prepare images"),
    ],
)
def test_what_does_not_fit_is_one_line(lab: Path, words: list[str], said: str) -> None:
    done = python_in(lab, *study("cifar10-32", "model=N", "runs_dir=refused"), *words, ok=False)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
