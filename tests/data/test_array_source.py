"""`python -m fcdm.prepare latents images=FILE.npz`: arrays are read like the folder of the same images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcdm.data.array_source import BLOCK
from fcdm.data.image_sources import open_source
from fcdm.data.labelled_images import SourceOptions
from fcdm.errors import UserError
from fcdm.prepare import main
from tests.support.tiny_images import encoded, picture, save_vae

PIXELS = np.stack([picture(number, 40, 36) for number in range(12)])
LABELS = np.arange(12) % 3
SMALL = ("resolution=32", "shard=5", "batch=4", "device=cpu", "workers=2")


def test_an_npz_makes_the_store_of_its_images(tmp_path: Path) -> None:
    order = np.argsort(LABELS, kind="stable")
    for number in order.tolist():
        path = tmp_path / "folder" / str(LABELS[number]) / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(PIXELS[number]), "PNG"))
    np.savez_compressed(tmp_path / "a.npz", PIXELS[order], LABELS[order])
    save_vae(tmp_path / "vae")
    for name in ("folder", "a.npz"):
        words = [f"images={tmp_path / name}", f"vae={tmp_path / 'vae'}", f"out={tmp_path / name}-store", *SMALL]
        assert main(["latents", *words]) == 0
    stores = [tmp_path / "folder-store", tmp_path / "a.npz-store"]
    shards = [[path.read_bytes() for path in sorted(store.glob("shards/*.npy"))] for store in stores]
    assert shards[0] == shards[1]
    manifests = [json.loads((store / "manifest.json").read_text()) for store in stores]
    assert manifests[0]["classes"] == manifests[1]["classes"] == ["0", "1", "2"]
    assert manifests[0]["class_counts"] == manifests[1]["class_counts"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_come_in_nearly_any_order(tmp_path: Path, save: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5 * BLOCK + 3, 4, 4), dtype=np.uint8)
    save(tmp_path / "a.npz", pixels)
    source = open_source(tmp_path / "a.npz")
    assert (source.kind, len(source), source.classes) == ("npz", len(pixels), ["unlabelled"])
    for number in (0, BLOCK + 1, BLOCK - 1, 3 * BLOCK, 2 * BLOCK, len(pixels) - 1, 0):
        assert np.array_equal(source.read(number), pixels[number][..., None])


def test_labels_and_words_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def refused(told: str, **how: Any) -> None:
        with pytest.raises(UserError, match=told) as error:
            open_source(path, SourceOptions(**how))
        assert "\n" not in str(error.value)

    np.savez(path, PIXELS, LABELS / 2)
    refused("class numbers from 0, one per image, are wanted; labels=none takes the images without")
    assert open_source(path, SourceOptions(labels="none")).classes == ["unlabelled"]
    np.savez(path, PIXELS, LABELS[:5])
    refused("12 images in `arr_0`, but 5 labels in `arr_1`")
    np.savez(path, PIXELS, LABELS)
    assert open_source(path).labels.tolist() == LABELS.tolist()
    refused("labels=folders is for image files; an .npz has its labels in `arr_1`", labels="folders")
    refused("split is for parquet and arrow files", split="train")
    refused("which is 0..255 always", value_range="0..1")
    np.save(tmp_path / "a.npy", PIXELS / 255)
    path = tmp_path / "a.npy"
    refused("say range=0..1 or range=-1..1")
    assert (
        open_source(path, SourceOptions(value_range="0..1")).checksum()
        != open_source(path, SourceOptions(value_range="-1..1")).checksum()
    )
    path = tmp_path
    refused("range is for .npz and .npy files", value_range="0..1")
