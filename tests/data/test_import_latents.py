"""`python -m fcdm.prepare latents latents=...`: what others encoded becomes a store, value for value."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from fcdm.data.channels import read_channels
from fcdm.data.import_latents import ImportRequest, stated_vae
from fcdm.data.latents import LatentsStore
from fcdm.data.manifest import manifest_checksum, read_manifest
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.prepare import main
from tests.support.commands import Command, composed, environment, ranks_of
from tests.support.latents_of_others import CLASSES, IMAGES, LABELS, latents, write_files, write_zarr
from tests.support.prepared import KILLED, contents
from tests.support.tiny_images import save_vae

STATED = ("vae=ft-ema", "scale=0.18215", "resolution=64", "shard=8")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepare(*words: str) -> int:
    return main(["latents", *words])


def whole(store: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All latents as models see them, and labels."""
    opened = LatentsStore(store)
    return opened.batch(np.arange(len(opened)), latents="frozen")


@pytest.mark.parametrize("form", ["files", "npz", "npy", "zarr 2", "zarr 3", "two arrays of zarr"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_values_come_out_as_they_went_in(form: str, dtype: str) -> None:
    values = latents(dtype)
    words = ["latents=theirs"]
    if form == "files":
        write_files("theirs", values)
        words += ["labels=theirs/imagenet256_labels"] if dtype == "float16" else []
        words[0] += "/imagenet256_features" if dtype == "float16" else ""
    elif form == "npz":
        (np.savez_compressed if dtype == "float16" else np.savez)("theirs.npz", arr_0=values, arr_1=LABELS)
        words = ["latents=theirs.npz"]
    elif form == "npy":
        np.save("theirs.npy", values)
        np.save("labels.npy", LABELS)
        words = ["latents=theirs.npy", "labels=labels.npy"]
    else:
        write_zarr("theirs", values, 2 if "2" in form else 3)
        words = ["latents=theirs/latents", "labels=theirs/labels"] if form.startswith("two") else words
    assert prepare(*words, *STATED, "out=store") == 0
    x, labels = whole("store")
    assert x.numpy().tobytes() == values.astype(np.float32).tobytes(), "to the last bit, the sign of zero too"
    assert labels.tolist() == LABELS.tolist()
    manifest = read_manifest(Path("store"))
    assert (manifest.stored.scale, manifest.scaling_factor, manifest.dtype) == (0.18215, 0.18215, dtype)
    assert (manifest.vae, manifest.vae_id, manifest.vae_sha256) == (*("stabilityai/sd-vae-ft-ema",) * 2, "")
    assert sum(shard.images for shard in manifest.shards) == IMAGES
    assert len(manifest.shards) == 4
    channels = read_channels(Path("store"))
    np.testing.assert_allclose(np.array(channels.deviation), values.astype(float).std((0, 2, 3)) / 0.18215, rtol=1e-6)


def test_what_was_not_scaled_is_scaled_by_the_vae_it_is_of() -> None:
    save_vae(Path("vae"))
    config = json.loads(Path("vae/config.json").read_text())
    Path("vae/config.json").write_text(json.dumps(config | {"scaling_factor": 0.5, "shift_factor": 0.25}))
    values = latents()
    np.savez("raw.npz", arr_0=values, arr_1=LABELS)
    assert prepare("latents=raw.npz", "vae=vae", "scale=1", "resolution=64", "out=raw") == 0
    torch.testing.assert_close(whole("raw")[0], torch.from_numpy((values - 0.25) * 0.5))
    assert prepare("latents=raw.npz", "vae=vae", "scale=0.5", "shift=0.25", "resolution=64", "out=scaled") == 0
    assert torch.equal(whole("scaled")[0], torch.from_numpy(values))
    # In the units of the VAE: what models see of a channel is the same, however it was stored.
    np.testing.assert_allclose(read_channels(Path("scaled")).mean, values.astype(float).mean((0, 2, 3)) / 0.5 + 0.25)
    for name in ("raw", "scaled"):
        seen = LatentsStore(name, normalised=read_channels(Path(name))).batch(np.arange(IMAGES), latents="frozen")[0]
        torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(4))
    assert read_manifest(Path("raw")).vae_sha256, "of a folder the weights are the identity"
    with pytest.raises(UserError, match="say its VAE"):
        make_jobs([composed("model=N", "data.path=raw", f"data.vae={save_vae(Path('other'), seed=1)}")])


def test_moments_and_mirror_images_are_taken_where_they_are_said() -> None:
    """(N, 2 flips, mean and deviation in 2C channels, h, w): then all draws and flips mean something."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((IMAGES, 2, 2, 4, 8, 8)).astype(np.float16)
    np.savez("theirs.npz", arr_0=values.reshape(IMAGES, 2, 8, 8, 8), arr_1=LABELS)
    assert (
        prepare("latents=theirs.npz", *STATED[:1], "scale=1", *STATED[2:], "holds=moments", "flips=2", "out=store") == 0
    )
    store = LatentsStore("store")
    assert np.array_equal(store.read(np.arange(IMAGES), np.full(IMAGES, True)), values[:, 1])
    eps = torch.randn(IMAGES, 4, 8, 8)
    x, _ = store.batch(np.arange(IMAGES), eps=eps)
    torch.testing.assert_close(
        x, (torch.from_numpy(values[:, 0, 0]) + torch.from_numpy(values[:, 0, 1]) * eps) * 0.18215
    )
    config = composed("model=N", "data.path=store")
    assert (config.data.latents, config.data.flip) == ("posterior", "random")


def test_the_store_says_how_it_is_drawn_and_refuses_what_it_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    write_files("theirs", latents())
    assert prepare("latents=theirs", *STATED, "out=store") == 0
    config = composed("model=N", "data.path=store")
    data = config.data
    assert (data.latents, data.flip) == ("frozen", "none")
    assert (data.vae, config.evaluation.decoder) == ("ft-ema", "ft-ema"), "as it was said"
    assert (data.channels, data.classes, data.downsample, config.resolution) == (4, CLASSES, 8, 64)
    make_jobs([composed("model=N", "data.path=store", "data.vae=ft-ema")])
    capsys.readouterr()
    for word, said in (
        ("data.flip=random", "imported without mirror images"),
        ("data.flip=frozen", "imported without mirror images"),
        ("data.latents=posterior", "one draw for each image, and no deviation"),
        ("data.vae=ft-mse", "made with stabilityai/sd-vae-ft-ema, vae=ft-mse"),
    ):
        with pytest.raises(UserError, match=said) as refusal:
            make_jobs([composed("model=N", "data.path=store", word)])
        assert "\n" not in str(refusal.value)


def test_killed_and_shared_imports_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    write_files("theirs", latents())
    assert prepare("latents=theirs", *STATED, "out=one") == 0
    want = contents(tmp_path / "one")
    assert "channels.json" in want
    words = ["latents", "latents=theirs", *STATED]
    killed = [sys.executable, "-c", KILLED, "fsync", "3", *words, "out=two"]
    assert subprocess.run(killed, env=environment(), timeout=120).returncode == -9
    assert len(list(Path("two/work").glob("0*.json"))) == 2
    assert main([*words, "out=two"]) == 0
    assert contents(tmp_path / "two") == want
    ranks = [
        subprocess.Popen([sys.executable, "-m", "fcdm.prepare", *words, "out=three"], env=environment(**rank))
        for rank in ranks_of(2)
    ]
    assert [process.wait(120) for process in ranks] == [0, 0]
    assert contents(tmp_path / "three") == want
    assert manifest_checksum(Path("one")) == manifest_checksum(Path("three"))


def test_the_same_again_and_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    write_files("theirs", latents())
    assert prepare("latents=theirs", *STATED, "out=store") == 0
    assert prepare("latents=theirs", *STATED, "out=store") == 0
    assert f"is whole already: {IMAGES} images" in capsys.readouterr().out
    assert prepare("latents=theirs", "vae=ft-ema", "scale=1", *STATED[2:], "out=store") == 1
    assert "is a whole store with scale 0.18215, not 1.0" in one_line(capsys)
    np.save("theirs/imagenet256_features/1-3.npy", np.zeros((1, 4, 8, 8), np.float32))
    assert prepare("latents=theirs", *STATED, "out=store") == 1
    assert "before its files changed" in one_line(capsys)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_whose_chunks_changed_is_noticed(version: int, capsys: pytest.CaptureFixture[str]) -> None:
    write_zarr("theirs", latents(), version)
    assert prepare("latents=theirs", *STATED, "out=store") == 0
    zarr.open_group("theirs", mode="r+")["latents"][20:] = 0.5  # type: ignore[index]
    assert prepare("latents=theirs", *STATED, "out=store") == 1
    assert "before its files changed" in one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr().err
    assert len(found.strip().splitlines()) == 1, found
    return found


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (np.full((1, 4, 8, 8), np.nan, np.float32), "it holds NaN or infinite numbers"),
        (np.zeros((1, 4, 8, 16), np.float32), "it is float32 (1, 4, 8, 16), and the first is float32 (4, 8, 8)"),
        (np.zeros((1, 4, 8, 8), np.float16), "it is float16 (1, 4, 8, 8), and the first is float32"),
        (np.zeros((2, 4, 8, 8), np.float32), "it is float32 (2, 4, 8, 8)"),
        (b"\x93NUMPY", "imagenet256_features/0-9.npy: "),
        (np.array([object()]), "imagenet256_features/0-9.npy: Object arrays"),
    ],
    ids=["NaN", "another size", "another type", "two", "cut short", "pickled"],
)
def test_a_latent_that_cannot_be_is_named(
    broken: NDArray[np.generic] | bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files("theirs", latents())
    path = Path("theirs/imagenet256_features/0-9.npy")
    path.write_bytes(broken) if isinstance(broken, bytes) else np.save(path, broken)
    assert prepare("latents=theirs", *STATED, "out=store") == 1
    told = capsys.readouterr().err
    assert said in told
    assert "1 of 30 images cannot be taken" in told.splitlines()[-1]
    assert prepare("latents=theirs", *STATED, "out=store", "unreadable=skip") == 0
    assert read_manifest(Path("store")).images == IMAGES - 1


def _without_label() -> None:
    Path("theirs/imagenet256_labels/1-4.npy").unlink()


def _more_labels() -> None:
    np.save("theirs/imagenet256_labels/9-9.npy", np.array([1]))


def _label(value: object) -> None:
    np.save("theirs/imagenet256_labels/0-2.npy", np.array(value))


@pytest.mark.parametrize(
    ("how", "words", "said"),
    [
        (_without_label, [], "imagenet256_labels lacks 1 of the 30 of theirs/imagenet256_features: 1-4.npy"),
        (_more_labels, [], "has 1 that are of no latent in theirs/imagenet256_features: 9-9.npy"),
        (lambda: _label([-1]), [], "0-2.npy has the label -1: class numbers count from 0"),
        (lambda: _label([1, 2]), [], "0-2.npy holds 2 numbers"),
        (lambda: _label([0.5]), [], "float64, and class numbers are integers"),
        (None, ["classes=3"], "classes=3, but 0-3.npy has the label 3"),
        (None, ["labels=none", "classes=3"], "there is one class"),
        (None, ["latents=theirs/imagenet256_features"], "does not say where the labels are"),
        (None, ["latents=theirs/nowhere"], "there is no such file or folder"),
        (None, ["latents=vae", "labels=none"], "has no .npy files"),
        (None, ["vae=vae"], "4 channels and 8 pixels a side, and vae=vae has 16 and 8"),
        (None, ["resolution=100"], "resolution=100 is not a multiple of 8"),
        (None, ["scale=0"], "scale=0.0 cannot be"),
        (None, ["holds=moments", "vae=nobody/knows"], None),
        (None, ["flips=2"], "(2, C, side, side), of the image and its mirror image is wanted"),
        (None, ["vae=nobody/knows", "scale=1"], "is not on this machine: say the folder of the VAE"),
        (None, ["vae=nowhere"], "no such folder, nor a hub id"),
        (None, ["images=theirs"], "one of the two"),
        (None, ["split=train"], "split= has no effect with latents="),
        (None, ["device=cpu"], "device= has no effect with latents="),
        (None, ["batch=7"], "batch= has no effect with latents="),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    how: object, words: list[str], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    save_vae(Path("vae"), channels=16)
    write_files("theirs", latents())
    if callable(how):
        how()
    assert prepare("latents=theirs", *STATED, "out=store", *words) == (said is not None)
    if said is not None:
        assert said in one_line(capsys)
        assert not Path("store/manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latents=theirs.npz", "vae=ft-ema"], "scale= is wanted"),
        (["latents=theirs.npz", "scale=1"], "vae= is wanted"),
        (["images=theirs.npz", "scale=0"], "scale= has no effect with images="),
        (["images=theirs.npz", "scale=1"], "scale= has no effect with images="),
        ([], "images=PLACE or latents=PLACE is wanted"),
        (["latents=unlabelled.npz", *STATED], "no `arr_1` beside `arr_0`"),
        (["latents=few.npz", *STATED], "shape (29,), and there are 30 latents"),
        (["latents=doubles.npz", *STATED], "float16 or float32 is kept as it is"),
        (["latents=columns.npy", "labels=none", *STATED], "stored by columns"),
        (["latents=last.npz", *STATED], "(C, side, side) is wanted"),
        (["latents=flat.npz", *STATED], "(images, channels, height, width) is wanted"),
        (["latents=one.npy", "labels=none", *STATED], "one.npy: what it holds is one number (float32)"),
    ],
)
def test_arrays_that_do_not_fit(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = latents()
    np.savez("theirs.npz", arr_0=values, arr_1=LABELS)
    np.savez("unlabelled.npz", arr_0=values)
    np.savez("few.npz", arr_0=values, arr_1=LABELS[1:])
    np.savez("doubles.npz", arr_0=values.astype(np.float64), arr_1=LABELS)
    np.save("columns.npy", np.asfortranarray(values))
    np.savez("last.npz", arr_0=values.transpose(0, 2, 3, 1), arr_1=LABELS)
    np.savez("flat.npz", arr_0=values.reshape(IMAGES, -1), arr_1=LABELS)
    np.save("one.npy", values[0, 0, 0, 0])
    assert prepare(*words, "out=store") == 1
    assert said in one_line(capsys)


def test_an_implausible_scale_is_said_and_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    values = latents() / 0.18215
    np.savez("raw.npz", arr_0=values.astype(np.float32), arr_1=LABELS)
    assert prepare("latents=raw.npz", *STATED, "out=store") == 0
    assert "deviation of 5.5 as models see them, where 1 is usual: scale=1 would give 1" in capsys.readouterr().out
    assert prepare("latents=raw.npz", "vae=ft-ema", "scale=1", *STATED[2:], "out=right") == 0
    assert "usual" not in capsys.readouterr().out


def test_zarr_without_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_zarr("theirs", latents(), 3)
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert prepare("latents=theirs", *STATED, "out=store") == 1
    assert "pip install 'fcdm[zarr]'" in one_line(capsys)


def test_zarr_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    write_zarr("theirs", latents(), 2)
    assert prepare("latents=theirs/latents", *STATED, "out=store") == 1
    assert "has no array `labels`" in one_line(capsys)
    assert prepare("latents=theirs", "labels=theirs", *STATED, "out=store") == 1
    assert "labels=theirs is a group of zarr" in one_line(capsys)
    shutil.rmtree("theirs/latents")
    assert prepare("latents=theirs", *STATED, "out=store") == 1
    assert "has no array `latents`, but labels" in one_line(capsys)


def test_labels_by_name_and_numbers_in_their_order() -> None:
    """`10.npy` comes after `9.npy`, and a table gives each its label."""
    write_files("theirs", latents(), [str(number) for number in range(IMAGES)])
    rows = "".join(f"{number}.npy,{LABELS[number]}\n" for number in reversed(range(IMAGES)))
    Path("labels.csv").write_text(f"path,label\n{rows}")
    assert prepare("latents=theirs/imagenet256_features", "labels=labels.csv", *STATED, "out=store") == 0
    x, labels = whole("store")
    assert torch.equal(x, torch.from_numpy(latents()))
    assert labels.tolist() == LABELS.tolist()
    assert prepare("latents=theirs/imagenet256_features", "labels=none", *STATED, "out=plain") == 0
    assert read_manifest(Path("plain")).classes == ("unlabelled",)


def test_a_hub_id_whose_weights_come_later_stays_the_same_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on this machine does not change what is kept."""
    request = ImportRequest(scale=0.18215)
    away = stated_vae("ft-ema", request)
    vae = save_vae(Path("vae"))
    cached = Path("hub/models--stabilityai--sd-vae-ft-ema")
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    (cached / "snapshots").mkdir()
    (cached / "snapshots/abc").symlink_to(vae.absolute())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(Path("hub").absolute()))
    here = stated_vae("ft-ema", request)
    assert here.identity is not None
    assert away.identity is None
    assert here.manifest() == away.manifest()
    np.savez("theirs.npz", arr_0=latents(), arr_1=LABELS)
    assert prepare("latents=theirs.npz", *STATED, "out=store") == 0
    make_jobs([composed("model=N", "data.path=store", "data.vae=vae")])  # of the same weights


def test_the_command_line(fcdm: Command, tmp_path: Path) -> None:
    write_files("theirs", latents())
    words = "latents", "--latents", "theirs", "--vae", "ft-ema", "--scale", "0.18215", "--resolution", "64"
    done = fcdm(*words, "--out", "store", module="fcdm.prepare")
    assert done.returncode == 0, done.stderr
    assert "VAE stabilityai/sd-vae-ft-ema: latents 4 x 8 x 8, scaled by 0.18215" in done.stdout
    assert f"store is whole: {IMAGES} images" in done.stdout
    assert done.stderr == ""
