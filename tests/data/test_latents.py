"""The latents store: what it gives, in which flip, drawn how; and what a damaged or a wrong one says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fcdm.data.latents import LatentsStore
from fcdm.data.manifest import check_manifest, manifest_checksum, read_manifest
from fcdm.errors import UserError
from fcdm.hashing import has_sha256
from fcdm.prepare import main
from fcdm.randomness import Purpose, normal, uniform
from tests.support.tiny_images import make_folder, save_vae

SCALE, SHIFT = 0.25, 0.5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images at 32 pixels in shards of 8: latents of 4 x 4 x 4."""
    root = tmp_path_factory.mktemp("latents")
    images, vae = make_folder(root / "images", odd=False), save_vae(root / "vae", scaling_factor=SCALE)
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(config | {"shift_factor": SHIFT}))
    words = [f"images={images}", f"vae={vae}", f"out={root / 'store'}", "resolution=32", "shard=8", "device=cpu"]
    assert main(["latents", *words]) == 0
    return root / "store"


@pytest.fixture
def store(made: Path) -> LatentsStore:
    return LatentsStore(made, resolution=32, channels=4, downsample=8, classes=3, vae=str(made.parent / "vae"))


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store"


def everything(store: LatentsStore) -> torch.Tensor:
    """(40, 2 flips, 2, 4, 4, 4) float32, read by numpy alone."""
    files = sorted((store.folder / "shards").glob("*.npy"))
    assert len(files) == 5
    return torch.from_numpy(np.concatenate([np.load(file) for file in files])).float()


def test_random_access_is_what_numpy_reads(store: LatentsStore) -> None:
    whole = everything(store).numpy()
    indices = np.array([39, 0, 7, 8, 8, 23, 16, 39])
    mirrored = np.array([True, False, True, False, True, True, False, False])
    assert np.array_equal(store.read(indices, mirrored), whole[indices, mirrored.astype(int)])
    assert np.array_equal(store.read(indices), whole[indices, 0])
    assert store.read(np.empty(0, np.int64)).shape == (0, 2, 4, 4, 4)
    for outside in ([40], [-1], [0, 100]):
        with pytest.raises(IndexError, match="40 images"):
            store.read(np.array(outside))


def test_rows_begin_at_a_page(made: Path) -> None:
    """And numpy reads the padded header as any other."""
    data = (made / "shards/00000.npy").read_bytes()
    assert np.load(made / "shards/00000.npy").tobytes() == data[4096:]


def test_posterior_draws_are_the_callers(store: LatentsStore) -> None:
    indices, eps = np.array([3, 30, 3]), torch.randn(3, 4, 4, 4)
    mirrored = torch.tensor([False, True, True])
    found, labels = store.batch(indices, flip="random", eps=eps, mirrored=mirrored)
    part = everything(store)[torch.from_numpy(indices), mirrored.long()]
    want = (part[:, 0].double() + part[:, 1].double() * eps.double() - SHIFT) * SCALE
    torch.testing.assert_close(found.double(), want, rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float32
    assert labels.tolist() == store.labels[indices].tolist()
    assert not torch.equal(found[0], found[2])


def test_frozen_is_one_draw_and_one_flip_per_image(store: LatentsStore) -> None:
    indices = np.arange(40)
    found, _ = store.batch(indices, latents="frozen", flip="frozen")
    places = torch.arange(40)
    flips = uniform(0, Purpose.FLIP, 0, places, ()) < 0.5
    assert 10 < flips.sum() < 30
    part = everything(store)[places, flips.long()]
    eps = normal(0, Purpose.POSTERIOR, 0, places, (4, 4, 4))
    torch.testing.assert_close(found, (part[:, 0] + part[:, 1] * eps - SHIFT) * SCALE)
    some, _ = store.batch(np.array([5, 31]), latents="frozen", flip="frozen")
    assert torch.equal(some, found[[5, 31]])
    unflipped, _ = store.batch(indices, latents="frozen")
    assert torch.equal(unflipped[~flips], found[~flips])
    assert not torch.equal(unflipped[flips], found[flips])


def test_numbers_go_with_the_modes_that_use_them(store: LatentsStore) -> None:
    eps, toss = torch.randn(1, 4, 4, 4), torch.tensor([True])
    for wrong in (
        {"latents": "posterior"},
        {"latents": "frozen", "eps": eps},
        {"flip": "random", "eps": eps},
        {"flip": "none", "eps": eps, "mirrored": toss},
        {"latents": "mean"},
        {"flip": "always", "eps": eps},
    ):
        with pytest.raises(ValueError, match=r"eps|latents=|mirrored|flip="):
            store.batch(np.array([0]), **wrong)


def test_the_heldout_images_are_no_training_images(store: LatentsStore) -> None:
    assert len(store.heldout_indices) == 3
    assert sorted(store.labels[store.heldout_indices]) == [0, 1, 2]
    assert sorted([*store.heldout_indices, *store.train_indices]) == list(range(40))
    assert len(store) == 40


def damaged(folder: Path) -> list[str]:
    """Files whose sha256 is not the manifest's."""
    manifest = read_manifest(folder)
    wanted = {shard.file: shard.sha256 for shard in manifest.shards} | manifest.files
    return [name for name, checksum in wanted.items() if not has_sha256(folder / name, checksum)]


def test_the_identity_is_the_manifest_and_depends_on_no_path(made: Path, copy: Path, store: LatentsStore) -> None:
    assert manifest_checksum(copy) == manifest_checksum(made) == store.checksum
    assert damaged(copy) == []
    text = (made / "manifest.json").read_text()
    assert str(made.parent) not in text
    (copy / "made.json").unlink()
    assert LatentsStore(copy, resolution=32).manifest.vae == ""


def test_a_store_of_another_kind_than_asked_is_refused_with_both_values(made: Path, tmp_path: Path) -> None:
    manifest = read_manifest(made)
    other = save_vae(tmp_path / "other", seed=3)
    for asked, says in (
        ({"resolution": 256}, "has resolution=32, resolution=256 is asked for"),
        ({"channels": 16}, "data.channels=4, data.channels=16"),
        ({"downsample": 16}, "data.downsample=8, data.downsample=16"),
        ({"classes": 1000}, "data.classes=3, data.classes=1000"),
        ({"vae": "ft-ema"}, f"made with vae (weights {manifest.vae_sha256[:8]}), vae=ft-ema"),
        ({"vae": str(other)}, f"vae={other} (weights"),
    ):
        with pytest.raises(UserError) as caught:
            check_manifest(made, manifest, **asked)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError):
            LatentsStore(made, **asked)
    check_manifest(made, manifest, vae=manifest.vae_sha256)
    with pytest.raises(UserError, match="say the folder of its VAE"):  # a folder's name says nothing of its weights
        check_manifest(made, manifest, vae="vae")


def test_a_damaged_store_says_which_file(copy: Path, tmp_path: Path) -> None:
    shard = copy / "shards/00002.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert damaged(copy) == ["shards/00002.npy"]
    for damage in (whole[:-1], whole[:50], b"", whole.replace(b"(8, 2,", b"(9, 2,")):
        shard.write_bytes(damage)
        with pytest.raises(UserError, match=r"00002\.npy.*copy it again"):
            LatentsStore(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"00002\.npy cannot be read"):
        LatentsStore(copy)
    shard.write_bytes(whole)
    np.save(copy / "labels.npy", np.zeros(39, np.int32))
    with pytest.raises(UserError, match=r"labels\.npy has shape \(39,\)"):
        LatentsStore(copy)
    (copy / "labels.npy").write_bytes(b"no")
    with pytest.raises(UserError, match=r"labels\.npy cannot be read"):
        LatentsStore(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, says in (
        ({"format": 2}, "has format 2, this fcdm reads 1"),
        ({"images": 41}, "do not sum to 41"),
        ({"shards": [{}]}, "is damaged"),
    ):
        (copy / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(UserError, match=says):
            LatentsStore(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        LatentsStore(copy)
    with pytest.raises(UserError, match=r"no store at .*nowhere: manifest\.json: No such file"):
        manifest_checksum(tmp_path / "nowhere")
