"""Data sets as files: class folders, EDM2's layout, files of labels, no labels; and what is none of these."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fcdm.data.image_sources import ImageSource, open_source
from fcdm.data.labelled_images import SourceOptions
from fcdm.errors import UserError
from tests.support.nobody import as_nobody

EDM2 = ("00000/img00000000.png", "00000/img00000999.png", "00001/img00001000.png", "00001/img00001001.png")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def labelled(source: ImageSource) -> dict[str, str]:
    """Image -> name of its class."""
    return {name: source.classes[label] for name, label in zip(source.names, source.labels.tolist(), strict=True)}


def refused(root: Path, **how: Any) -> str:
    with pytest.raises(UserError) as error:
        open_source(root, SourceOptions(**how))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_read_before_has_the_checksum_that_it_had(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "a-1/y.png", "a/deep/z.PNG", "a/note.txt", "a/._x.png", "b/1.jpeg", "loose.png")
    found = open_source(tmp_path)
    assert found.checksum() == "a31dfd468accbed38b7dc7768c741854f1707fe5415708307954bee5be4c7354"
    assert found.checksum() == open_source(tmp_path, SourceOptions(labels="folders")).checksum()


@pytest.mark.parametrize(
    ("names", "listed", "say"),
    [
        (("train/n01/a.JPEG", "train/n02/b.JPEG", "val/c.JPEG"), "train, val", "train"),
        (("Train/n01/a.png",), "Train", "Train"),
        (("VALID/cat/a.png", "Test/cat/b.png"), "Test, VALID", "Test"),
        (("validation/a.png", "cat/b.png"), "validation", "validation"),
        (("Data/CLS-LOC/train/n01/a.JPEG", "Data/CLS-LOC/val/b.JPEG"), "Data/CLS-LOC/train", "Data/CLS-LOC/train"),
        (("bottle/train/good/0.png", "bottle/test/bad/0.png", "pill/train/good/1.png"), "bottle/test", "bottle/train"),
    ],
)
def test_folders_named_like_splits_are_no_classes(
    names: tuple[str, ...], listed: str, say: str, tmp_path: Path
) -> None:
    touch(tmp_path, *names)
    told = refused(tmp_path)
    assert f"folders named like splits ({listed}" in told
    assert f"say images={tmp_path / say}" in told
    assert len(open_source(tmp_path / say)), "what is said works"
    assert "labels=folders" in told
    assert set(labelled(open_source(tmp_path, SourceOptions(labels="folders"))).values()) == {
        name.split("/")[0] for name in names
    }
    assert "named like splits" in refused(tmp_path, labels="none"), "nor mixed without labels"


def test_a_class_called_train_can_be_said(tmp_path: Path) -> None:
    touch(tmp_path, "bus/a.png", "train/b.png", "testbed/c.png")
    assert open_source(tmp_path, SourceOptions(labels="folders")).classes == ["bus", "testbed", "train"]
    shutil.rmtree(tmp_path / "train")
    assert open_source(tmp_path).classes == ["bus", "testbed"], "a word within a name is no split"


def test_edm2s_layout_has_the_labels_of_its_index(tmp_path: Path) -> None:
    touch(tmp_path, *EDM2)
    told = refused(tmp_path)
    assert "folders that only count its images (00000/img00000000.png)" in told
    for way, classes in (("none", ["unlabelled"]), ("folders", ["00000", "00001"])):
        assert f"labels={way}" in told
        assert open_source(tmp_path, SourceOptions(labels=way)).classes == classes, "what is said works"

    pairs = list(zip(EDM2, (1, 0, 3, 1), strict=True))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    found = open_source(tmp_path)
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == dict(pairs)
    assert found.names == sorted(EDM2)
    assert found.classes == ["0", "1", "2", "3"]
    assert any("1 of its 4 classes have no images (2)" in note for note in found.notes)
    assert found.read(2) == tmp_path / EDM2[2]

    (tmp_path / "dataset.json").write_text('{"labels": null}')
    found = open_source(tmp_path)
    assert found.classes == ["unlabelled"]
    assert any("says that there are no labels" in note for note in found.notes)


def test_ffhqs_folders_only_count_too(tmp_path: Path) -> None:
    touch(tmp_path, "00000/00000.png", "00000/00999.png", "69000/69000.png")
    assert "only count its images" in refused(tmp_path)
    assert open_source(touch(tmp_path / "digits", "0/1.png", "1/7.png")).classes == ["0", "1"], "classes by number"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.json", '{"labels": [["x/b.png", "dog"], ["a.png", "cat"], ["x/c.png", "dog"]]}'),
        ("labels.json", '{"x/b.png": "dog", "a.png": "cat", "./x/c.png": "dog"}'),
        ("labels.json", '{"labels": {"x/b.png": "dog", "a.png": "cat", "x/c.png": "dog"}}'),
        ("labels.csv", "x/b.png,dog\na.png,cat\nx//c.png,dog\n"),
        ("labels.csv", "\ufeffpath,label\r\nx/b.png,dog\r\na.png,cat\r\n\r\nx/c.png,dog\r\n"),
        ("labels.csv", "id,Category,file_name\n7,dog,x/b.png\n8,cat,a.png\n9,dog,x/c.png\n"),
        ("labels.csv", 'what,which\n"x/b.png",dog\n"a.png",cat\n"x/c.png",dog\n'),
        ("labels.tsv", "x/b.png\tdog\na.png\tcat\nx/c.png\tdog\n"),
    ],
)
def test_a_file_of_labels_gives_labels_and_the_order_of_classes(file: str, content: str, tmp_path: Path) -> None:
    images = touch(tmp_path / "images", "a.png", "x/b.png", "x/c.png", "x/readme.txt")
    (tmp_path / file).write_text(content, encoding="utf-8")
    found = open_source(images, SourceOptions(labels=str(tmp_path / file)))
    assert labelled(found) == {"a.png": "cat", "x/b.png": "dog", "x/c.png": "dog"}
    assert all("not read" not in note for note in found.notes)
    assert found.classes == ["dog", "cat"], "as they come in the file"


def test_numbers_in_a_file_of_labels_are_class_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    for content in ("a.png,10\nb.png,2\nc.png,0\n", f"{tmp_path}/a.png,10\nb.png,2\nc.png,0\n"):
        (tmp_path / "labels.csv").write_text(content)
        found = open_source(tmp_path, SourceOptions(labels=str(tmp_path / "labels.csv")))
        assert found.labels.tolist() == [10, 2, 0]
        assert found.classes == [str(number) for number in range(11)]
    (tmp_path / "labels.csv").write_text("a.png,007\nb.png,2\nc.png,0\n")
    assert open_source(tmp_path, SourceOptions(labels=str(tmp_path / "labels.csv"))).classes == ["007", "2", "0"], (
        "007 is a name"
    )


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("l.csv", "a.png,1\n", "gives no label to 2 of the 3 images, first b.png"),
        ("l.csv", "a.png,1\nb.png,1\nc.png,1\nx.png,1\ny.png,0\n", "names 2 that are no images below .*, first x.png"),
        ("l.csv", "path,label\na,1\nb,1\n", "no label to 3 of the 3 .*first a.png and names 2 that are .*first a:"),
        ("l.csv", "a.png,1\na.png,2\n", "gives a.png two labels: 1 and 2"),
        ("l.csv", "a.png,1\nb.png,\n", "line 2: a path and a label are wanted, not b.png"),
        ("l.csv", "a.png,1,2\n", "has the columns a.png, 1, 2: leave two, with the header path and label"),
        ("l.csv", "path,class,label\na.png,1,2\n", "has the columns path, class, label: leave two"),
        ("l.csv", "a.png,1.5\nb.png,0\nc.png,0\n", "gives a.png the label 1.5: a number from 0, or a name"),
        ("l.csv", "a.png,-1\nb.png,0\nc.png,0\n", "gives a.png the label -1"),
        ("l.csv", "a.png,83475934\nb.png,0\nc.png,0\n", "gives a.png the label 83475934: class numbers count from 0"),
        ("l.csv", "", "holds no labels"),
        ("l.json", "{", "cannot be read as JSON"),
        ("l.json", '{"a.png": 1, "b.png": 0, "a.png": 2}', "a.png stands twice, as 1 and as 2"),
        ("l.json", "7", "holds no labels: wanted is"),
        ("l.json", '{"labels": [["a.png", [0, 1]]]}', r"gives a.png the label \[0, 1\]: the number or the name of one"),
        ("l.json", '{"labels": [["a.png", 0.5]]}', "gives a.png the label 0.5"),
        ("l.json", '{"labels": [["a.png"]]}', "holds ..a.png..: wanted is"),
        ("l.txt", "a.png 1", "a .json, .csv or .tsv file, `folders` or `none` is wanted"),
        ("l.npy", "", "a .json, .csv or .tsv file"),
        ("dataset.json", "{}", 'has no "labels"'),
    ],
)
def test_labels_that_do_not_fit_are_one_line(file: str, content: str, says: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / file).write_text(content)
    told = refused(tmp_path, labels=str(tmp_path / file))
    assert file in told
    with pytest.raises(UserError, match=says):
        raise UserError(told)


def test_a_file_of_labels_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    assert "no such file" in refused(tmp_path, labels="lables.csv")
    assert "labels=folder:" in refused(tmp_path, labels="folder"), "a word that is neither"
    assert "has 1 images, no class folders: say labels=none" in refused(tmp_path, labels="folders")


def test_a_folder_without_class_folders_is_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.png", "notes.txt")
    found = open_source(tmp_path)
    assert (found.names, found.labels.tolist(), found.classes) == (["a.png", "b.png"], [0, 0], ["unlabelled"])
    assert any("label_drop.probability=0" in note for note in found.notes)
    (tmp_path / "empty").mkdir()
    assert open_source(tmp_path).checksum() == found.checksum()
    assert open_source(
        touch(tmp_path / "classes", "x/a.png", "y/b.png"), SourceOptions(labels="none")
    ).labels.tolist() == [0, 0]


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("cat/a.png", "dog/b.png")])
def test_a_table_beside_the_images_is_told_and_not_guessed(names: tuple[str, ...], tmp_path: Path) -> None:
    """As a folder of images on a hub has it."""
    touch(tmp_path, *names)
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{names[0]},1\n{names[1]},0\n")
    said = f"labels={tmp_path / 'metadata.csv'}"
    assert any(f"metadata.csv not read: if it holds labels, say {said}" in note for note in open_source(tmp_path).notes)
    assert open_source(tmp_path, SourceOptions(labels=said.partition("=")[2])).labels.tolist() == [1, 0], (
        "what is said works"
    )


def test_images_beside_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png", "preview.png")
    found = open_source(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert "of them 1 image beside the class folders" in found.notes
    touch(tmp_path, "1.png", "2.png")
    told = refused(tmp_path)
    assert "3 images beside its folders and 2 in them (cat, dog)" in told
    assert len(open_source(tmp_path, SourceOptions(labels="none"))) == 5
    assert len(open_source(tmp_path, SourceOptions(labels="folders"))) == 2


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png")
    before = open_source(tmp_path)
    touch(tmp_path, "annotations/a.xml")
    (tmp_path / "bird").mkdir()
    found = open_source(tmp_path)
    assert found.checksum() == before.checksum()
    assert "2 folders without images, so no classes: annotations, bird" in found.notes


def test_classes_called_by_numbers_are_told_where_they_sort_as_text(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/a.png" for number in range(12)))
    found = open_source(tmp_path)
    assert found.classes[3] == "11"
    (note,) = found.notes
    assert "class 2 is called 10" in note
    assert "label=name:10" in note
    assert open_source(touch(tmp_path / "few", *(f"{number}/a.png" for number in range(10)))).notes == ()


@pytest.mark.parametrize("locked", ["dog", "cat/deep", "."])
def test_a_folder_that_may_not_be_read_is_named(locked: str, in_public: Path) -> None:
    root = touch(in_public / "images", "cat/deep/a.png", "cat/b.png", "dog/c.png")
    (root / locked).chmod(0o000)

    def look() -> None:
        for labels in (None, "none", "folders"):
            told = refused(root, labels=labels)
            assert told.startswith(f"{root / locked}: permission denied while listing the images")

    as_nobody(look)


def test_links_that_go_round_are_an_error_and_not_forty_copies(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    assert "listing the images" in refused(tmp_path)


@pytest.mark.parametrize(
    ("names", "say"),
    [
        ((), "has no images: wanted are image files"),
        (("notes.txt",), "has no images: wanted are image files"),
        (("dataset.zip",), "has no images: unpack dataset.zip"),
        (("train-00.tar", "train-01.tar", "train-02.tar"), "unpack train-00.tar, train-01.tar and 1 more"),
    ],
)
def test_a_folder_without_images(names: tuple[str, ...], say: str, tmp_path: Path) -> None:
    assert say in refused(touch(tmp_path, *names))


def test_a_file_that_is_no_data_set(tmp_path: Path) -> None:
    touch(tmp_path, "dataset.zip", "a.png")
    assert "is a file, not a folder: unpack dataset.zip" in refused(tmp_path / "dataset.zip")
    assert "is a file, not a folder, nor a parquet, arrow, .npz, .npy or IDX file" in refused(tmp_path / "a.png")
    assert "does not exist" in refused(tmp_path / "nothing")


@pytest.mark.parametrize("key", ["image_key", "label_key", "split"])
def test_keys_of_tables_mean_nothing_for_files(key: str, tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png")
    assert f"{key} is for parquet and arrow files, and it holds none: leave it away" in refused(tmp_path, **{key: "x"})
