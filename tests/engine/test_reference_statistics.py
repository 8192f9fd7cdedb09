"""`python -m fcdm.prepare reference`: one file, however often it is killed and however many processes make it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcdm.data.image_sources import open_source
from fcdm.engine import reference_statistics
from fcdm.engine.distributed import Ranks
from fcdm.engine.reference_statistics import open_reference
from fcdm.engine.streamed_metrics import ReferenceMeasure
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.features import open_extractor
from fcdm.features.find_reference import reference_identity
from fcdm.features.reference import read_reference
from fcdm.features.space import Space
from fcdm.prepare import main
from fcdm.runs.protocol import protocol_of
from fcdm.runs.run_lock import claim
from tests.support.commands import composing, environment, ranks_of
from tests.support.sample_metrics import write_reference_of
from tests.support.silent import Silent
from tests.support.small_extractor import SMALL
from tests.support.tiny_dinov2 import save_dinov2
from tests.support.tiny_images import bad_images, encoded, make_folder, picture

HOW = ("resolution=8", "batch=3", "keep=7", "device=cpu", "workers=2")


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few features in Inception's place; the cache folder is the test's own."""
    monkeypatch.setattr("fcdm.features.space.open_extractor", lambda *_: SMALL)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 26)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """What a pass over all images in memory gives."""
    from fcdm.images.crop import pillow_settings, read_square

    source = open_source(images)
    with pillow_settings():
        squares = np.stack([read_square(images / name, 8) for name in source.names])
    out = tmp_path_factory.mktemp("whole") / "r.npz"
    write_reference_of(out, torch.from_numpy(squares).permute(0, 3, 1, 2).split(3), SMALL, keep=7)
    return out


def prepare(images: Path, out: Path, *more: str) -> int:
    return main(["reference", f"images={images}", f"out={out}", *HOW, *more])


def one_line(capsys: Any) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fcdm.prepare: ")]
    assert len(lines) == 1, lines
    return str(lines[0])


def test_the_same_images_give_the_same_file_and_again_it_is_whole(
    images: Path, whole: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "new" / "r.npz"
    assert prepare(images, out) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["r.npz", "r.npz.json"]
    said = capsys.readouterr()
    assert f"evaluation.reference={out}" in said.out
    assert "1 image with an EXIF orientation: it is ignored" in said.err
    made = out.stat().st_mtime_ns
    assert prepare(images, out, "batch=5") == 0
    assert "is whole already" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == made
    facts = json.loads((out.parent / "r.npz.json").read_text())
    assert (facts["images"], facts["resolution"], facts["left_out"]) == (26, 8, [])
    assert facts["exif_orientation"] == 1


def test_other_images_and_other_files_are_refused(images: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "r.npz"
    assert prepare(images, out) == 0
    make_folder(tmp_path / "others", 20)
    capsys.readouterr()
    for words, told in (
        (["images=" + str(tmp_path / "others")], "is the reference of other images (26; "),
        (["resolution=9"], "is a reference with resolution 8, not 9"),
        (["keep=8"], "is a reference with keep 7, not 8"),
    ):
        assert prepare(images, out, *words) == 1
        said = one_line(capsys)
        assert told in said
        assert "out=<another file>" in said
        assert prepare(images, tmp_path / "another.npz", *words) == 0, "the advice works"
        (tmp_path / "another.npz").unlink()
        capsys.readouterr()
    facts = tmp_path / "r.npz.json"
    facts.rename(tmp_path / "gone")
    assert prepare(images, out) == 1
    assert "is there already, and no r.npz.json beside it says of which images" in one_line(capsys)
    (tmp_path / "gone").rename(facts)
    out.write_bytes(b"other")
    assert prepare(images, out) == 1
    assert "is not the file that" in one_line(capsys)
    for words, told in (
        (["batch=0"], "batch=0 cannot be"),
        (["workers=0"], "workers=0 cannot be"),
        (["images=gone"], "gone: there is no such file or folder"),
        (["range=0..1"], "leave range=0..1 away"),
    ):
        assert prepare(images, out, *words) == 1
        assert told in one_line(capsys)


def overwrite(path: Path, seed: int) -> None:
    path.write_bytes(encoded(Image.fromarray(picture(seed)), "PNG"))


def test_images_that_changed_under_their_names_are_other_images(images: Path, tmp_path: Path, capsys: Any) -> None:
    out, mine = tmp_path / "r.npz", tmp_path / "gen"
    mine.mkdir()
    for number in range(6):
        overwrite(mine / f"{number}.png", number)
    assert prepare(mine, out) == 0
    shutil.copytree(mine, tmp_path / "copy")
    assert prepare(tmp_path / "copy", out) == 0, "the same images elsewhere"
    overwrite(mine / "3.png", 50)
    capsys.readouterr()
    assert prepare(mine, out) == 1
    assert f"is the reference of {mine} before its images changed: remove it, or say out=" in one_line(capsys)
    facts = tmp_path / "r.npz.json"
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k != "content"}))
    assert prepare(mine, out) == 0, "a file of an older version does not tell"


def test_what_was_measured_of_images_that_changed_is_measured_again(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "gen"
    mine.mkdir()
    for number in range(6):
        overwrite(mine / f"{number}.png", number)
    whole = (mine / "5.png").read_bytes()
    (mine / "5.png").write_bytes(whole[:50])
    assert prepare(mine, tmp_path / "r.npz") == 1, "one cannot be read"
    overwrite(mine / "0.png", 50)
    (mine / "5.png").write_bytes(whole)
    assert prepare(mine, tmp_path / "r.npz") == 0
    assert prepare(mine, tmp_path / "anew.npz") == 0
    assert (tmp_path / "r.npz").read_bytes() == (tmp_path / "anew.npz").read_bytes()
    # While they are measured:
    update = reference_statistics._ReferenceMeasure.update

    def changes(self: Any, batch: torch.Tensor, first: int) -> None:
        update(self, batch, first)
        if first == 3:
            overwrite(mine / "1.png", 51)

    with monkeypatch.context() as patch:
        patch.setattr(reference_statistics._ReferenceMeasure, "update", changes)
        capsys.readouterr()
        assert prepare(mine, tmp_path / "b.npz") == 1
        assert f"1 images changed while they were measured, first {mine / '1.png'}: run this again" in one_line(capsys)
    assert not (tmp_path / "b.npz").exists()
    assert prepare(mine, tmp_path / "b.npz") == 0
    (tmp_path / "anew.npz").unlink()
    assert prepare(mine, tmp_path / "anew.npz") == 0
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "anew.npz").read_bytes()


KILLED = """
import os, signal, sys
from fcdm.engine import reference_statistics as reference
from fcdm.errors import UserError
from fcdm.features import space
from fcdm.features.find_reference import reference_identity
from fcdm.prepare import main
from tests.support.small_extractor import SMALL

where, count = sys.argv.pop(1), int(sys.argv.pop(1))

def dies(real):
    def counted(*arguments, **more):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return counted

space.open_extractor = lambda *_: SMALL
reference._ReferenceMeasure.save_every_s = 0.0
if where == "update":
    reference._ReferenceMeasure.update = dies(reference._ReferenceMeasure.update)
elif where:
    setattr(reference, where, dies(getattr(reference, where)))
sys.exit(main(sys.argv[1:]))
"""


def start(where: str, count: int, *words: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, where, str(count), "reference", *HOW, *words],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("where", "count"), [("update", 6), ("write_json", 1)], ids=["in the middle", "before the file has its name"]
)
def test_killed_and_started_again_it_is_the_same_file(
    where: str, count: int, images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.npz"
    with start(where, count, f"images={images}", f"out={out}") as process:
        process.communicate(timeout=300)
    assert process.returncode == -9
    assert not out.exists()
    measured: list[int] = []
    update = reference_statistics._ReferenceMeasure.update

    def counted(self: Any, batch: torch.Tensor, first: int) -> None:
        measured.append(first)
        update(self, batch, first)

    monkeypatch.setattr(reference_statistics._ReferenceMeasure, "update", counted)
    assert prepare(images, out) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert measured == ([15, 18, 21, 24] if where == "update" else []), "what was measured is not measured again"
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")}
    assert left - {"home"} == {"r.npz", "r.npz.json"}


@pytest.mark.slow
def test_two_processes_take_a_share_each(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"
    bad = tmp_path / "images"
    shutil.copytree(images, bad)
    for number, (name, data) in enumerate(bad_images().items()):
        (bad / f"n0{1 + number % 2}-{'fish' if number % 2 == 0 else 'bird'}" / f"z{name}").write_bytes(data)
    words = (f"images={bad}", f"out={out}", "unreadable=skip")
    processes = [start("", 0, *words, PYTHONUNBUFFERED="1", **rank) for rank in ranks_of(2)]
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[1][0] == "", "one of them speaks"
    facts = json.loads((tmp_path / "r.npz.json").read_text())
    assert (facts["processes"], facts["images"], len(facts["left_out"])) == (2, 26, 5)
    with np.load(out) as both, np.load(whole) as alone:
        for key in ("mu", "sigma", "mu_s", "sigma_s"):
            np.testing.assert_allclose(both[key], alone[key], rtol=1e-10, atol=1e-12)
        assert np.array_equal(both["arr_0"], alone["arr_0"]), "the same images are kept, and the bad ones are none"


def test_unreadable_images_are_all_named_and_mended_or_left_out(
    images: Path, whole: Path, tmp_path: Path, capsys: Any
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "r.npz"
    shutil.copytree(images, mine)
    victim = next(path for path in sorted((mine / "n02-bird").iterdir()) if path.name.startswith("plain"))
    was = victim.read_bytes()
    victim.write_bytes(was[: len(was) // 2])
    (mine / "n03-dog" / "zz.png").write_bytes(b"")
    assert prepare(mine, out) == 1
    said = capsys.readouterr().err
    assert victim.name in said
    assert "zz.png: the file is empty" in said
    assert "2 of 27 images cannot be read, listed above and in " in said
    (list_of,) = re.findall(r"in (\S+unreadable\.txt): put", said)
    assert len(Path(list_of).read_text().splitlines()) == 2
    assert not out.exists()

    # One is mended, the other removed by the advice of the message, word for word.
    victim.write_bytes(was)
    (command,) = re.findall(r"`python -m fcdm\.prepare (reference .*?)`", said)
    assert main([*shlex.split(command), *HOW[1:]]) == 0
    facts = json.loads((tmp_path / "r.npz.json").read_text())
    assert (facts["images"], len(facts["left_out"])) == (26, 1)
    with np.load(out) as mended, np.load(whole) as alone:
        np.testing.assert_allclose(mended["sigma"], alone["sigma"], rtol=1e-10, atol=1e-12)
        assert np.array_equal(mended["arr_0"], alone["arr_0"])


def test_a_huge_image_is_refused_with_a_word_that_helps(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    make_folder(tmp_path / "i", 4, odd=False)
    monkeypatch.setattr("fcdm.images.crop.LARGEST", 1000)
    assert prepare(tmp_path / "i", tmp_path / "r.npz") == 1
    assert "(--huge takes it)" in capsys.readouterr().err
    assert prepare(tmp_path / "i", tmp_path / "r.npz", "--huge") == 0
    # The same of a reference of images elsewhere: what the advice made is taken there.
    with pytest.raises(UserError) as error:
        open_reference(tmp_path / "i", 8, worker())
    (advice,) = re.findall(r"`python -m fcdm\.prepare (reference .*) unreadable=skip (.*?)`", str(error.value))
    assert main([*shlex.split(" ".join(advice)), *HOW[1:2], *HOW[3:], "--huge"]) == 0
    assert open_reference(tmp_path / "i", 8, worker()).count == 4


def test_arrays_and_folders_without_classes_make_a_reference(images: Path, whole: Path, tmp_path: Path) -> None:
    from fcdm.images.crop import pillow_settings, read_square

    with pillow_settings():
        squares = np.stack([read_square(images / name, 8) for name in open_source(images).names])
    np.save(tmp_path / "a.npy", (squares / np.float32(127.5) - 1).astype(np.float32).transpose(0, 3, 1, 2).copy())
    np.savez(tmp_path / "a.npz", squares)
    (tmp_path / "flat").mkdir()
    for number, square in enumerate(squares):
        (tmp_path / "flat" / f"{number}.png").write_bytes(encoded(Image.fromarray(square), "PNG"))
    for name, more in (("a.npy", ["range=-1..1"]), ("a.npz", []), ("flat", [])):
        out = tmp_path / f"{name}.reference.npz"
        assert prepare(tmp_path / name, out, *more) == 0
        assert out.read_bytes() == whole.read_bytes()


def test_tables_make_the_reference_of_their_images(images: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    source = open_source(images)
    rows = [{"bytes": (images / name).read_bytes(), "path": name} for name in source.names]
    (tmp_path / "hf").mkdir()
    parquet.write_table(
        arrow.table({"image": rows, "label": source.labels}), tmp_path / "hf" / "train-00000-of-00001.parquet"
    )
    table = tmp_path / "hf" / "train-00000-of-00001.parquet"
    for number, path in enumerate((tmp_path / "hf", table)):
        assert prepare(path, tmp_path / f"{number}.npz") == 0
        assert (tmp_path / f"{number}.npz").read_bytes() == whole.read_bytes()
    assert prepare(table, tmp_path / "r.npz", "range=0..1") == 1
    assert "range= is for arrays" in one_line(capsys)
    assert prepare(images, tmp_path / "r.npz", "split=train") == 1
    assert "split= is for parquet and arrow files" in one_line(capsys)
    # Of several splits one is asked for, and the answer works.
    table.rename(table.with_name("val-00000-of-00001.parquet"))
    shutil.copy(table.with_name("val-00000-of-00001.parquet"), table.with_name("test-00000-of-00001.parquet"))
    assert prepare(tmp_path / "hf", tmp_path / "r.npz") == 1
    (advice,) = set(re.findall(r"split=validation", one_line(capsys)))
    assert prepare(tmp_path / "hf", tmp_path / "r.npz", advice) == 0
    assert (tmp_path / "r.npz").read_bytes() == whole.read_bytes()
    # The same names and labels, other pixels.
    rows[0]["bytes"] = encoded(Image.fromarray(picture(77)), "PNG")
    parquet.write_table(
        arrow.table({"image": rows, "label": source.labels}), table.with_name("val-00000-of-00001.parquet")
    )
    assert prepare(tmp_path / "hf", tmp_path / "r.npz", advice) == 1
    assert "before its images changed" in one_line(capsys)


def test_folders_of_several_splits_are_not_mixed(images: Path, tmp_path: Path, capsys: Any) -> None:
    """An ILSVRC root; a folder called `train` alone may be a class."""
    shutil.copytree(images, tmp_path / "ilsvrc" / "train")
    assert prepare(tmp_path / "ilsvrc", tmp_path / "r.npz") == 0
    (tmp_path / "r.npz").unlink()
    (tmp_path / "ilsvrc" / "val").mkdir()
    (tmp_path / "ilsvrc" / "val" / "1.png").write_bytes(encoded(Image.fromarray(picture(1)), "PNG"))
    assert prepare(tmp_path / "ilsvrc", tmp_path / "r.npz") == 1
    said = one_line(capsys)
    assert f"which would be mixed: name one of them, such as {tmp_path / 'ilsvrc' / 'train'}" in said
    assert prepare(tmp_path / "ilsvrc" / "train", tmp_path / "r.npz") == 0
    with pytest.raises(UserError, match="which would be mixed"):
        reference_identity(tmp_path / "ilsvrc", 8)


@pytest.mark.parametrize(
    ("folders", "one"),
    [
        (["train_set", "val_set"], "train_set"),
        (["train-images", "test-images", "more"], "train-images"),
        (["imgs/train2017", "imgs/val2017"], "imgs/train2017"),
        (["test", "my-train"], "my-train"),
    ],
)
def test_splits_within_names_are_not_mixed_either(folders: list[str], one: str, tmp_path: Path, capsys: Any) -> None:
    for folder in folders:
        (tmp_path / "i" / folder).mkdir(parents=True)
        for number in range(3):
            overwrite(tmp_path / "i" / folder / f"{number}.png", number)
    assert prepare(tmp_path / "i", tmp_path / "r.npz") == 1
    (advice,) = re.findall(r"mixed: name one of them, such as (.*)", one_line(capsys))
    assert advice == str(tmp_path / "i" / one)
    assert prepare(Path(advice), tmp_path / "r.npz") == 0
    with pytest.raises(UserError, match="which would be mixed"):
        reference_identity(tmp_path / "i", 8)
    with pytest.raises(UserError, match=f"say images={advice}"):
        open_source(tmp_path / "i")
    assert len(open_source(tmp_path / "i" / one)) == 3


@pytest.mark.parametrize(
    "classes", [["train_station"], ["train_station", "airplane"], ["bullet train", "test tube", "a", "b", "c"]]
)
def test_a_class_may_have_such_a_word_in_its_name(classes: list[str], tmp_path: Path) -> None:
    for name in classes:
        (tmp_path / name).mkdir()
        overwrite(tmp_path / name / "0.png", 0)
    assert reference_identity(tmp_path, 8)
    assert len(open_source(tmp_path).classes) == len(classes)


def worker() -> Worker:
    return Worker(Ranks(0, 1, torch.device("cpu")), Silent())


def test_a_reference_of_images_is_made_once_and_kept_beside_them_or_in_the_cache(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "data" / "mine"
    shutil.copytree(images, mine)
    first = open_reference(mine, 8, worker())
    assert first.path.parent == tmp_path / "data"
    assert first.path.name.startswith("mine.8px-inception@")
    made = first.path.stat().st_mtime_ns
    assert open_reference(mine, 8, worker()).path.stat().st_mtime_ns == made
    assert open_reference(mine, 9, worker()).path != first.path
    (mine / "n03-dog" / "new.png").write_bytes(encoded(Image.fromarray(picture(500)), "PNG"))
    assert open_reference(mine, 8, worker()).count == 27, "other images, another file"
    monkeypatch.setattr("fcdm.features.find_reference.os.access", lambda *_: False)
    (mine / "n03-dog" / "newer.png").write_bytes(encoded(Image.fromarray(picture(501)), "PNG"))
    assert open_reference(mine, 8, worker()).path.parent == tmp_path / "home/.cache/fcdm/references"


def test_who_comes_second_waits_for_the_first(
    images: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of one study reach the first evaluation together."""
    mine = tmp_path / "mine"
    shutil.copytree(images, mine)
    out = open_reference(mine, 8, worker()).path
    out.rename(tmp_path / "made.npz")
    work = out.with_name(f".{out.name}")
    holder = claim(work)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        (tmp_path / "made.npz").rename(out)
        holder.release()

    monkeypatch.setattr("fcdm.engine.worker.time.sleep", sleep)
    assert open_reference(mine, 8, worker()).count == 26
    assert len(waited) == 1


def of_dinov2(images: Path, out: Path, *more: str) -> int:
    return main(["reference", f"images={images}", f"out={out}", "resolution=8", "batch=9", "device=cpu", *more])


def test_any_extractor_has_references(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same commands and files, whose statistics are of the features that were asked for."""
    monkeypatch.setattr("fcdm.features.space.open_extractor", open_extractor)
    folder = save_dinov2(tmp_path / "tiny")
    out = tmp_path / "r.npz"
    assert of_dinov2(images, out, "features=dinov2-pil", f"dinov2={folder}", "keep=7") == 0
    found = read_reference(out)
    extractor = open_extractor("dinov2-pil", weights=folder)
    assert (found.extractor, found.count) == (extractor.id, 26)
    assert found.images is not None
    assert found.images.count == 7
    found.check_extractor(extractor)
    with pytest.raises(UserError, match="made with dinov2-32-224-pil@"):
        found.check_extractor(open_extractor("dinov2", weights=folder))
    worker = Worker(Ranks(0, 1, torch.device("cpu")), Silent())
    shutil.copytree(images, tmp_path / "real")
    made = open_reference(tmp_path / "real", 8, worker, Space("dinov2-pil", folder))
    assert made.extractor == extractor.id
    assert extractor.id in made.path.name
    np.testing.assert_allclose(made.pool[0], found.pool[0], rtol=1e-5, atol=1e-5)


def test_a_model_is_named_for_dinov2_only(images: Path, tmp_path: Path, capsys: Any) -> None:
    assert of_dinov2(images, tmp_path / "r.npz", "dinov2=x") == 1
    assert one_line(capsys).endswith("dinov2=x has no effect at features=inception: leave it away")


def test_inceptions_statistics_are_refused_for_others(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path / "tiny")
    adm = tmp_path / "VIRTUAL_imagenet256_labeled.npz"
    np.savez(adm, mu=np.zeros(2048), sigma=np.eye(2048), arr_0=np.zeros((5, 8, 8, 3), np.uint8))
    words = ["model=S", "data.path=nowhere", f"evaluation.reference={adm}", "evaluation.features=dinov2"]
    with composing() as composer:
        config = composer.config([*words, f"evaluation.dinov2={folder}", "resolution=8", "data.downsample=1"])
    config.data.path = None
    with pytest.raises(UserError) as error:
        protocol_of(config)
    assert str(error.value) == (
        f"evaluation.reference={adm} holds statistics of Inception, and not of evaluation.features=dinov2: say "
        "evaluation.reference=<a folder, .npz or .npy of the real images>, of which its own are made once, or what "
        "`python -m fcdm.prepare reference features=dinov2 images=...` makes"
    )
    config.evaluation.features = "inception"
    assert protocol_of(config)["reference"].startswith("8px@")


def test_a_distance_to_a_reference_of_dinov2(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images for each feature make a Fréchet distance, with a floor; fewer a kernel distance alone."""
    monkeypatch.setattr("fcdm.features.space.open_extractor", open_extractor)
    folder = save_dinov2(tmp_path / "tiny", hidden_size=2)
    np.save(tmp_path / "real.npy", np.stack([picture(number, 8, 8) for number in range(24)]))
    worker = Worker(Ranks(0, 1, torch.device("cpu")), Silent())
    space = Space("dinov2", folder)
    reference = open_reference(tmp_path / "real.npy", 8, worker, space)
    notes: list[str] = []

    def measured(count: int) -> tuple[dict[str, float], dict[str, float]]:
        measure = ReferenceMeasure(reference, worker.ranks.device, space)
        samples = torch.from_numpy(np.stack([picture(number, 8, 8) for number in range(50, 50 + count)]))
        measure.update(samples.permute(0, 3, 1, 2), 0)
        return measure.result(worker.ranks, notes.append)

    metrics, floor = measured(20)
    assert set(metrics) == {"fid", "kid", "kid_se", "precision", "recall"}
    assert set(floor) == {"fid", "fid_sd"}
    assert notes == []
    metrics, floor = measured(19)
    assert set(metrics) == {"kid", "kid_se", "precision", "recall"}
    assert floor == {}
    assert notes == [
        "19 images for 2 features: a Fréchet distance wants 10 for each, so that the kernel distance is what is told"
    ]
