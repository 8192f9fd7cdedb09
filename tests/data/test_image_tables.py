"""Data sets of HF `datasets`: hub copies, its cache, `save_to_disk`, single files; columns by any of their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fcdm.data.image_sources import ImageSource, open_source
from fcdm.data.labelled_images import SourceOptions
from fcdm.errors import UserError
from fcdm.images.crop import Unreadable, read_square
from tests.support.tiny_images import encoded, picture

PNG = encoded(Image.fromarray(picture(1)), "PNG")
NAMES = ("cat", "dog", "newt")


def table(rows: int = 2, classes: Sequence[str] | None = NAMES, first: int = 0) -> pa.Table:
    """Columns image and label, as `datasets` writes them."""
    images = [{"bytes": PNG, "path": None}] * rows
    return described(pa.table({"image": images, "label": [(first + row) % 3 for row in range(rows)]}), label=classes)


def described(made: pa.Table, **classes: Sequence[str] | None) -> pa.Table:
    """With HF's metadata: the names of classes of the columns that have some."""
    features: dict[str, Any] = {
        name: {"names": list(names), "_type": "ClassLabel"} for name, names in classes.items() if names
    }
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(path: Path, made: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(made, path)
    else:
        with pa.ipc.new_stream(path, made.schema) as file:
            file.write_table(made)
    return path


def save_to_disk(folder: Path, rows: int, split: str, shards: int = 2) -> Path:
    """A folder as `Dataset.save_to_disk` leaves it."""
    files = [f"data-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]
    for file in files:
        write(folder / file, table(rows))
    state = {"_data_files": [{"filename": file} for file in files], "_fingerprint": "c0ffee", "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    return folder


def files_of(source: ImageSource) -> list[str]:
    return sorted({name.rpartition(":")[0] for name in source.names})


def refused(root: Path, **how: Any) -> str:
    with pytest.raises(UserError) as error:
        open_source(root, SourceOptions(**how))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_read_before_has_the_checksum_that_it_had(tmp_path: Path) -> None:
    """Golden: the stores that were made of these keep theirs."""
    three = described(pa.table({"image": [{"bytes": b"x", "path": "x"}] * 3, "label": [0, 1, 1]}), label=NAMES[:2])
    plain = pa.table({"image": [b"x"] * 2, "label": [2, 0]})
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(tmp_path / f"hub/data/{name}.parquet", three)
    for shard in range(2):
        write(tmp_path / f"saved/data-0000{shard}-of-00002.arrow", three)
        write(tmp_path / f"numbered/000{shard}.parquet", plain)
    for split in ("train", "test"):
        write(tmp_path / f"dict/{split}/data-00000-of-00001.arrow", three)
        write(tmp_path / f"converted/default/{split}/0000.parquet", plain)
    for folder, checksum in {
        "hub": "3ec9139e2c425f6621ed0c9ce2903fbcec8b686e22d2f5f843e7de897c04f80f",
        "saved": "1d757267e1a32b1d1987d0b46c418553cf42402cbb688d2e5bee723c267cc198",
        "dict": "b93e587cbde451c1698322de3c24b6b8ba3c0ec267f8904b746a03e5a0724a64",
        "converted": "2bb3eaf12b7f36e68a441b0e9d406cd08bc24e4c00cde163a03a5790b85cd290",
        "numbered": "e957f206bcba7fea72c9f08e52d4cddd70440088da0482bdf872152695fa0cfb",
    }.items():
        assert open_source(tmp_path / folder).checksum() == checksum, folder


@pytest.mark.parametrize(
    ("train", "other"),
    [
        (["parquet-train.arrow"], ["parquet-test.arrow"]),
        (
            ["imagenet-1k-train-00000-of-00002.parquet", "imagenet-1k-train-00001-of-00002.parquet"],
            ["imagenet-1k-validation-00000-of-00001.parquet"],
        ),
        (["data/train-00000-of-00001-0123abcd.parquet"], ["data/test-00000-of-00001-4567cdef.parquet"]),
        (["train.parquet"], ["test.parquet", "val.parquet"]),
        (["plain_text/train-00000-of-00001.parquet"], ["plain_text/test-00000-of-00001.parquet"]),
        (["train/part-0.parquet", "train/part-1.parquet"], ["dev/part-0.parquet"]),
        (["default/train/0000.parquet"], ["default/unlabeled/0000.parquet"]),
    ],
)
def test_splits_are_told_apart(train: list[str], other: list[str], tmp_path: Path) -> None:
    for name in train + other:
        write(tmp_path / name, table())
    found = open_source(tmp_path)
    assert files_of(found) == train
    assert any("train is taken" in note and "split= says another" in note for note in found.notes)
    if len(other) == 1:
        word = "unlabeled" if "unlabeled" in other[0] else "test" if "test" in other[0] else "validation"
        assert files_of(open_source(tmp_path, SourceOptions(split=word))) == other
    assert files_of(open_source(tmp_path, SourceOptions(split="train"))) == train
    assert "split=extra is none of its splits: say one of split=" in refused(tmp_path, split="extra")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.parquet", "b.parquet"], ["images={}/a.parquet", "images={}/b.parquet"]),
        (["fit/0.parquet", "fit/1.parquet", "hold/0.parquet"], ["images={}/fit", "images={}/hold"]),
        (["test.parquet", "val.parquet"], ["split=test", "split=validation"]),
        (["small/train-00000-of-00001.parquet", "large/train-00000-of-00001.parquet"], ["images={}/small"]),
        (["a/train.parquet", "a/test.parquet", "b/train.parquet", "b/test.parquet"], ["images={}/a", "images={}/b"]),
        (["train_small-0.parquet", "train-0.parquet"], ["split=train", "images={}/train_small-0.parquet"]),
        (["x-0.parquet", "x-1.parquet", "y-0.parquet", "y-1.parquet"], ["split=x", "split=y"]),
        (["x-0.parquet", "x-1.parquet", "a/x-0.parquet", "a/x-1.parquet"], ["x (2 files: move them into a folder of"]),
        (["1.0.0/0.parquet", "2.0.0/0.parquet"], ["images={}/1.0.0", "images={}/2.0.0"]),
        (["trainval-0.parquet", "trainval-1.parquet", "test-0.parquet"], ["split=trainval", "split=test"]),
        (["t.parquet", "a/train.parquet", "b/train.parquet"], ["images={}/a", "images={}/b", "images={}/t.parquet"]),
    ],
)
def test_where_names_do_not_tell_splits_apart_they_are_listed(
    names: list[str], says: list[str], tmp_path: Path
) -> None:
    for name in names:
        write(tmp_path / name, table())
    told = refused(tmp_path)
    assert "holds several data sets or splits: say one of" in told
    for line in says:
        said = line.format(tmp_path)
        assert said in told
        key, _, value = said.partition("=")
        if key == "split":
            assert len(open_source(tmp_path, SourceOptions(split=value.split()[0]))), "what is said works"
        elif key == "images":
            assert len(open_source(Path(value))), "what is said works"


def test_a_single_file(tmp_path: Path) -> None:
    for name in ("parquet-train.arrow", "parquet-test.arrow", "all.parquet"):
        write(tmp_path / name, table(3))
    assert files_of(open_source(tmp_path / "parquet-test.arrow")) == ["parquet-test.arrow"]
    found = open_source(tmp_path / "all.parquet")
    assert (found.kind, found.root, found.classes) == ("parquet", tmp_path, list(NAMES))
    assert found.read(1) == PNG
    assert "leave split=test away" in refused(tmp_path / "all.parquet", split="test")
    assert "holds parquet and arrow files (parquet-test.arrow, all.parquet)" in refused(tmp_path)


def test_both_formats_of_arrow_are_read(tmp_path: Path) -> None:
    made = table(3)
    with pa.ipc.new_file(tmp_path / "a.arrow", made.schema) as file:
        file.write_table(made)
    assert open_source(tmp_path).labels.tolist() == [0, 1, 2]


def test_what_save_to_disk_wrote_is_what_its_state_lists(tmp_path: Path) -> None:
    saved = save_to_disk(tmp_path / "saved", 3, "train")
    before = open_source(saved)
    assert len(before) == 6
    # What map() and filter() leave beside it: more images, and rows by number; and another save's shard.
    write(saved / "cache-0123456789abcdef.arrow", table(5))
    write(saved / "cache-fedcba9876543210.arrow", pa.table({"indices": pa.array([0, 2], pa.uint64())}))
    write(saved / "data-00000-of-00001.arrow", table(4))
    found = open_source(saved)
    assert found.checksum() == before.checksum()
    assert any("3 arrow files of map(), filter()" in note for note in found.notes)
    state = (saved / "state.json").read_text()
    (saved / "state.json").write_text(state[:20])
    assert "state.json is damaged" in refused(saved)
    (saved / "state.json").write_text(state)
    (saved / "data-00001-of-00002.arrow").unlink()
    assert "state.json lists 1 files that are not there, first data-00001-of-00002.arrow" in refused(saved)


def test_a_dataset_dict_on_disk(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, rows in (("train", 2), ("test", 3)):
        write(save_to_disk(tmp_path / split, rows, split, 1) / "cache-0a.arrow", table())
    found = open_source(tmp_path)
    assert files_of(found) == ["train/data-00000-of-00001.arrow"]
    assert "of its splits, train is taken (test left out); split= says another" in found.notes
    assert len(open_source(tmp_path, SourceOptions(split="test"))) == len(open_source(tmp_path / "test")) == 3


def test_the_hubs_cache_with_what_map_left_in_it(tmp_path: Path) -> None:
    write(tmp_path / "cifar10-train.arrow", table(4))
    write(tmp_path / "cifar10-test.arrow", table(2))
    for number in range(3):
        write(tmp_path / f"cache-{number}_00000_of_00002.arrow", table(9))
    assert len(open_source(tmp_path)) == 4
    for name in ("cifar10-train.arrow", "cifar10-test.arrow"):
        (tmp_path / name).unlink()
    assert "has only what map() and filter() of HF datasets leave (cache-0_" in refused(tmp_path)


def test_numbered_folders_are_parts_of_one_split(tmp_path: Path) -> None:
    for name in (
        "data/chunk-000/file-000.parquet",
        "data/chunk-000/file-001.parquet",
        "data/chunk-001/file-000.parquet",
    ):
        write(tmp_path / name, table())
    assert len(open_source(tmp_path)) == 6


def test_an_incomplete_or_mixed_download_is_told(tmp_path: Path) -> None:
    for shard in (0, 2):
        write(tmp_path / f"train-{shard:05d}-of-00004.parquet", table())
    assert "2 of the 4 files of train are there" in open_source(tmp_path).notes
    write(tmp_path / "train-00000-of-00002.parquet", table())
    assert "has files of two versions of train (train-00000-of-00002.parquet, " in refused(tmp_path)


@pytest.mark.parametrize("image", ["image", "img", "webp", "jpg", "png"])
@pytest.mark.parametrize("label", ["label", "labels", "cls", "fine_label"])
def test_columns_by_their_usual_names(image: str, label: str, tmp_path: Path) -> None:
    made = pa.table({"__key__": ["a", "b"], image: [PNG, PNG], label: [1, 0]})
    write(tmp_path / "a.parquet", described(made, **{label: NAMES[:2], "other": NAMES}))
    found = open_source(tmp_path)
    assert found.labels.tolist() == [1, 0]
    assert found.classes == ["cat", "dog"], "names of that very column"
    assert read_square(found.read(0), 8).shape == (8, 8, 3)


def test_columns_by_what_the_metadata_say_of_them(tmp_path: Path) -> None:
    made = described(pa.table({"photo": [PNG] * 2, "year": [1999, 2000], "breed": [2, 0]}), breed=NAMES)
    features = json.loads(made.schema.metadata[b"huggingface"])
    features["info"]["features"]["photo"] = {"_type": "Image"}
    write(tmp_path / "a.parquet", made.replace_schema_metadata({"huggingface": json.dumps(features)}))
    found = open_source(tmp_path)
    assert found.labels.tolist() == [2, 0]
    assert found.classes == list(NAMES)
    assert "its columns photo and breed" in found.notes


def test_several_columns_that_may_be_meant(tmp_path: Path) -> None:
    """CIFAR-100's."""
    made = pa.table({"img": [PNG] * 2, "fine_label": [2, 1], "coarse_label": [0, 1]})
    write(tmp_path / "a.parquet", described(made, fine_label=NAMES, coarse_label=["pet", "wild"]))
    told = refused(tmp_path)
    assert "say label_key=fine_label or label_key=coarse_label" in told
    assert open_source(tmp_path, SourceOptions(label_key="fine_label")).classes == list(NAMES)
    assert open_source(tmp_path, SourceOptions(label_key="coarse_label")).classes == ["pet", "wild"]
    assert "has no column breed; label_key= may say img, fine_label, coarse_label" in refused(
        tmp_path, label_key="breed"
    )
    write(tmp_path / "two/a.parquet", pa.table({"jpg": [PNG], "png": [PNG], "label": [0]}))
    assert "say image_key=jpg or image_key=png" in refused(tmp_path / "two")
    assert len(open_source(tmp_path / "two", SourceOptions(image_key="png"))) == 1
    write(tmp_path / "both/a.parquet", pa.table({"image": [PNG], "label": [0], "fine_label": [1]}))
    assert any("label, not fine_label" in note for note in open_source(tmp_path / "both").notes)


def test_without_labels_it_is_one_class(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"image": [PNG] * 3, "caption": ["a", "b", "c"]}))
    found = open_source(tmp_path)
    assert (found.classes, found.labels.tolist()) == (["unlabelled"], [0, 0, 0])
    assert "no labels (columns: image, caption; label_key=COLUMN says another)" in found.notes
    write(tmp_path / "test/a.parquet", pa.table({"image": [PNG] * 2, "label": [-1, -1]}))
    told = refused(tmp_path / "test")
    assert "rows without a label (label -1)" in told
    assert "labels=none" in told
    assert open_source(tmp_path / "test", SourceOptions(labels="none")).labels.tolist() == [0, 0]
    assert "contradict each other" in refused(tmp_path / "test", labels="none", label_key="label")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": [PNG], "label": ["cat"]}, "must hold class numbers, not string"),
        ({"image": [PNG], "label": [10**12]}, "has label 1000000000000: class numbers count from 0"),
        ({"image": [PNG], "label": [0.5]}, "must hold class numbers, not double"),
        ({"image": [PNG], "label": [[1, 2]]}, "must hold class numbers, not list"),
        ({"image": [PNG, PNG], "label": [0, None]}, "has 1 rows without a label: labels=none"),
        ({"image": ["http://x/a.png"], "label": [0]}, "column image must hold the bytes of image files, not string"),
        ({"picture": [PNG], "label": [0]}, "has the columns picture, label: image_key=COLUMN says which"),
    ],
)
def test_columns_of_another_kind_are_one_line(columns: dict[str, list[Any]], says: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table(columns))
    assert says in refused(tmp_path)


def test_files_of_one_split_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", table())
    write(tmp_path / "train-1.parquet", table(classes=["cat", "newt", "dog"]))
    assert "train-1.parquet has other names of classes than" in refused(tmp_path)
    write(tmp_path / "train-1.parquet", pa.table({"image": [PNG]}))
    assert "train-1.parquet has the columns image: label is wanted" in refused(tmp_path)


def test_paths_in_place_of_bytes_are_followed(tmp_path: Path) -> None:
    """As the cache of a folder of images has them."""
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [{"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": None, "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write(tmp_path / "cache/imagefolder-train.arrow", pa.table({"image": pa.array(rows, kind), "label": [0, 1]}))
    found = open_source(tmp_path / "cache")
    assert np.array_equal(read_square(found.read(0), 8), read_square(PNG, 8))
    with pytest.raises(Unreadable, match="no bytes of an image file"):
        found.read(1)


@pytest.mark.parametrize("place", ["", "a.parquet"])
def test_files_of_labels_are_not_for_tables(place: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table())
    told = refused(tmp_path / place, labels="labels.csv")
    assert "labels=labels.csv is for image files; label_key= says the column of a.parquet" in told


def test_image_files_and_tables_in_one_folder(tmp_path: Path) -> None:
    """A hub's copy with a preview, or class folders with a table of something: `labels=` says the files are meant."""
    write(tmp_path / "data/train-00000-of-00001.parquet", table(3))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/preview.png").write_bytes(PNG)
    assert open_source(tmp_path).kind == "parquet"
    assert open_source(tmp_path, SourceOptions(labels="folders")).names == ["assets/preview.png"]
    assert "label_key is for parquet and arrow files, and labels=folders asks for its image files" in refused(
        tmp_path, labels="folders", label_key="label"
    )
