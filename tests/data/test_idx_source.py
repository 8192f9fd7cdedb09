"""IDX files as MNIST's: read as they are, with their own test split; what is wrong with them is one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcdm.data.image_sources import open_source
from fcdm.data.labelled_images import SourceOptions
from fcdm.data.own_split import open_with_test
from fcdm.errors import UserError
from tests.support.pixel_data import idx_bytes, idx_folder, of_classes, pictures
from tests.support.tiny_images import encoded


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_the_four_files(packed: bool, tmp_path: Path) -> None:
    idx_folder(tmp_path, 7, 5, packed=packed)
    found = open_with_test(tmp_path)
    assert (found.kind, len(found), found.classes) == ("idx", 12, ["0", "1", "2"])
    assert found.test is not None
    assert found.test.tolist() == [False] * 7 + [True] * 5
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 0, 1]
    parts = [of_classes(pictures(7, 8, grey=True)), of_classes(pictures(5, 8, 1000, grey=True))]
    want = np.concatenate(parts)[..., None]
    assert np.array_equal(np.stack([np.asarray(found.read(number)) for number in range(12)]), want)
    assert "its own test split is held out: 5 images" in found.notes
    assert not any("left out" in note for note in found.notes)


def test_one_file_or_one_split(tmp_path: Path) -> None:
    idx_folder(tmp_path, 7, 5)
    one = open_with_test(tmp_path / "t10k-images-idx3-ubyte.gz")
    assert (len(one), one.test) == (5, None)
    assert open_source(tmp_path, SourceOptions(split="test")).names == one.names
    alone = open_source(tmp_path)
    assert len(alone) == 7
    assert any("split=test takes that" in note for note in alone.notes)
    assert open_source(tmp_path, SourceOptions("none")).classes == ["unlabelled"]
    # As torchvision unpacks them: beside the packed ones, in a folder below.
    (tmp_path / "mnist/raw").mkdir(parents=True)
    for path in tmp_path.glob("*.gz"):
        (tmp_path / "mnist/raw" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.rename(tmp_path / "mnist/raw" / path.name)
    assert len(open_with_test(tmp_path / "mnist")) == 12
    # As some unpack them.
    dotted = tmp_path / "dotted"
    dotted.mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (dotted / name.replace("-idx", ".idx")).write_bytes((tmp_path / "mnist/raw" / name).read_bytes())
    assert len(open_with_test(dotted)) == 7


TRAIN, LABELS, T10K = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"


def _cut(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))


def _longer(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"x"))


def _swap(path: Path) -> None:
    other = path.with_name(LABELS)
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _floats(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 13, 3]) + bytes(12))


def _png(path: Path) -> None:
    from PIL import Image

    path.write_bytes(encoded(Image.new("L", (8, 8)), "PNG"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is no whole gzip file"),
        (_cut, "is cut short: 2,573 bytes, and its header asks for 2,576"),
        (_longer, "is longer than it should be: 2,577 bytes"),
        (_swap, "holds labels, not images: were two files swapped?"),
        (lambda path: path.write_bytes(path.with_name(T10K).read_bytes()), "they do not belong together"),
        (lambda path: path.with_name(LABELS).unlink(), "are missing: wanted is"),
        (_floats, "is no IDX file of images. Its magic number is 0x00000d03, not 0x00000803"),
        (_png, "is no IDX file (it does not begin with two zero bytes), nor is it packed by gzip, as its name says"),
        (lambda path: path.write_bytes(b""), "is no IDX file"),
        (lambda path: path.write_bytes(idx_bytes(np.zeros((0, 8, 8), np.uint8))), "holds no image"),
        (lambda path: path.unlink(), "on these"),
        (lambda path: path.with_name("emnist-images-idx3-ubyte").write_bytes(b""), "of several data sets"),
    ],
)
def test_what_is_wrong_is_one_line(spoil: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    spoil(idx_folder(tmp_path) / TRAIN)
    with pytest.raises(UserError) as refusal:
        open_with_test(tmp_path)
    assert says in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_test_split_alone_is_told_how_to_be_used(tmp_path: Path) -> None:
    (idx_folder(tmp_path) / TRAIN).unlink()
    with pytest.raises(UserError) as refusal:
        open_with_test(tmp_path)
    assert str(refusal.value) == (
        f"images={tmp_path} holds only a test split ({T10K}): put the images to train on beside it "
        f"(train-images-idx3-ubyte and their labels), or say images={tmp_path / T10K} to train on these"
    )
    assert len(open_with_test(tmp_path / T10K))


def test_words_that_mean_nothing_of_them_are_refused(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    for how, says in (
        ({"labels": "labels.csv"}, "the labels of IDX files lie beside them"),
        ({"image_key": "img"}, "image_key is for parquet and arrow files"),
        ({"value_range": "0..1"}, "range is for .npz and .npy files"),
        ({"split": "validation"}, "has no split validation: say split=train or split=test"),
    ):
        with pytest.raises(UserError, match=says):
            open_source(tmp_path, SourceOptions(**how))
    with pytest.raises(UserError, match="holds labels, not images"):
        open_source(tmp_path / LABELS)
