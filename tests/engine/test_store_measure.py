"""A store of pixels as its own reference: features made once, and distances to what is trained on and held out."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcdm.config.schema import Config
from fcdm.data.pixel_store import PixelStore
from fcdm.engine import store_reference
from fcdm.engine.distributed import Ranks
from fcdm.engine.draw_and_measure import Drawn
from fcdm.engine.stop import Stopped
from fcdm.engine.store_reference import open_store_reference, read_by_all
from fcdm.engine.streamed_metrics import ReferenceMeasure, StoreMeasure, open_measure, result_of
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.features import open_extractor
from fcdm.features.space import Space
from fcdm.metrics.data_copying import data_copying
from fcdm.metrics.frechet import FeatureStatistics, frechet_distance
from fcdm.metrics.kernel_distance import kernel_distance
from fcdm.runs.protocol import protocol_of
from tests.support.commands import composing, environment
from tests.support.shape_store import shapes, tiny_pixels
from tests.support.silent import Silent
from tests.support.tiny_dinov2 import save_dinov2

PIXELS = Space("pixels", channels=3)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    """48 features of each RGB image: 500 to train on are enough for a Fréchet distance, and 100 held out are not."""
    return PixelStore(tiny_pixels(tmp_path / "store", images=700, channels=3, heldout=100, aside=100))


def worker() -> Worker:
    return Worker(Ranks(0, 1, torch.device("cpu")), Silent())


def samples_of(count: int, seed: int = 7) -> torch.Tensor:
    return torch.from_numpy(shapes(np.arange(count, dtype=np.int32), channels=3, seed=seed))


def by_hand(store: PixelStore, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return open_extractor("pixels", channels=3)(torch.from_numpy(store.read(indices))).numpy()


def statistics_of(features: np.ndarray[Any, Any]) -> FeatureStatistics:
    found = FeatureStatistics(features.shape[1])
    found.update(features)
    return found


def test_distances_are_to_the_stores_own_images(store: PixelStore) -> None:
    measure = StoreMeasure(store, worker(), PIXELS)
    samples = samples_of(480)
    for first in range(0, 480, 100):
        measure.update(samples[first : first + 100], first)
    metrics, floor = measure.result(worker().ranks, pytest.fail)
    mine = open_extractor("pixels", channels=3)(samples).numpy()
    train, heldout = by_hand(store, store.train_indices), by_hand(store, store.heldout_indices)
    assert metrics["fid"] == pytest.approx(frechet_distance(statistics_of(mine), statistics_of(train)), rel=1e-6)
    for key, real in (("kid", train), ("kid_heldout", heldout)):
        wanted = kernel_distance(mine, real)
        assert metrics[key] == pytest.approx(wanted.value, rel=1e-6)
        assert metrics[f"{key}_se"] == pytest.approx(wanted.standard_error, rel=1e-4)
    assert metrics["data_copying"] == pytest.approx(data_copying(mine, heldout, train), abs=1e-3)
    others = {"precision", "recall", "data_copying"}
    assert set(metrics) == {"fid", "kid", "kid_se", "kid_heldout", "kid_heldout_se"} | others
    assert set(floor) == {"fid", "fid_sd", "kid_heldout_against_train", "kid_heldout_against_train_se"}
    assert floor["fid"] < metrics["fid"]
    assert floor["kid_heldout_against_train"] == pytest.approx(kernel_distance(heldout, train).value, rel=1e-6)


def test_with_fewer_than_ten_samples_a_feature_the_kernel_distance_is_all(store: PixelStore) -> None:
    measure = StoreMeasure(store, worker(), PIXELS)
    measure.update(samples_of(479), 0)
    notes: list[str] = []
    metrics, floor = measure.result(worker().ranks, notes.append)
    assert set(metrics) == {"kid", "kid_se", "kid_heldout", "kid_heldout_se", "precision", "recall", "data_copying"}
    assert "fid" not in floor
    assert notes == [
        "479 images for 48 features: a Fréchet distance wants 10 for each, so that the kernel distance is what is told"
    ]


def test_a_distance_to_held_out_images_where_they_are_enough(tmp_path: Path) -> None:
    store = PixelStore(tiny_pixels(tmp_path / "store", images=1100, channels=3, heldout=500, aside=100))
    measure = StoreMeasure(store, worker(), PIXELS)
    measure.update(samples_of(480), 0)
    metrics, floor = measure.result(worker().ranks, pytest.fail)
    assert {"fid", "fid_heldout"} <= set(metrics)
    train, heldout = by_hand(store, store.train_indices), by_hand(store, store.heldout_indices)
    wanted = frechet_distance(statistics_of(train), statistics_of(heldout))
    assert floor["fid_heldout_against_train"] == pytest.approx(wanted, rel=1e-6)


def test_the_headline_may_be_to_held_out_images(tmp_path: Path) -> None:
    """The same numbers, of which others come first."""
    store = PixelStore(tiny_pixels(tmp_path / "store", images=1100, channels=3, heldout=500, aside=100))
    found = {}
    for headline in ("train", "heldout"):
        measure = StoreMeasure(store, worker(), PIXELS, headline=headline)
        measure.update(samples_of(480), 0)
        found[headline] = measure.result(worker().ranks, pytest.fail)
    (train, train_floor), (held, held_floor) = found["train"], found["heldout"]
    for key in ("fid", "kid", "kid_se"):
        beside = f"{key.removesuffix('_se')}_{{}}{'_se' if key.endswith('_se') else ''}"
        assert held[key] == pytest.approx(train[beside.format("heldout")]) != train[key]
        assert held[beside.format("train")] == pytest.approx(train[key])
    assert held["data_copying"] == pytest.approx(train["data_copying"])
    assert held["precision"] != train["precision"]
    assert held_floor["fid_heldout_against_train"] == pytest.approx(train_floor["fid_heldout_against_train"])
    assert held_floor["fid"] != train_floor["fid"]


def test_a_headline_wants_held_out_images(tmp_path: Path) -> None:
    store = PixelStore(tiny_pixels(tmp_path / "store", images=700, channels=3, heldout=3, aside=100))
    with pytest.raises(UserError, match=r"evaluation.headline=heldout: \S+ holds out fewer than 4 images"):
        StoreMeasure(store, worker(), PIXELS, headline="heldout")


def test_copies_are_looked_for_among_all_training_images(store: PixelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also among those that no kernel distance looks at; a file that keeps fewer is made again."""
    monkeypatch.setattr(store_reference, "KEEP", 50)
    with monkeypatch.context() as earlier:
        earlier.setattr(store_reference, "KEEP_TRAIN", 50)
        assert len(open_store_reference(store, PIXELS.open(CPU), worker()).train.many) == 50
    measure = StoreMeasure(store, worker(), PIXELS)
    assert len(measure.references[""].train.kept) == 50
    copies = store.read(store.train_indices[::5])
    measure.update(torch.from_numpy(copies), 0)
    metrics, _ = measure.result(worker().ranks, lambda _: None)
    assert metrics["data_copying"] > 0.99


def test_it_goes_on_where_it_was_left(store: PixelStore, tmp_path: Path) -> None:
    samples, straight = samples_of(30), StoreMeasure(store, worker(), PIXELS)
    straight.update(samples[:20], 0)
    straight.update(samples[20:], 20)
    left = Drawn(StoreMeasure(store, worker(), PIXELS), tmp_path / "partial.npz")
    left.add(samples[:20], 0)
    left.save()
    again = Drawn(StoreMeasure(store, worker(), PIXELS), tmp_path / "partial.npz")
    assert again.batches == 1
    again.add(samples[20:], 20)
    ranks = worker().ranks
    assert again.measure.result(ranks, str) == straight.result(ranks, str)  # type: ignore[attr-defined]


def test_features_are_made_once_and_kept_in_the_store(store: PixelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = open_extractor("pixels", channels=3)
    found = open_store_reference(store, extractor, worker())
    path = store.folder / "features" / "pixels-4x4x3.npz"
    assert [kept.name for kept in path.parent.iterdir()] == [path.name]
    assert (found.train.count, found.heldout and found.heldout.count) == (500, 100)
    monkeypatch.setattr(store_reference, "draw_and_measure", lambda *_: pytest.fail("they are there"))
    again = open_store_reference(store, extractor, worker())
    np.testing.assert_array_equal(again.train.kept, found.train.kept)
    np.testing.assert_array_equal(again.train.pool[1], found.train.pool[1])


@pytest.mark.parametrize("damage", ["torn", "of another store"])
def test_what_is_not_of_this_store_is_made_again(store: PixelStore, tmp_path: Path, damage: str) -> None:
    extractor = open_extractor("pixels", channels=3)
    wanted = open_store_reference(store, extractor, worker())
    path = store.folder / "features" / "pixels-4x4x3.npz"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        other = PixelStore(tiny_pixels(tmp_path / "other", images=90, channels=3, heldout=10, aside=10))
        open_store_reference(other, extractor, worker())
        shutil.copy(other.folder / "features" / path.name, path)
    found = open_store_reference(store, extractor, worker())
    np.testing.assert_array_equal(found.train.kept, wanted.train.kept)


def test_of_many_images_some_features_are_kept(store: PixelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_reference, "KEEP", 40)
    found = open_store_reference(store, open_extractor("pixels", channels=3), worker())
    train = by_hand(store, store.train_indices)
    assert found.train.kept.shape == (40, 48)
    assert found.train.count == 500
    np.testing.assert_allclose(found.train.pool[0], train.mean(0, dtype=np.float64), rtol=1e-6)
    rows = {row.tobytes() for row in train}
    assert all(row.tobytes() in rows for row in found.train.kept)
    assert not all(row.tobytes() in {first.tobytes() for first in train[:40]} for row in found.train.kept)


def test_a_store_that_cannot_be_written_leaves_them_in_the_cache_folder(
    store: PixelStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcdm.features.store_folder.os.access", lambda *_: False)  # root may write anywhere
    open_store_reference(store, open_extractor("pixels", channels=3), worker())
    assert not (store.folder / "features").exists()
    kept = home / ".cache" / "fcdm" / "stores" / store.checksum[:16]
    assert [path.name for path in kept.iterdir()] == ["pixels-4x4x3.npz"]


MAKES = """
import sys
import torch
from fcdm.data.pixel_store import PixelStore
from fcdm.engine import worker as at_work
from fcdm.engine.distributed import Ranks
from fcdm.engine.stop import Stopped
from fcdm.engine.store_reference import open_store_reference
from fcdm.features import open_extractor
from tests.support.silent import Silent
at_work.LOOK_AGAIN = 0.05
worker = at_work.Worker(Ranks(0, 1, torch.device("cpu")), Silent())
open_store_reference(PixelStore(sys.argv[1]), open_extractor("pixels", channels=3), worker)
"""


@pytest.mark.slow
def test_two_processes_make_them_at_once(store: PixelStore) -> None:
    command = [sys.executable, "-c", MAKES, str(store.folder)]
    processes = [subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    assert [path.name for path in (store.folder / "features").iterdir()] == ["pixels-4x4x3.npz"]


def config_of(store: PixelStore, *more: str) -> Config:
    with composing() as composer:
        config = composer.config(["model=N", f"data.path={store.folder}", "evaluation.samples=480", *more])
    config.data.checksum = store.checksum
    return config


def test_a_rank_that_does_not_see_the_file_is_given_it(tmp_path: Path) -> None:
    """The cache folder of another node."""
    np.savez(tmp_path / "here.npz", mean=np.arange(3))
    there = {"mean": np.arange(3)}

    class Second(Ranks):
        def any(self, flag: bool) -> bool:
            return flag

        def first_does(self, act: Any) -> Any:
            return there

    ranks = Second(1, 2, torch.device("cpu"))
    assert read_by_all(tmp_path / "gone.npz", ranks) is there
    np.testing.assert_array_equal(read_by_all(tmp_path / "here.npz", ranks)["mean"], there["mean"])


def test_what_is_compared_stands_in_the_protocol(store: PixelStore, tmp_path: Path) -> None:
    """The store's identity without its name; a reference that is named comes first."""
    config = config_of(store, "evaluation.features=pixels", "data.name=mine")
    protocol = protocol_of(config)
    assert (protocol["features"], protocol["reference"]) == ("pixels-4x4x3", f"store-16px-train@{store.checksum[:8]}")
    assert isinstance(open_measure(config, None, worker()), StoreMeasure)
    folder = save_dinov2(tmp_path / "tiny")
    config = config_of(store, "evaluation.features=dinov2", f"evaluation.dinov2={folder}")
    protocol = protocol_of(config)
    assert protocol["reference"] == f"store-16px-train@{store.checksum[:8]}"
    assert protocol["features"].startswith("dinov2-32-224-bicubic@")
    assert "dinov2" not in protocol
    np.save(tmp_path / "real.npy", samples_of(20).permute(0, 2, 3, 1).numpy())
    config.evaluation.reference = str(tmp_path / "real.npy")
    assert protocol_of(config)["reference"].startswith("16px@images-")
    assert isinstance(open_measure(config, None, worker()), ReferenceMeasure)


def test_grey_stores_and_rgb_stores_have_pixels_of_their_own(tmp_path: Path) -> None:
    grey = PixelStore(tiny_pixels(tmp_path / "grey", side=28))
    assert protocol_of(config_of(grey, "evaluation.features=pixels"))["features"] == "pixels-8x8"
    assert open_store_reference(grey, open_extractor("pixels"), worker()).train.kept.shape == (120, 64)


def test_a_signal_between_blocks_of_a_kernel_distance_is_heard(store: PixelStore) -> None:
    """And the claim's heartbeat goes on there."""
    beats: list[None] = []
    here = dataclasses.replace(worker(), beat=lambda: beats.append(None))
    measure = StoreMeasure(store, here, PIXELS)
    measure.update(samples_of(30), 0)
    beats.clear()
    result_of(measure, here)
    assert len(beats) > 9  # three distances of three blocks, and what precision and recall take
    here.stop.signum = signal.SIGTERM
    with pytest.raises(Stopped):
        result_of(measure, here)
