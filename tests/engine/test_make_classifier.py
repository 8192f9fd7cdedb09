"""The classifier of a store: what it learns, that it has learned it, that it is made once and of that store alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fcdm.data.manifest import LABELS
from fcdm.data.pixel_store import PixelStore
from fcdm.data.shards import write_npy
from fcdm.engine.distributed import Ranks
from fcdm.engine.make_classifier import make_classifier
from fcdm.engine.stop import Stopped
from fcdm.engine.streamed_metrics import StoreMeasure
from fcdm.engine.worker import Worker
from fcdm.errors import UserError, as_options
from fcdm.evaluate import main as evaluate_command
from fcdm.features import NONE_YET, extractor_id, open_extractor
from fcdm.features.classifier_files import ClassifierFiles, find_classifier
from fcdm.features.enough_images import Parts, why_no_classifier
from fcdm.features.space import Space
from fcdm.features.train_classifier import has_learned, lesson_of, turned
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.store_classifier import make_classifiers
from fcdm.prepare import _parser as prepare_parser
from fcdm.prepare import main
from tests.support.commands import TINY, Command, composing, environment
from tests.support.shape_store import shapes, tiny_pixels
from tests.support.silent import Silent
from tests.support.tiny_store import tiny_store


@pytest.fixture(autouse=True)
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("fcdm.features.train_classifier.STEPS", 25)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three shapes with its classifier; to be copied by tests that change it."""
    folder = tiny_pixels(tmp_path_factory.mktemp("store") / "shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcdm.features.train_classifier.STEPS", 25)
        make_classifier(PixelStore(folder), worker())
    return folder


def worker() -> Worker:
    return Worker(Ranks(0, 1, torch.device("cpu")), Silent())


def files(folder: Path) -> ClassifierFiles:
    found = find_classifier(folder, PixelStore(folder).checksum)
    assert found is not None
    return found


def test_the_same_store_gives_the_same_classifier_and_says_how_well_it_reads(
    made: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("features"))
    assert main(["features", f"data.path={folder}"]) == 0
    said = capsys.readouterr()
    path = folder / "features" / "classifier.json"
    pattern = (
        rf"{path}: classifier@[0-9a-f]{{8}}, made in [\d.]+ s: 3 classes, [\d.]+ % and [\d.]+ % right of 60 images "
    )
    assert re.search(pattern + r"that they never saw \(chance 33\.3 %\)", said.out), said.out
    assert "2 small networks learn 3 classes on 120 images that no generator sees" in said.err
    assert files(folder).id == files(made).id
    assert sorted(kept.name for kept in path.parent.iterdir()) == ["classifier.json", "classifier.safetensors"]
    facts = json.loads(path.read_text())
    assert (facts["store"], facts["task"], facts["seeds"]) == (PixelStore(folder).checksum, "labels", [0, 1])
    assert min(facts["accuracy"]) > 0.6
    changed = path.stat().st_mtime_ns
    assert main(["features", f"--data.path={folder}"]) == 0
    assert "there already" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == changed
    assert main(["features", f"data.path={folder}", "task=rotations"]) == 1
    assert "stands, and has learned labels: leave task= away" in capsys.readouterr().err


def test_its_features_are_64_and_of_each_image_alone(made: Path) -> None:
    extractor = open_extractor("classifier", weights=made, store=PixelStore(made).checksum)
    images = torch.from_numpy(shapes(np.arange(300, dtype=np.int32), seed=3))
    found = extractor(images)
    assert (found.shape, found.dtype, extractor.dim) == ((300, 64), torch.float32, 64)
    torch.testing.assert_close(found[298:], extractor(images[298:]), rtol=1e-4, atol=1e-5)
    assert extractor.second is not None
    assert (extractor.second(images) - found).abs().max() > 0.1
    with pytest.raises(UserError, match=r"reads images \(1, 16, 16\) of its store alone, got \(3, 16, 16\)"):
        extractor(images.expand(-1, 3, -1, -1))


def test_both_networks_measure(made: Path) -> None:
    store = PixelStore(made)
    measure = StoreMeasure(store, worker(), Space("classifier", made, 1, store=store.checksum))
    measure.update(torch.from_numpy(shapes(np.arange(20, dtype=np.int32), seed=3)), 0)
    metrics, floor = measure.result(worker().ranks, str)
    of_one = {"kid", "kid_se", "kid_heldout", "kid_heldout_se", "precision", "recall", "data_copying"}
    assert set(metrics) == of_one | {f"{key}_second" for key in of_one}
    assert metrics["kid"] != metrics["kid_second"]
    assert set(floor) == {f"kid_heldout_against_train{end}" for end in ("", "_se", "_second", "_se_second")}


def lesson(labels: list[int], task: str = "auto", tests: int = 60, **more: Any) -> Any:
    counted = np.array(labels)
    images = np.zeros((len(counted), 1, 16, 16), np.uint8)
    return lesson_of(images, counted, np.zeros((tests, 1, 16, 16), np.uint8), np.resize(counted, tests), task)


def test_labels_are_learned_where_enough_images_have_them() -> None:
    """At least 20 images of a class, two such classes, and nine tenths of the images in them."""
    assert lesson([0] * 20 + [7] * 20).task == "labels"
    assert lesson([0] * 20 + [7] * 20).classes == 2
    assert lesson([0] * 30 + [7] * 19).task == "rotations"
    assert lesson([0] * 100).task == "rotations", "unlabelled"
    few = lesson([0] * 50 + [1] * 50 + [2] * 2)
    assert (few.task, few.classes, len(few.images)) == ("labels", 2, 100), "one class with two images is left out"
    assert lesson([0] * 20 + [1] * 20 + list(range(2, 12))).task == "rotations", "a fifth would be left out"
    assert lesson(list(range(1000))).task == "rotations", "a class for each image"
    assert lesson([0] * 20 + [7] * 20, "rotations").task == "rotations"
    with pytest.raises(UserError, match=r"task=labels: 0 of 1000 classes have 20 images set aside"):
        lesson(list(range(1000)), "labels")


def test_too_few_images_for_it_are_told_with_what_would_do() -> None:
    """Of those set aside a fifth is tested on, where fewer than 40 are held out."""
    for enough in (Parts(4, 40, 40), Parts(4, 39, 200)):
        assert why_no_classifier(enough) is None
    for few in (Parts(900, 40, 39), Parts(900, 39, 199)):
        assert "make the store again by `fcdm.prepare images ... heldout=0.3 aside=0.4`" in str(why_no_classifier(few))
    told = why_no_classifier(Parts(8, 2, 2))
    assert told == (
        "the store has 2 images set aside and 2 held out, and a classifier wants 40 of each: say evaluation.features="
        "pixels, inception or dinov2, or make a store of 160 images or more by `fcdm.prepare images ... heldout=0.3 "
        "aside=0.4`"
    )


def test_chance_is_the_best_constant_answer() -> None:
    assert lesson([0] * 30 + [1] * 90, tests=120).chance == 0.75
    assert lesson([0] * 100, tests=60).chance == 0.25


def test_quarter_turns_are_the_answers() -> None:
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 1, 3, 3)
    found = turned(images, np.array([0, 1, 2, 3]))
    for number in range(4):
        np.testing.assert_array_equal(found[number, 0], np.rot90(images[number, 0], number))


def test_a_guess_has_not_learned() -> None:
    of = lesson([0, 1] * 20, tests=100)
    assert not has_learned(50, of)
    assert not has_learned(64, of), "P = 0.0033"
    assert has_learned(66, of), "P = 0.0009"


def test_where_nothing_can_be_learned_the_classifier_is_no_evaluator(tmp_path: Path, capsys: Any) -> None:
    folder = tiny_pixels(tmp_path / "store", shuffled_labels=True)
    for _ in range(2):  # the second time without training again
        assert main(["features", f"data.path={folder}"]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith(
            "fcdm.prepare: evaluation.features=classifier: the store's networks have not learned to read its images "
            "(3 classes, "
        )
        assert "say evaluation.features=pixels, inception or dinov2" in said
    assert "learn" not in said.partition("have not")[0]
    with pytest.raises(UserError, match="have not learned"):
        extractor_id("classifier", folder, store=PixelStore(folder).checksum)


def test_without_labels_it_learns_rotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcdm.features.train_classifier.STEPS", 50)
    folder = tiny_pixels(tmp_path / "store", classes=1, channels=3, side=20, pixels=None)
    found, made = make_classifier(PixelStore(folder), worker())
    assert made
    assert (found.facts["task"], found.facts["classes"], found.facts["chance"]) == ("rotations", 4, 0.25)
    assert min(found.facts["accuracy"]) > 0.5


def test_where_few_are_held_out_it_is_tested_on_a_fifth_of_each_class(tmp_path: Path) -> None:
    sections = (60, 210, 30)  # trained on, set aside, held out: each class by class, as folders are
    labels = np.concatenate([np.repeat(np.arange(3, dtype=np.int32), part // 3) for part in sections])
    folder = tiny_pixels(tmp_path / "store", heldout=30, aside=210, pixels=shapes(labels))
    write_npy(folder / LABELS, labels)
    found, _ = make_classifier(PixelStore(folder), worker())
    facts = found.facts
    assert (facts["task"], facts["taught"], facts["tested"]) == ("labels", 168, 42)
    assert facts["chance"] == pytest.approx(1 / 3)
    assert facts["learned"]


def test_a_classifier_of_another_store_is_refused(made: Path, tmp_path: Path) -> None:
    other = tiny_pixels(tmp_path / "other", images=240)
    shutil.copytree(made / "features", other / "features")
    store = PixelStore(other)
    with pytest.raises(UserError, match=r"classifier\.json is the classifier of another store .*: remove .*features"):
        extractor_id("classifier", other, store=store.checksum)
    with pytest.raises(UserError, match="is the classifier of another store"):
        make_classifier(store, worker())


def test_weights_that_are_not_its_own_are_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(made, folder)
    weights = folder / "features" / "classifier.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"classifier\.safetensors is not what .*classifier\.json tells of"):
        files(folder)


def test_ids_need_neither_torch_nor_a_classifier(made: Path, tmp_path: Path) -> None:
    checksum = PixelStore(made).checksum
    code = f"from fcdm.features import extractor_id; print(extractor_id('classifier', {str(made)!r}, 1, {checksum!r}))"
    code += "; import sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True, text=True)
    assert done.stdout.strip() == files(made).id
    none = tiny_pixels(tmp_path / "store")
    assert extractor_id("classifier", none, store=PixelStore(none).checksum) == NONE_YET
    with pytest.raises(UserError, match=r"`python -m fcdm\.prepare features data\.path=.*` makes it"):
        open_extractor("classifier", weights=none, store=PixelStore(none).checksum)


def test_of_latents_it_is_said_what_one_uses_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tiny_store(tmp_path / "latents")
    assert main(["features", f"data.path={store}"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{store} is a store of latents, and a classifier is of a store of pixels" in said
    (words,) = re.findall(r"`python -m fcdm\.prepare (reference .*?)`", said)
    assert prepare_parser().parse_args(as_options(words.replace("<its images>", "photos").split())).features == (
        "inception"
    )
    assert "then train with evaluation.reference=reference-64.npz (and evaluation.features=dinov2)" in said


def test_two_ranks_of_a_command_make_one(tmp_path: Path) -> None:
    """As composing starts them, each in a process of its own."""
    folder = tiny_pixels(tmp_path / "store")
    code = (
        "import fcdm.features.train_classifier as t; t.STEPS = 25; import fcdm.engine.worker as w; w.LOOK_AGAIN = 0.1; "
    )
    code += f"from fcdm.prepare import main; raise SystemExit(main(['features', 'data.path={folder}']))"
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted("there already" in out for out, _ in said) == [False, True]


def test_composing_makes_it_on_first_need_and_plans_do_not(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("features"))
    asked: list[str] = []

    def make(path: str) -> None:
        asked.append(path)
        shutil.copytree(made / "features", folder / "features")

    monkeypatch.setattr("fcdm.jobs.store_classifier._make", make)
    with composing() as composer:
        words = ["model=N", f"data.path={folder}", f"runs_dir={tmp_path / 'runs'}", *TINY]
        config = composer.config(words)
        pixels = composer.config([*words, "evaluation.features=pixels"])
    assert config.evaluation.features == "classifier"
    (job,) = make_jobs([config], data_needed=False)
    assert job.parts[0].protocol["features"] == NONE_YET
    make_jobs([pixels])
    assert asked == []
    (job,) = make_jobs([config, pixels])
    assert asked == [str(folder)]
    assert job.parts[0].protocol["features"] == files(folder).id
    make_jobs([config])
    assert asked == [str(folder)]


@pytest.mark.slow
def test_a_training_makes_it_announced_in_a_process_of_its_own(fcdm: Command, tmp_path: Path) -> None:
    """What goes wrong there is the command's own line; under torchrun's variables it is one process."""
    tiny_pixels(tmp_path / "few", aside=30)
    words = ("model=N", "data.path=few", "steps=1", "mlflow_uri=off", "device=cpu")
    done = fcdm(*words, RANK="0", WORLD_SIZE="1")
    assert done.returncode == 1
    assert "evaluation.features=classifier: few has none yet, so that it is made now, once" in done.stderr
    assert (
        "the store has 30 images set aside and 60 held out, and a classifier wants 40 of each"
        in done.stderr.splitlines()[-1]
    )


def test_nothing_is_asked_of_other_spaces() -> None:
    with composing() as composer:
        make_classifiers([composer.config(["model=N"])])


def test_evaluating_a_file_of_weights_makes_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its result is named by has the classifier's id in it."""
    folder = tiny_pixels(tmp_path / "store")
    weights = tmp_path / "mine.safetensors"
    save_file({"w": torch.zeros(1)}, weights)

    def make(path: str) -> None:
        raise UserError(f"made here: {path}")

    monkeypatch.setattr("fcdm.jobs.store_classifier._make", make)
    words = [str(weights), "model=N", "resolution=16", f"data.path={folder}", "device=cpu", f"out={tmp_path / 'out'}"]
    assert evaluate_command([*words, "features=classifier"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"made here: {folder}")


def test_a_signal_keeps_nothing_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_pixels(tmp_path / "store")

    def taught(lesson: Any, seed: int, looked: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        looked(64)

    monkeypatch.setattr("fcdm.features.train_classifier.train_classifier", taught)
    with pytest.raises(Stopped):
        main(["features", f"data.path={folder}"])
    said = capsys.readouterr().err.strip()
    assert "SIGTERM: stopping soon; of a classifier that is not whole nothing is kept" in said
    assert said.endswith("fcdm.prepare: stopped by SIGTERM, nothing is kept; the same command begins again")
    assert "saving" not in said
    assert not list((folder / "features").iterdir())
