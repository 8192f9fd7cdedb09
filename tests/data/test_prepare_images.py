"""`python -m fcdm.prepare images`: images of any kind become a store of pixels, however often it is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcdm.data.dataset import data_checksum
from fcdm.data.labelled_images import ImageSource
from fcdm.data.manifest import manifest_checksum
from fcdm.data.pixel_store import PixelStore
from fcdm.data.shards import StorePlan
from fcdm.data.store_contents import Pixels
from fcdm.errors import UserError
from fcdm.features.enough_images import ADVISED, why_no_classifier
from fcdm.images.crop import centre_crop
from fcdm.prepare import main
from tests.support.commands import Command, composed, environment, told_by_ranks
from tests.support.full_disk import SmallDisk
from tests.support.nobody import as_nobody
from tests.support.pixel_data import CLASSES, idx_folder, image_folder, of_classes, parquet_folder, pictures
from tests.support.prepared import KILLED, contents, one_line
from tests.support.shape_store import tiny_pixels
from tests.support.tiny_images import bad_images, encoded, make_folder, picture


def prepare(images: Path, out: Path, *more: str, resolution: int = 8) -> int:
    return main(["images", f"images={images}", f"out={out}", f"resolution={resolution}", "workers=2", *more])


def written(store: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((store / "manifest.json").read_text())
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 coloured pictures of 12 x 10 pixels in three classes."""
    root = tmp_path_factory.mktemp("images")
    for number in range(40):
        path = root / CLASSES[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(picture(number, 12, 10)), "PNG"))
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    out = tmp_path_factory.mktemp("whole") / "store"
    assert prepare(images, out, "shard=8") == 0
    return out


def test_the_command_line(fcdm: Command, images: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "my.photos")
    done = fcdm("images", "--images", "my.photos", "--resolution", "8", "--shard", "8", module="fcdm.prepare")
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 images of 3 classes in my.photos, at 8 pixels" in done.stdout
    assert "held out: 0.2 of each class; set aside for networks that evaluate: 0.25 of each class" in done.stdout
    assert "data/my.photos-8: 7.68 kB in 5 shards (RGB, 8 bits: 0.192 kB an image)" in done.stdout
    assert contents(tmp_path / "data/my.photos-8") == contents(whole), "wherever it lies"
    assert manifest_checksum(tmp_path / "data/my.photos-8") == manifest_checksum(whole)
    assert not (tmp_path / "data/my.photos-8/work").exists()


def test_what_is_in_the_store_is_adms_crop_and_a_split_in_three(images: Path, whole: Path) -> None:
    store = PixelStore(whole)
    names = (whole / "names.txt").read_text().splitlines()
    want = [centre_crop(Image.open(images / name), 8).transpose(2, 0, 1) for name in names]
    assert np.array_equal(store.read(np.arange(40)), np.stack(want))
    order = np.array([39, 3, 3, 0, 17])
    assert np.array_equal(store.read(order), np.stack(want)[order])
    assert [CLASSES[label] for label in store.labels] == [name.split("/")[0] for name in names]
    parts = (store.train_indices, store.heldout_indices, store.aside_indices)
    assert sorted(np.concatenate(parts).tolist()) == list(range(40)), "each image is in one part"
    assert [len(part) for part in parts] == [24, 9, 7]
    assert store.manifest.aside == 7
    for part in parts:
        assert set(store.labels[part]) == {0, 1, 2}
    for wrong in ([40], [-1]):
        with pytest.raises(IndexError):
            store.read(np.array(wrong))


def test_golden_manifest(tmp_path: Path) -> None:
    """A key more in it would be another checksum for every store that is made again, and another run."""
    rows = (np.arange(20 * 16) % 256).astype(np.uint8).reshape(20, 4, 4)
    np.savez(tmp_path / "all.npz", arr_0=rows, arr_1=np.arange(20) % 2)
    assert prepare(tmp_path / "all.npz", tmp_path / "store", resolution=4) == 0
    manifest = written(tmp_path / "store")
    assert sorted(manifest) == [
        "aside", "channels", "class_counts", "classes", "files", "format", "heldout", "images", "kind", "pad",
        "resolution", "shard_images", "shards", "side", "source",
    ]  # fmt: skip
    assert manifest_checksum(tmp_path / "store") == "80f8a2db82dae34f3e0d1f79f7b9848782d726cde9c90e3ffafd507c6e4264e1"


def test_images_that_fit_are_the_same_whatever_was_asked_for_others(images: Path, whole: Path, tmp_path: Path) -> None:
    assert prepare(images, tmp_path / "a", "shard=8", "smaller=upscale", "channels=3", "workers=1") == 0
    assert manifest_checksum(tmp_path / "a") == manifest_checksum(whole)


def test_padding_is_part_of_the_id_and_averages_blocks(tmp_path: Path) -> None:
    idx_folder(tmp_path / "idx", 30, 6, side=6)
    assert prepare(tmp_path / "idx", tmp_path / "padded", "pad=8", resolution=4) == 0
    assert written(tmp_path / "padded")["pad"] == 8
    store = PixelStore(tmp_path / "padded")
    assert store.row_shape == (1, 4, 4)
    whole = np.zeros((8, 8))
    whole[1:7, 1:7] = of_classes(pictures(1, 6, grey=True))[0]
    blocks = whole.reshape(4, 2, 4, 2).mean((1, 3))
    assert np.abs(store.read(np.array([0]))[0, 0] - blocks).max() <= 0.5 + 1e-9
    assert len(store.heldout_indices) == 6
    assert store.heldout_indices.tolist() == list(range(30, 36)), "the source's own test split"
    assert prepare(tmp_path / "idx", tmp_path / "cropped", resolution=4) == 0
    assert manifest_checksum(tmp_path / "cropped") != manifest_checksum(tmp_path / "padded")


def test_grey_stays_grey_and_colour_is_met_late(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 200 images one that is not looked at first has colour."""
    for number in range(200):
        image = Image.fromarray(picture(number, 8, 8)).convert("L").convert("RGB" if number % 2 else "L")
        if number == 1:
            image = Image.fromarray(picture(number, 8, 8))
        (tmp_path / "grey").mkdir(exist_ok=True)
        (tmp_path / f"grey/{number:03d}.png").write_bytes(encoded(image, "PNG"))
    out = tmp_path / "store"
    assert prepare(tmp_path / "grey", out) == 1
    assert "it has colour, and the images looked at first are grey: say channels=3, or channels=1" in (
        capsys.readouterr().err
    )
    assert prepare(tmp_path / "grey", out, "channels=1") == 0, "the same folder goes on"
    assert PixelStore(out).row_shape == (1, 8, 8)
    assert prepare(tmp_path / "grey", tmp_path / "rgb", "channels=3") == 0
    grey, rgb = PixelStore(out).read(np.arange(200)), PixelStore(tmp_path / "rgb").read(np.arange(200))
    assert np.array_equal(rgb[[0, 2, 3]], grey[[0, 2, 3]].repeat(3, axis=1))


def test_a_folder_of_odd_formats_sizes_and_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real folders have everything in them; what is too small is named, and scaled up where that is asked for."""
    images = make_folder(tmp_path / "images", 40)
    out = tmp_path / "store"
    assert prepare(images, out, "shard=8", resolution=32) == 1
    said = one_line(capsys)
    assert "tiny.png has 3 x 2 pixels, and resolution=32 is asked for: say smaller=upscale" in said
    assert "pad=32" in said
    assert not out.exists()
    assert prepare(images, out, "shard=8", "smaller=upscale", resolution=32) == 0
    assert len(PixelStore(out)) == 40
    assert prepare(images, tmp_path / "skipped", "shard=8", "unreadable=skip", resolution=32) == 1, "the first look"


def test_images_too_small_that_are_met_late_are_all_named_and_the_next_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(tmp_path / "images", 200, 8, classes=())
    for number in (1, 61):
        (tmp_path / f"images/{number:05d}.png").write_bytes(encoded(Image.fromarray(picture(number, 5, 9)), "PNG"))
    out = tmp_path / "store"
    assert prepare(tmp_path / "images", out, "shard=20") == 1
    said = capsys.readouterr().err.splitlines()
    assert "2 of 200 images cannot be taken" in said[-1]
    assert sum("5 x 9 pixels, and 8 x 8 are wanted: say smaller=upscale" in line for line in said) == 3, (
        "first, and all"
    )
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert len(kept) == 8
    assert prepare(tmp_path / "images", out, "shard=20", "smaller=upscale") == 0
    assert all((out / "shards" / name).stat().st_mtime_ns == time for name, time in kept.items())
    assert len(PixelStore(out)) == 200


def test_what_was_scaled_up_is_not_kept_by_a_command_that_refuses_it(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 200, 8, classes=())
    (tmp_path / "images/00001.png").write_bytes(encoded(Image.fromarray(picture(1, 5, 9)), "PNG"))
    (tmp_path / "images/00100.png").write_bytes(b"damaged")
    out = tmp_path / "store"
    assert prepare(tmp_path / "images", out, "shard=20", "smaller=upscale") == 1
    (tmp_path / "images/00100.png").write_bytes((tmp_path / "images/00099.png").read_bytes())
    assert prepare(tmp_path / "images", out, "shard=20") == 1, "1 is too small for this one"
    assert prepare(tmp_path / "images", out, "shard=20", "unreadable=skip") == 0
    assert len(PixelStore(out)) == 199


def test_damaged_files_are_named_and_left_out_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = sorted(bad_images())
    images = make_folder(tmp_path / "images", 30, bad=bad, odd=False)
    out = tmp_path / "store"
    assert prepare(images, out, "shard=4") == 1
    told = capsys.readouterr().err
    assert "5 of 35 images cannot be taken" in told.splitlines()[-1]
    assert all(any(name in line and ": " in line for line in told.splitlines()) for name in bad)
    assert prepare(images, out, "shard=4", "unreadable=skip") == 0
    assert len(PixelStore(out)) == 30
    assert sorted(Path(line.split("\t")[0]).name for line in (out / "skipped.txt").read_text().splitlines()) == bad


def test_a_class_of_two_images_and_classes_of_few(tmp_path: Path) -> None:
    """Small classes are held out of together, so that 300 classes of three images have a held-out part too."""
    labels = np.concatenate([np.repeat(0, 30), [1, 1], np.repeat(np.arange(2, 302), 3)])
    np.savez(tmp_path / "all.npz", arr_0=np.zeros((len(labels), 4, 4), np.uint8), arr_1=labels)
    assert prepare(tmp_path / "all.npz", tmp_path / "store", resolution=4) == 0
    store = PixelStore(tmp_path / "store")
    assert len(store.heldout_indices) == 186
    assert store.manifest.class_counts[1] == 2
    counts = Counter(store.labels[store.heldout_indices].tolist())
    assert counts[0] == 6
    assert np.isclose(len(store.aside_indices), 0.25 * (len(labels) - 186), atol=2)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0, 0.9), st.floats(0, 0.9), st.booleans())
def test_no_image_is_in_two_parts_and_each_stays_where_it_was(
    numbers: list[int], heldout: float, aside: float, own: bool
) -> None:
    """The three parts are disjoint, and a test split of the source's own is held out whole."""
    labels = np.array(numbers, np.int32)
    names = [f"{number}.png" for number in range(len(labels))]
    test = np.arange(len(labels)) % 3 == 0
    source = ImageSource("folder", Path(), names, labels, list("abcdef"), lambda index: Path(), test=test)
    plan = StorePlan(Pixels(8, 1, False, None, False), 4, None if own else heldout, aside, source)
    held, set_aside = plan.split(names, labels, list(range(len(labels))))
    assert not (held & set_aside).any()
    if own:
        assert np.array_equal(held, test)
    elif heldout:
        assert abs(int(held.sum()) - heldout * len(labels)) <= 0.5 * 7 + 6
    # Another image, of the largest class, moves at most one other in each part.
    more = np.append(labels, labels[0])
    if not own:
        again, _ = plan.split([*names, "new.png"], more, list(range(len(more))))
        assert (again[:-1] != held).sum() <= 2 + 10


@pytest.mark.parametrize(
    ("where", "count"), [("fsync", 3), ("write_json", 4)], ids=["half a shard on the disk", "a shard without its mark"]
)
def test_killed_in_the_middle_then_resumed_is_the_same_byte_for_byte(
    where: str, count: int, images: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    words = ["images", f"images={images}", f"out={out}", "resolution=8", "shard=8", "workers=2"]
    done = subprocess.run([sys.executable, "-c", KILLED, where, str(count), *words], env=environment(), timeout=120)
    assert done.returncode == -9
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="unfinished"):
        PixelStore(out)
    assert prepare(images, out, "shard=8") == 0
    assert contents(out) == contents(whole)


def test_an_image_that_changes_between_two_starts_is_read_again(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", 30, 8, classes=())
    out = tmp_path / "store"
    (images / "00029.png").write_bytes(b"")
    assert prepare(images, out, "shard=8") == 1
    for name in ("00001.png", "00029.png"):
        (images / name).write_bytes(encoded(Image.fromarray(picture(500, 8, 8)), "PNG"))
    second = (out / "shards/00001.npy").stat().st_mtime_ns
    assert prepare(images, out, "shard=8") == 0
    found = PixelStore(out).read(np.array([1, 29]))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], picture(500, 8, 8).transpose(2, 0, 1))
    assert (out / "shards/00001.npy").stat().st_mtime_ns == second, "another's shard is kept"


def test_a_store_whose_source_has_changed_since(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = image_folder(tmp_path / "images", 12, 8), tmp_path / "store"
    assert prepare(images, out) == 0
    capsys.readouterr()
    assert prepare(images, out) == 0
    assert "is whole already: 12 images" in capsys.readouterr().out
    changed = images / CLASSES[0] / "00000.png"
    changed.write_bytes(encoded(Image.fromarray(picture(99, 8, 8)), "PNG"))
    assert prepare(images, out) == 1
    assert "as it was before its files changed (sizes or times): say out=<another folder>, or remove it" in (
        one_line(capsys)
    )
    image_folder(images, 1, 8, first=500)
    assert prepare(images, out) == 1
    assert "is a whole store of other images (12; " in one_line(capsys)


def test_two_ranks_make_the_same_store(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    words = ["images", f"images={images}", f"out={out}", "resolution=8", "shard=8", "workers=2"]
    told = told_by_ranks(2, "-m", "fcdm.prepare", *words, timeout=120)
    assert told[1][0] == ""
    assert contents(out) == contents(whole)


def test_two_commands_at_once_are_one_and_a_refusal(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcdm.runs.run_lock import claim

    with claim(tmp_path / "store/work"):
        assert prepare(images, tmp_path / "store") == 1
    assert f"is held by process {os.getpid()}" in one_line(capsys)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    small_disk: SmallDisk, images: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk.folder / "store"
    small_disk.fill()
    assert prepare(images, out, "shard=8") == 1
    assert "the disk has 0" in one_line(capsys)
    assert prepare(images, out, "shard=8", "--yes") == 1
    assert "the disk is full" in one_line(capsys)
    small_disk.free()
    assert prepare(images, out, "shard=8") == 0
    assert contents(out) == contents(whole)


def test_without_permission(in_public: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = image_folder(in_public / "images", 6, 8)
    closed = in_public / "closed"
    closed.mkdir(mode=0o755)
    for path in (images, *images.iterdir()):
        path.chmod(0o755)

    def of_nobody() -> None:
        assert prepare(images, closed / "store") == 1
        assert "permission denied" in one_line(capsys)

    as_nobody(of_nobody)
    (images / CLASSES[0]).chmod(0o700)
    as_nobody(lambda: _unlisted(images, in_public / "open", capsys))


def _unlisted(images: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(images, out) == 1
    said = one_line(capsys)
    assert "permission denied" in said
    assert CLASSES[0] in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pad=20"], "pad=20 cannot be: a multiple of resolution=8, for its blocks are averaged to that: say pad=24"),
        (["pad=4"], "pad=4 cannot be"),
        (["pad=16", "smaller=upscale"], "leave one away"),
        (["pad=8"], "12 x 10 pixels, more than pad=8: pad=16 would hold it"),
        (["channels=2"], "invalid choice: 2"),
        (["resolution=0"], "resolution=0 cannot be"),
        (["resolution=11"], "12 x 10 pixels, and resolution=11 is asked for: say smaller=upscale"),
        (["heldout=1"], "heldout=1.0 cannot be"),
        (["aside=-0.1"], "aside=-0.1 cannot be"),
        (
            ["heldout=0.95", "aside=0.95"],
            "0 of 40 images would be trained on (37 held out, 3 set aside), and that must be at least 4: say less, as "
            "heldout=0 aside=0, or take more images",
        ),
        (["vae=ft-ema"], "unrecognized arguments: --vae=ft-ema"),
        (["images=nowhere"], "images=nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], says: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(images, tmp_path / "store", *words) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert any(says in line for line in said), said
    assert len(said) == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("count", "words", "says"),
    [
        (1, (), "1 of 1 image would be trained on, and that must be at least 4: take more images"),
        (
            5,
            (),
            "3 of 5 images would be trained on (1 held out, 1 set aside), and that must be at least 4: say",
        ),
        (5, ("heldout=0.2", "aside=0"), ""),
    ],
)
def test_too_few_images_are_refused_at_once(
    count: int, words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = image_folder(tmp_path / "images", count, 8, classes=())
    assert prepare(images, tmp_path / "store", *words) == bool(says)
    said = capsys.readouterr()
    assert says in said.err
    if not says:
        assert "1 image held out, and no distance is told to fewer than 4: heldout= says which fraction" in said.out
        assert "not for evaluation.features=classifier, a training's default: the store has 0 images set" in said.out


def test_a_store_of_too_few_that_stands_is_refused_at_a_trainings_start(tmp_path: Path) -> None:
    store = tiny_pixels(tmp_path / "store", images=10, heldout=0, aside=7)
    with pytest.raises(UserError, match=r"store: 3 of 10 images would be trained on \(0 held out, 7 set aside\)"):
        data_checksum(composed("model=N", f"data.path={store}", "evaluation.features=pixels").data, 16)


def test_a_side_that_not_all_models_take_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = image_folder(tmp_path / "images", 12, 30, classes=())
    assert prepare(images, tmp_path / "store", resolution=30) == 0
    told = "FCDM takes no images of 30 pixels, for it halves twice: resolution=28 or 32 would be for it too; DiT takes"
    assert f"{told} them with patches of 2 (model=dit/N-2)" in capsys.readouterr().out
    assert prepare(images, tmp_path / "other", "smaller=upscale", resolution=32) == 0
    assert "FCDM takes" not in capsys.readouterr().out


def test_images_too_large_for_the_square_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", 12, 8, classes=())
    (images / "large.png").write_bytes(encoded(Image.fromarray(picture(1, 9, 9)), "PNG"))
    assert prepare(images, tmp_path / "store", "pad=8", "unreadable=skip") == 0
    assert len(PixelStore(tmp_path / "store")) == 12


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_the_parts_that_are_advised_are_enough_for_a_classifier(sizes: list[int]) -> None:
    images, options = ADVISED
    heldout, aside = (float(word.partition("=")[2]) for word in options.split())
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    labels = np.append(labels, np.repeat(len(sizes), max(0, images - len(labels)))).astype(np.int32)
    names = [f"{number}.png" for number in range(len(labels))]
    source = ImageSource("folder", Path(), names, labels, ["any"] * (labels.max() + 1), lambda index: Path())
    assert why_no_classifier(StorePlan(Pixels(8, 1, False, None, False), 4, heldout, aside, source).parts) is None


def test_idx_files_in_disorder_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = idx_folder(tmp_path / "idx")
    spoilt = folder / "train-images-idx3-ubyte.gz"
    spoilt.write_bytes(spoilt.read_bytes()[:50])
    assert prepare(folder, tmp_path / "store") == 1
    assert "is no whole gzip file" in one_line(capsys)


def test_a_store_of_the_other_kind_is_not_written_into(
    images: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.tiny_store import tiny_store

    assert prepare(images, tiny_store(tmp_path / "latents"), "smaller=upscale", resolution=64) == 1
    assert "is a store of latents, and one of pixels is asked for" in one_line(capsys)
    assert prepare(images, whole, "pad=16") == 1
    assert "is a whole store with pad None, not 16" in one_line(capsys)


def test_cifars_files_keep_their_own_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(parquet_folder(tmp_path / "cifar10"), tmp_path / "store", resolution=32) == 0
    assert "held out: its own test split (12 images)" in capsys.readouterr().out
    store = PixelStore(tmp_path / "store")
    assert store.heldout_indices.tolist() == list(range(60, 72))
    assert (store.row_shape, store.manifest.classes) == ((3, 32, 32), CLASSES)
    assert written(tmp_path / "store")["heldout"] == {"fraction": None, "images": 12}
    said = ["heldout=0.2", "split=train"]
    assert prepare(tmp_path / "cifar10", tmp_path / "own", *said, resolution=32) == 0
    assert len(PixelStore(tmp_path / "own")) == 60
