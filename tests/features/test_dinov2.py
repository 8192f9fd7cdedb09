"""DINOv2's features: the library's on weights that anyone can draw, resized by two published rules, never unpickled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fcdm.errors import UserError
from fcdm.features import extractor_id, open_extractor
from fcdm.features.dinov2 import positions_at, resize_by_pil, resize_in_floats
from fcdm.features.dinov2_files import find_dinov2
from fcdm.hashing import file_sha256
from tests.support.commands import environment
from tests.support.random_inception import random_images
from tests.support.tiny_dinov2 import save_dinov2

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dinov2(tmp_path_factory.mktemp("hub") / "tiny")


def by_the_library(folder: Path, resized: torch.Tensor) -> torch.Tensor:
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(folder, local_files_only=True).eval()
    normalised = (resized / 255 - MEAN.view(3, 1, 1)) / DEVIATION.view(3, 1, 1)
    with torch.no_grad():
        return model(normalised).pooler_output


@pytest.mark.parametrize("name", ["dinov2", "dinov2-pil"])
def test_it_is_the_librarys_class_token(tmp_path: Path, name: str) -> None:
    """Where no position is interpolated, which is where the two codes differ."""
    folder = save_dinov2(tmp_path / "at-224", image_size=224)
    images = random_images(3, 3, 20, 20)
    if name == "dinov2":
        resized = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True)
    else:
        pictures = [Image.fromarray(image).resize((224, 224), 3) for image in images.permute(0, 2, 3, 1).numpy()]
        resized = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float()
    extractor = open_extractor(name, weights=folder)
    found = extractor(images)
    assert (found.shape, found.dtype, extractor.dim) == ((3, 32), torch.float32, 32)
    torch.testing.assert_close(found, by_the_library(folder, resized), rtol=1e-4, atol=1e-5)


def test_the_two_resizes_differ_and_only_one_rounds() -> None:
    images = random_images(2, 3, 40, 40)
    floats, pil = resize_in_floats(images), resize_by_pil(images)
    assert (floats - floats.round()).abs().max() > 0.3
    assert floats.max() > 255, "an overshoot is kept"
    torch.testing.assert_close(pil, pil.round().clamp(0, 255))
    # Both are the same filter: what is left, where nothing is clipped, is PIL's rounding of two passes.
    calm = images // 3 + 80
    assert (resize_by_pil(calm) - resize_in_floats(calm)).abs().max() <= 1.6
    large = random_images(1, 1, 300, 300) // 3 + 80
    assert (resize_by_pil(large) - resize_in_floats(large)).abs().max() <= 1.6
    assert resize_by_pil(images[:0]).shape == (0, 3, 224, 224)


def test_positions_are_interpolated_as_dinov2s_own_code_does() -> None:
    """A grid that is linear in its place stays so inside, nearly: at (i + 1/2) n / (side + 0.1) - 1/2.

    transformers' rule, without the 0.1, is off by 0.2 at the far end.
    """
    old, side = 37, 16
    places = torch.arange(old, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(places, places, indexing="ij"), -1).reshape(1, -1, 2)
    found = positions_at(torch.cat([torch.tensor([[[7.0, 8.0]]]), grid], 1), side)
    assert found.shape == (1, 1 + side * side, 2)
    assert found[0, 0].tolist() == [7, 8]
    expected = (torch.arange(side) + 0.5) * old / (side + 0.1) - 0.5
    inner = found[0, 1:].reshape(side, side, 2)[1:-1, 1:-1]
    torch.testing.assert_close(inner[..., 0], expected[1:-1, None].expand(-1, side - 2), rtol=0, atol=0.06)
    torch.testing.assert_close(inner[..., 1], expected[None, 1:-1].expand(side - 2, -1), rtol=0, atol=0.06)
    same = torch.randn(1, 257, 3)
    assert positions_at(same, 16) is same


def test_neither_batches_nor_grey_nor_autocast_matter(folder: Path) -> None:
    extractor = open_extractor("dinov2", weights=folder)
    images = random_images(35, 1, 8, 8)
    found = extractor(images)
    torch.testing.assert_close(found[33:], extractor(images[33:]), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(extractor(images[:2].expand(-1, 3, -1, -1)), found[:2], rtol=1e-4, atol=1e-5)


def test_its_id_names_the_resize_and_the_weights_without_torch(folder: Path) -> None:
    digits = file_sha256(folder / "model.safetensors")[:8]
    assert extractor_id("dinov2", folder) == f"dinov2-32-224-bicubic@{digits}"
    assert extractor_id("dinov2-pil", folder) == open_extractor("dinov2-pil", weights=folder).id
    assert extractor_id("dinov2-pil", folder) == f"dinov2-32-224-pil@{digits}"
    code = f"from fcdm.features import extractor_id; extractor_id('dinov2', {str(folder)!r}); import sys; "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def in_the_cache(folder: Path, cache: Path, repository: str = "facebook/dinov2-large") -> Path:
    """The model as the hub's client keeps it: large files under their sha256, and links to them. Returns the blob."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / "abc", root / "blobs"
    for made in (snapshot, blobs, root / "refs"):
        made.mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    shutil.copy(folder / "config.json", snapshot)
    blob = blobs / file_sha256(folder / "model.safetensors")
    shutil.copy(folder / "model.safetensors", blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    return blob


def test_a_hub_id_is_found_in_the_cache_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = in_the_cache(folder, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("fcdm.codecs.hub_files._hub_in_reach", lambda: pytest.fail("no network is needed"))
    assert extractor_id("dinov2") == extractor_id("dinov2", folder)  # the default is the large one
    assert open_extractor("dinov2").id == extractor_id("dinov2", folder)
    with blob.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert extractor_id("dinov2") == extractor_id("dinov2", folder), "ids believe the cache, which is not read"
    with pytest.raises(UserError, match="the file is damaged"):
        open_extractor("dinov2")


def test_what_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        extractor_id("dinov2")
    assert str(error.value) == (
        "evaluation.dinov2=facebook/dinov2-large is not on this machine and the hub cannot be reached: on a machine "
        "with network `hf download facebook/dinov2-large`, then say evaluation.dinov2= with the folder it prints"
    )


def changed(folder: Path, to: Path, **values: Any) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | values))
    return to


def test_other_folders_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json in it"):
        find_dinov2(tmp_path / "empty")
    pickled = changed(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors in it"):
        find_dinov2(pickled)
    with pytest.raises(UserError, match="describes vit, and no dinov2"):
        find_dinov2(changed(folder, tmp_path / "vit", model_type="vit"))
    with pytest.raises(UserError, match="patches of 15 pixels do not tile 224"):
        find_dinov2(changed(folder, tmp_path / "patch", patch_size=15))
    with pytest.raises(UserError, match="no such folder, nor a hub id like facebook/dinov2-large"):
        find_dinov2("./nowhere")
    for name, values in (("deeper", {"num_hidden_layers": 3}), ("wider", {"hidden_size": 64})):
        with pytest.raises(UserError, match=r"model\.safetensors: ") as error:
            open_extractor("dinov2", weights=changed(folder, tmp_path / name, **values))
        assert "\n" not in str(error.value)
    torn = changed(folder, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        open_extractor("dinov2", weights=torn)


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers .*: pip install 'fcdm\[dinov2\]'"):
        open_extractor("dinov2", weights=folder)


def test_other_shapes_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"DINOv2 reads images .* got \(2, 4, 8, 8\)"):
        open_extractor("dinov2", weights=folder)(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))


def test_a_missing_library_is_said_where_the_id_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At submission, and not after a training."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers \(it is not installed\): pip install 'fcdm\[dinov2\]'"):
        extractor_id("dinov2", folder)
