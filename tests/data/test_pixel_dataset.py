"""What models see of a store of pixels: values, flips and batches that depend on nothing but (seed, step, place)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.config.schema import Config
from fcdm.data.dataset import PixelStoreDataset, open_dataset
from fcdm.data.manifest import MANIFEST
from fcdm.data.pixel_store import PixelStore
from fcdm.diffusion import make_objective
from fcdm.engine.batches import Batch, BatchSource
from fcdm.errors import UserError
from fcdm.randomness import Purpose, uniform
from tests.support.commands import composed
from tests.support.pixel_data import pixel_store

CPU = torch.device("cpu")
TRAINED = 28
"""Of the 40 images: 6 are held out, 6 set aside."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixel_store(tmp_path_factory.mktemp("pixels") / "store")


@pytest.fixture(scope="module")
def configs(store: Path) -> dict[str, Config]:
    return {flip: composed("model=N", f"data.path={store}", "batch_size=16", f"data.flip={flip}") for flip in FLIPS}


FLIPS = ("none", "random", "frozen")


def drawn(config: Config, step: int, start: int = 0, count: int = 16) -> Batch:
    data = open_dataset(config, CPU)
    with BatchSource(config, data, make_objective(config.diffusion), 3, start, count) as source:
        return source.draw(step)


def numbers_of(batch: Batch) -> list[int]:
    """Which images of the store they are."""
    pixels = ((batch.x0 + 1) * 127.5).round().long()[:, 0, 0]
    return torch.minimum(pixels[:, 0], pixels[:, -1]).tolist()


def mirrored(batch: Batch) -> list[bool]:
    """The left column is the brighter one, and so the right one of a mirrored image."""
    return (batch.x0[:, 0, 0, -1] > batch.x0[:, 0, 0, 0]).tolist()


def test_bytes_become_minus_one_to_one(store: Path, configs: dict[str, Config]) -> None:
    data = open_dataset(configs["none"], CPU)
    assert isinstance(data, PixelStoreDataset)
    assert (len(data), data.heldout) == (TRAINED, 6)
    x0, labels = data.finish(data.fetch(np.array([0, 27]), []), [])
    assert (x0.shape, x0.dtype) == ((2, 3, 8, 8), torch.float32)
    assert x0[1, :, :, 1:].unique().tolist() == pytest.approx([27 / 127.5 - 1])
    assert labels.tolist() == [0, 0]
    held, labels = data.unaltered(np.arange(1, 4), heldout=True)
    assert ((held[:, 0, 0, 1] + 1) * 127.5).round().tolist() == [35, 36, 37]
    assert labels.tolist() == [35 % 3, 0, 1]


def test_flips_are_as_the_configuration_says(configs: dict[str, Config]) -> None:
    none, random, frozen = ([drawn(configs[flip], step) for step in range(12)] for flip in FLIPS)
    assert not any(any(mirrored(batch)) for batch in none)
    assert [numbers_of(batch) for batch in none] == [numbers_of(batch) for batch in random]
    assert [numbers_of(batch) for batch in none] == [numbers_of(batch) for batch in frozen]
    for step, batch in enumerate(random):
        toss = uniform(configs["random"].seed, Purpose.FLIP, step, torch.arange(16), ()) < 0.5
        assert mirrored(batch) == toss.tolist()
    assert 0.3 < np.mean([mirrored(batch) for batch in random]) < 0.7
    seen: dict[int, set[bool]] = {}
    for batch in frozen:
        for number, is_mirrored in zip(numbers_of(batch), mirrored(batch), strict=True):
            seen.setdefault(number, set()).add(is_mirrored)
    assert all(len(ways) == 1 for ways in seen.values()), "one toss per image for good"
    assert len({next(iter(ways)) for ways in seen.values()}) == 2
    seed = composed(
        "model=N", f"data.path={configs['frozen'].data.path}", "data.flip=frozen", "seed=7", "batch_size=16"
    )
    for number, is_mirrored in zip(numbers_of(drawn(seed, 0)), mirrored(drawn(seed, 0)), strict=True):
        assert {is_mirrored} == seen[number], "whatever the seed"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.lists(st.integers(1, 15), unique=True, max_size=4), st.sampled_from(FLIPS))
def test_a_batch_is_the_same_however_many_ranks_share_it(
    configs: dict[str, Config], step: int, cuts: list[int], flip: str
) -> None:
    whole = drawn(configs[flip], step)
    edges = [0, *sorted(cuts), 16]
    parts = [drawn(configs[flip], step, a, b - a) for a, b in pairwise(edges)]
    for name in ("x0", "labels", "t", "noise"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    split = whole.split(5)
    assert torch.equal(torch.cat([part.x0 for part in split]), whole.x0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 2**31))
def test_what_is_held_out_or_set_aside_is_never_trained_on(configs: dict[str, Config], step: int, seed: int) -> None:
    config = replace(configs["none"], batch_size=32, seed=seed)
    assert set(numbers_of(drawn(config, step, 0, 32))) <= set(range(TRAINED))


def test_an_epoch_has_every_image_once(configs: dict[str, Config]) -> None:
    order = [number for step in range(7) for number in numbers_of(drawn(configs["none"], step))]
    for epoch in range(4):
        assert sorted(order[epoch * TRAINED : (epoch + 1) * TRAINED]) == list(range(TRAINED))


def test_grey_has_one_channel_and_an_older_store_has_no_third_part(tmp_path: Path) -> None:
    store = pixel_store(tmp_path / "grey", channels=1, classes=1, aside=0)
    (store / "aside.npy").unlink()
    text = (store / MANIFEST).read_text()
    (store / MANIFEST).write_text(text.replace('"aside": {"fraction": 0.1, "images": 0}, ', ""))
    config = composed("model=N", f"data.path={store}")
    assert (config.data.channels, config.data.classes, config.label_drop.probability) == (1, 1, 0.0)
    assert len(open_dataset(config, CPU)) == 34


def test_a_store_that_changes_under_a_run_is_one_line(tmp_path: Path) -> None:
    store = pixel_store(tmp_path / "store")
    config = composed("model=N", f"data.path={store}")
    config.data.checksum = PixelStore(store).checksum
    open_dataset(config, CPU)
    (store / MANIFEST).write_text((store / MANIFEST).read_text().replace('"pad": null', '"pad": 8'))
    with pytest.raises(UserError, match="is another than the run's: its manifest has changed"):
        open_dataset(config, CPU)
    (store / "shards/00001.npy").write_bytes((store / "shards/00001.npy").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"00001\.npy is not as its manifest says"):
        PixelStore(store)
