"""The whole chain on latents: images, store, training, samples, decoding, all five metrics, records, plots."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.commands import only_run, python_in, values
from tests.support.tiny_images import make_folder, save_vae

pytestmark = pytest.mark.slow


def run(folder: Path, *words: str, ok: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    return python_in(folder, *words, ok=ok, **{"FCDM_INCEPTION": str(folder / "inception.pth"), **more})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 36 images, a tiny VAE, Inception with random weights, and reference statistics of the images."""
    from fcdm.features.inception import Inception

    folder = tmp_path_factory.mktemp("latents")
    make_folder(folder / "images", 36, odd=False)
    save_vae(folder / "vae")
    save_vae(folder / "other" / "vae", seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Inception().state_dict(), folder / "inception.pth")
    run(folder, "-m", "fcdm.prepare", "latents", "images=images", "resolution=32", "vae=vae", "out=store")
    made = run(folder, "-m", "fcdm.prepare", "reference", "images=images", "resolution=32", "out=reference.npz")
    assert "evaluation.reference=reference.npz" in made.stdout
    assert "rank-deficient" in made.stdout + made.stderr
    return folder


def study(*more: str) -> list[str]:
    return [
        "model=N", "data=imagenet", "data.path=store", "data.classes=3", "resolution=32", "batch_size=8",
        "precision=fp32", "steps=[2,4]", "log_every=1", "evaluation.samples=12", "evaluation.sampling_steps=2",
        "evaluation.batch_size=6", "data.vae=vae", "evaluation.reference=reference.npz", "mlflow_uri=off",
        *more,
    ]  # fmt: skip


METRICS = {"fid", "sfid", "inception_score", "inception_score_std", "kid", "kid_se", "precision", "recall"}
METRICS |= {"heldout_loss"}


def test_the_whole_chain(lab: Path) -> None:
    done = run(lab, "-m", "fcdm.train", *study())
    assert "FID" in done.stdout
    whole = only_run(lab / "runs")
    evaluated = [json.loads(path.read_text()) for path in sorted(whole.glob("evaluations/step-*.json"))]
    assert [content["step"] for content in evaluated] == [2, 4]
    for content in evaluated:
        assert content["metrics"].keys() == METRICS
        protocol = content["protocol"]
        assert protocol["decoder"].startswith("vae@")
        assert protocol["reference"].startswith("32px@")
        assert protocol["features"].startswith("inception@")
        assert protocol["guidance_channels"] is None, "nothing is guided at scale 1"
    assert "done" in run(lab, "-m", "fcdm.train", *study()).stdout

    # Cut in two, it is the same trajectory.
    run(lab, "-m", "fcdm.train", *study("runs_dir=parts", "steps=2"))
    run(lab, "-m", "fcdm.train", *study("runs_dir=parts"))
    assert values(only_run(lab / "parts")) == values(whole)

    # Two processes: the same to float tolerance, and each record once.
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fcdm.train"]
    run(lab, *ranks, *study("runs_dir=ranks"))
    both = only_run(lab / "ranks")
    assert both.name == whole.name
    mine, wanted = (load_file(f / "checkpoints/step-00000004/model.safetensors") for f in (both, whole))
    for name, tensor in wanted.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-5)
    there = values(both)
    for key, value in values(whole).items():
        assert there[key] == pytest.approx(value, rel=0.05, abs=1e-3), key

    _sampled_and_evaluated_by_hand(lab, whole, evaluated[-1])

    plotted = run(lab, "-m", "analysis.plots", "--runs", "runs", "--out", "figures")
    assert "FID" in plotted.stdout
    assert list((lab / "figures").glob("*.png"))


def _sampled_and_evaluated_by_hand(lab: Path, whole: Path, evaluated: dict[str, Any]) -> None:
    """`fcdm.sample` and `fcdm.evaluate` under the training's own protocol give the training's own numbers."""
    how = ["samples=12", "sampling_steps=2", "batch_size=6"]
    run(lab, "-m", "fcdm.sample", f"{whole.name}@4", *how, "out=drawn")
    with np.load(lab / "drawn/samples.npz", allow_pickle=False) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert (images.shape, images.dtype) == ((12, 32, 32, 3), np.uint8)
    assert len({image.tobytes() for image in images}) == 12
    assert set(labels.tolist()) <= {0, 1, 2}

    run(lab, "-m", "fcdm.evaluate", "samples=drawn/samples.npz", "reference=reference.npz", "batch_size=6")
    (result,) = (lab / "results").glob("samples-*.json")
    found = json.loads(result.read_text())["metrics"]
    assert found.keys() == METRICS - {"heldout_loss"}
    for key, value in found.items():
        assert value == pytest.approx(evaluated["metrics"][key], rel=1e-4, abs=1e-6), key

    files = {path: path.stat().st_mtime_ns for path in whole.glob("evaluations/*.json")}
    protocol = [*how, "reference=reference.npz", "mlflow_uri=off"]
    shown = run(lab, "-m", "fcdm.evaluate", f"{whole.name}@4", *protocol)
    assert f"{evaluated['protocol_id']}.json" in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in whole.glob("evaluations/*.json")} == files, "evaluated already"
    for path in files:
        path.rename(path.with_suffix(".before"))
    run(lab, "-m", "fcdm.evaluate", f"{whole.name}@4", *protocol)
    (again,) = whole.glob("evaluations/*.json")
    assert json.loads(again.read_text())["metrics"] == evaluated["metrics"]
    for path in files:
        path.with_suffix(".before").rename(path)


def test_a_training_is_evaluated_against_a_folder_of_real_images(lab: Path) -> None:
    """The same numbers as with the file that was made of them; the folder's statistics are made once."""
    words = study("runs_dir=folder", "steps=2", "model.width=8")
    for reference in ("reference.npz", "images"):
        run(lab, "-m", "fcdm.train", *words, f"evaluation.reference={reference}")
    found = [json.loads(path.read_text()) for path in only_run(lab / "folder").glob("evaluations/step-*.json")]
    assert len(found) == 2, "two protocols"
    assert found[0]["metrics"] == found[1]["metrics"]
    assert sorted("images-" in content["protocol"]["reference"] for content in found) == [False, True]
    assert len([path for path in lab.glob("images.32px-*.npz") if ".features-" not in path.name]) == 1


def test_frozen_latents_and_flips_are_another_run(lab: Path) -> None:
    """What the public code trains on: one draw and one toss per image, for good."""
    for name, more in {"a": (), "b": ("data.latents=frozen", "data.flip=frozen")}.items():
        run(lab, "-m", "fcdm.train", *study(f"runs_dir=frozen-{name}", "steps=3", *more))
    a, b = only_run(lab / "frozen-a"), only_run(lab / "frozen-b")
    assert a.name != b.name
    assert values(a)[1, "loss"] == values(b)[1, "loss"], "a new model says 0, whatever it sees"
    assert values(a)[3, "loss"] != values(b)[3, "loss"]


def test_each_channel_normalised_and_sampled_without_the_store(lab: Path) -> None:
    """Another run; what samples need of the store is in the run."""
    run(lab, "-m", "fcdm.train", *study("runs_dir=channel", "steps=2", "model.width=8", "data.normalisation=channel"))
    whole = only_run(lab / "channel")
    assert np.isfinite(values(whole)[2, "loss"])
    shutil.move(lab / "store", lab / "gone")
    try:
        run(lab, "-m", "fcdm.sample", f"channel/{whole.name}", "samples=4", "sampling_steps=2", "out=channel-drawn")
    finally:
        shutil.move(lab / "gone", lab / "store")
    with np.load(lab / "channel-drawn/samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["data.path=nowhere"], "no store"),
        (["data.classes=4"], "data.classes=3"),
        (["resolution=64"], "resolution=32"),
        (["evaluation.reference=null"], "evaluation.reference has no value"),
        (["evaluation.reference=nothing.npz"], "there is no such file"),
        (["evaluation.decoder=novae"], "novae"),
        (["data.vae=ft-mse"], "was made with vae (weights"),
        (["data.vae=other/vae"], "say its VAE"),
        (["data.flip=sideways"], "data.flip"),
    ],
)
def test_what_does_not_fit_is_one_line(lab: Path, more: list[str], said: str) -> None:
    done = run(lab, "-m", "fcdm.train", *study("runs_dir=refused", *more), ok=False)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
