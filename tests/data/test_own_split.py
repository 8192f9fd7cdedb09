"""The source's own test split is what a store of pixels holds out: folders, CIFAR's parquet, Keras' .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcdm.data.image_sources import open_source
from fcdm.data.labelled_images import SourceOptions
from fcdm.data.own_split import open_with_test
from fcdm.errors import UserError
from tests.support.pixel_data import CLASSES, image_folder, parquet_folder, pictures
from tests.support.tiny_images import encoded


def test_cifars_parquet_files(tmp_path: Path) -> None:
    found = open_with_test(parquet_folder(tmp_path, 9, 6, side=8))
    assert (len(found), tuple(found.classes)) == (15, CLASSES)
    assert found.test is not None
    assert int(found.test.sum()) == 6
    assert found.names[0] == "plain_text/train-00000-of-00001.parquet:0"
    assert found.names[-1] == "plain_text/test-00000-of-00001.parquet:5"
    assert found.read(9) == open_source(tmp_path, SourceOptions(split="test")).read(0)
    assert not any("left out" in note for note in found.notes), "the test split is not"
    assert any("test left out" in note for note in open_source(tmp_path).notes)


@pytest.mark.parametrize("held", ["test", "val", "Validation"])
def test_folders_called_train_and_test(held: str, tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 9, 8)
    image_folder(tmp_path / held, 4, 8, first=100, classes=CLASSES[:2])
    found = open_with_test(tmp_path)
    assert (len(found), tuple(found.classes)) == (13, CLASSES)
    assert found.test is not None
    assert int(found.test.sum()) == 4
    assert found.labels[found.test].tolist() == [0, 0, 1, 1]
    assert (tmp_path / found.names[-1]).exists()
    assert found.names[-1].startswith(f"{held}/")
    with pytest.raises(UserError, match="which would be mixed: say images="):
        open_source(tmp_path)


def test_test_comes_before_validation(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        image_folder(tmp_path / split, 6, 8, first)
    found = open_with_test(tmp_path)
    assert {name.split("/")[0] for name in found.names} == {"train", "test"}
    assert any("val" in note and "left out" in note for note in found.notes)


def test_classes_that_are_called_like_splits_are_no_splits(tmp_path: Path) -> None:
    image_folder(tmp_path, 6, 8, classes=("train", "test", "tram"))
    with pytest.raises(UserError, match="labels=folders if they are classes"):
        open_with_test(tmp_path)
    found = open_with_test(tmp_path, SourceOptions("folders"))
    assert (found.classes, found.test) == (["test", "train", "tram"], None)


def test_a_test_split_with_classes_of_its_own_is_one_line(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 6, 8)
    image_folder(tmp_path / "val", 4, 8, classes=())
    with pytest.raises(UserError, match="1 class not to train on, first unlabelled"):
        open_with_test(tmp_path)


def test_keras_layout(tmp_path: Path) -> None:
    train, test = pictures(7, 8, grey=True), pictures(4, 8, 100, grey=True)
    labels = np.arange(7, dtype=np.uint8) % 3
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, x_train=train, y_train=labels, x_test=test, y_test=labels[:4, None])
    found = open_with_test(path)
    assert (len(found), found.classes, found.root) == (11, ["0", "1", "2"], tmp_path)
    assert found.test is not None
    assert int(found.test.sum()) == 4
    assert np.array_equal(np.asarray(found.read(8))[..., 0], test[1])
    assert found.labels.tolist() == [*labels, *labels[:4]]
    assert found.stamp() != ""
    assert len(open_source(path)) == 7
    assert len(open_source(path, SourceOptions(split="test"))) == 4
    with pytest.raises(UserError, match="no split validation: say split=test or split=train"):
        open_source(path, SourceOptions(split="validation"))
    np.savez(path, x_train=train, y_train=labels[:3], x_test=test, y_test=labels[:4])
    with pytest.raises(UserError, match="7 images in `x_train`, but 3 labels in `y_train`"):
        open_with_test(path)


def test_a_hundred_thousand_classes_take_no_longer_than_ten(tmp_path: Path) -> None:
    """No list of classes is searched for each class."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    data = encoded(Image.fromarray(pictures(1, 8)[0]), "PNG")
    for split, labels in (("train", [0, 99_999]), ("test", [99_998])):
        table = pa.table({"img": [data] * len(labels), "label": labels})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    found = open_with_test(tmp_path)
    assert len(found.classes) == 100_000
    assert found.labels.tolist() == [0, 99_999, 99_998]
