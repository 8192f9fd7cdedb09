"""The engine's parts: batches as pure functions, EMA, evaluation that does not depend on how it is cut."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcdm.config.ema_lag import ema_decay
from fcdm.config.schema import Config, EMAConfig, OptimiserConfig
from fcdm.data.dataset import Dataset, PixelDataset
from fcdm.diffusion import make_objective
from fcdm.engine.batches import BatchSource, DataOrder
from fcdm.engine.distributed import Ranks
from fcdm.engine.ema import update_ema
from fcdm.engine.evaluate import EvaluationResult, evaluate
from fcdm.engine.state import create_model
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.engine.train_step import rate_share
from fcdm.engine.worker import Worker
from tests.support.commands import composed
from tests.support.silent import Silent

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> Config:
    return composed("model=N", "evaluation.samples=40", "evaluation.sampling_steps=3", "evaluation.batch_size=40")


@pytest.fixture(scope="module")
def data(config: Config) -> Dataset:
    return PixelDataset(config, CPU)


@given(size=st.integers(1, 50), seed=st.integers(0, 2**63 - 1), start=st.integers(0, 500), count=st.integers(1, 120))
def test_data_order_is_shuffled_epochs_without_state(size: int, seed: int, start: int, count: int) -> None:
    items = DataOrder(size, seed).items(start, count)
    one_by_one = [DataOrder(size, seed).items(place, 1)[0] for place in range(start, start + count, 7)]
    assert items[::7].tolist() == one_by_one
    epoch = DataOrder(size, seed).items(3 * size, size)
    assert sorted(epoch.tolist()) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    order = DataOrder(1000, 0)
    assert not np.array_equal(order.items(0, 1000), order.items(1000, 1000))
    assert not np.array_equal(order.items(0, 1000), DataOrder(1000, 1).items(0, 1000))


@pytest.mark.parametrize("flip", ["none", "random"])
def test_a_share_of_the_batch_is_those_rows_of_the_whole(config: Config, flip: str) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, flip=flip))
    data = PixelDataset(config, CPU)
    objective = make_objective(config.diffusion)
    whole = BatchSource(config, data, objective, 3, 0, 128).draw(17)
    part = BatchSource(config, data, objective, 3, 40, 30).draw(17)
    for name in ("x0", "labels", "t", "noise"):
        assert torch.equal(getattr(whole, name)[40:70], getattr(part, name)), name
    pieces = whole.split(50)
    assert [len(piece) for piece in pieces] == [50, 50, 28]
    other = BatchSource(config, data, objective, 3, 0, 128).draw(18)
    assert not torch.equal(whole.noise, other.noise)
    assert not torch.equal(whole.t, other.t)


def test_labels_are_dropped_independently_or_together(config: Config, data: Dataset) -> None:
    def dropped(mode: str) -> torch.Tensor:
        drop = dataclasses.replace(config.label_drop, mode=mode)
        source = BatchSource(
            dataclasses.replace(config, label_drop=drop), data, make_objective(config.diffusion), 3, 0, 128
        )
        return torch.cat([source.draw(step).labels for step in range(200)]) == 10

    independent, shared = dropped("independent"), dropped("shared")
    assert independent.shape == (25600, 3)
    assert shared.shape == (25600,)
    sigma = math.sqrt(0.1 * 0.9 / 25600)
    assert abs(shared.double().mean() - 0.1) < 4 * sigma
    for column in independent.unbind(1):
        assert abs(column.double().mean() - 0.1) < 4 * sigma
    # Fully unconditional: p^3, and not p.
    assert 5 < int(independent.all(1).sum()) < 60


def test_flips_are_half_of_the_images(config: Config) -> None:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, flip="random"))
    data = PixelDataset(config, CPU)
    source = BatchSource(config, data, make_objective(config.diffusion), 3, 0, 128)
    plain = data.train.images[source.order.items(0, 128)]
    x0 = source.draw(0).x0
    same = (x0 == plain).flatten(1).all(1)
    mirrored = (x0 == plain.flip(-1)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 40 < int((mirrored & ~same).sum()) < 90


@pytest.mark.parametrize(("step", "rampup"), [(1, 0.1), (100, 0.1), (10**6, 0.1), (5, None)])
def test_ema_half_life_is_the_smaller_of_the_configured_and_the_ramp(step: int, rampup: float | None) -> None:
    decay = ema_decay(EMAConfig(0.9999, rampup), step)
    halflife = math.log(0.5) / math.log(decay)
    configured = math.log(0.5) / math.log(0.9999)
    assert halflife == pytest.approx(configured if rampup is None else min(configured, rampup * step), rel=1e-9)


def test_ema_update_is_the_formula() -> None:
    average, current = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    update_ema([average], [current], 0.75)
    assert average.tolist() == [1.5, 1.0]


def test_the_rate_is_linear_then_constant() -> None:
    warm = OptimiserConfig(lr=1.0, warmup_steps=4)
    assert [rate_share(warm, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rate_share(OptimiserConfig(lr=1.0), 0) == 1.0


def test_the_rate_falls_as_the_inverse_square_root_of_the_steps() -> None:
    """lr / sqrt(max(t / t_ref, 1)), t counted from 1."""
    falling = OptimiserConfig(lr=1.0, warmup_steps=2, schedule="inverse_sqrt", decay_from=4)
    shares = [rate_share(falling, step) for step in range(16)]
    assert shares[:4] == [0.5, 1.0, 1.0, 1.0]
    assert shares[4] == pytest.approx((4 / 5) ** 0.5)
    assert shares[15] == pytest.approx(0.5)


def _trained(config: Config) -> torch.nn.Module:
    """A model whose output is not 0, as an untrained one's is."""
    model = create_model(config, CPU).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def _evaluate(
    config: Config, data: Dataset, partial: Path, stop: StopSignal | None = None, **changes: object
) -> EvaluationResult:
    protocol = dataclasses.replace(config.evaluation, **changes)  # type: ignore[arg-type]
    config = dataclasses.replace(config, evaluation=protocol)
    worker = Worker(Ranks(0, 1, CPU), Silent(), stop or StopSignal())
    (found,) = evaluate(_trained(config), {partial: config}, data, 1, worker)
    assert isinstance(found, EvaluationResult)
    return found


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_sample_is_a_function_of_seed_and_number(config: Config, data: Dataset, tmp_path: Path, sampler: str) -> None:
    whole = _evaluate(config, data, tmp_path / "a.npz", sampler=sampler)
    cut = _evaluate(config, data, tmp_path / "b.npz", sampler=sampler, batch_size=7)
    assert whole.grid.shape == cut.grid.shape == (40, 1, 8, 8)
    assert (np.abs(whole.grid.astype(int) - cut.grid.astype(int)) > 1).mean() < 1e-3
    for key, value in whole.metrics.items():
        assert cut.metrics[key] == pytest.approx(value, rel=2e-3), key
    other = _evaluate(config, data, tmp_path / "c.npz", sampler=sampler, seed=1)
    assert not np.array_equal(other.grid, whole.grid)


def test_a_stopped_evaluation_goes_on_where_it_was(config: Config, data: Dataset, tmp_path: Path) -> None:
    whole = _evaluate(config, data, tmp_path / "whole.npz", batch_size=8)

    class StopInSecond(StopSignal):
        """Asks to stop in the second batch: it is looked at before each batch and each of its 3 network calls."""

        looks = 0

        @property
        def signum(self) -> int | None:
            self.looks += 1
            return 15 if self.looks >= 6 else None

        @signum.setter
        def signum(self, value: int | None) -> None:
            """Only the number of looks counts."""

    partial = tmp_path / "partial.npz"
    with pytest.raises(Stopped):
        _evaluate(config, data, partial, StopInSecond(), batch_size=8)
    with np.load(partial) as kept:
        assert kept["batches"] == 1
    resumed = _evaluate(config, data, partial, batch_size=8)
    assert resumed.metrics == whole.metrics
    assert np.array_equal(resumed.grid, whole.grid)
    partial.write_bytes(b"torn")
    assert _evaluate(config, data, partial, batch_size=8).metrics == whole.metrics


def test_guidance_changes_the_samples_and_scale_one_does_not(config: Config, data: Dataset, tmp_path: Path) -> None:
    plain = _evaluate(config, data, tmp_path / "a.npz")
    guided = _evaluate(config, data, tmp_path / "b.npz", guidance_scale=3.0)
    assert plain.metrics["fid"] != guided.metrics["fid"]
    assert plain.metrics["heldout_loss"] == guided.metrics["heldout_loss"]


def test_real_digits_score_near_the_floor(config: Config, data: Dataset, tmp_path: Path) -> None:
    """The floor printed beside a FID is what real digits get."""
    found = _evaluate(config, data, tmp_path / "a.npz")
    assert 0 < found.floor["fid"] < found.metrics["fid"]
    assert found.floor["fid_heldout_against_train"] < 1.0
    assert len(found.bins["heldout_loss"]) == 10
    # Little noise is harder to tell than much of it.
    assert found.metrics["heldout_loss"] == pytest.approx(np.mean(found.bins["heldout_loss"]))
