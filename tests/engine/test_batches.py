"""Batches whose data is read from files: the next step's while this one is trained on, the same as read directly."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset, LatentsDataset, PixelDataset, open_dataset
from fcdm.diffusion import make_objective
from fcdm.engine.batches import Batch, BatchSource
from fcdm.engine.distributed import Ranks
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.engine.train import train
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.randomness import Purpose, integers, normal, uniform
from fcdm.runs.folder import Run
from tests.support.commands import composed, composed_anyway, records
from tests.support.launches import Launches
from tests.support.tiny_images import save_vae
from tests.support.tiny_store import tiny_store

CPU = torch.device("cpu")
SIDE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("latents")
    save_vae(root / "vae")
    return tiny_store(root / "store", side=SIDE)


def of_store(folder: Path, *more: str) -> Config:
    words = [
        "model=N",
        "model.width=8",
        "data=imagenet",
        f"data.path={folder}",
        "data.classes=3",
        f"resolution={8 * SIDE}",
    ]
    return composed(*words, "precision=fp32", "batch_size=16", "mlflow_uri=off", "threads=1", *more)


def source(config: Config, data: Dataset, start: int = 0, count: int = 16) -> BatchSource:
    return BatchSource(config, data, make_objective(config.diffusion), 3, start, count)


class Direct:
    """Batches by the formula, number by number, without a thread."""

    def __init__(self, config: Config, data: LatentsDataset) -> None:
        self.config, self.data = config, data
        self.order = source(config, data).order

    def draw(self, step: int) -> Batch:
        config, places = self.config, torch.arange(16)
        seed = config.seed
        eps = mirrored = None
        if config.data.latents == "posterior":
            eps = normal(seed, Purpose.POSTERIOR, step, places, (4, SIDE, SIDE))
        if config.data.flip == "random":
            mirrored = uniform(seed, Purpose.FLIP, step, places, ()) < 0.5
        items = self.data.store.train_indices[self.order.items(step * 16, 16)]
        how = {"latents": config.data.latents, "flip": config.data.flip}
        x0, labels = self.data.store.batch(items, **how, eps=eps, mirrored=mirrored)
        dropped = uniform(seed, Purpose.LABEL_DROP, step, places, (3,)) < config.label_drop.probability
        return Batch(
            x0,
            torch.where(dropped, config.data.classes, labels[:, None].expand(-1, 3)),
            integers(seed, Purpose.TIMESTEP, step, places, 1000),
            normal(seed, Purpose.NOISE, step, places, (4, SIDE, SIDE)),
        )


def assert_same(found: Batch, wanted: Batch) -> None:
    for name in ("x0", "labels", "t", "noise"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("latents", ["posterior", "frozen"])
@pytest.mark.parametrize("flip", ["random", "frozen", "none"])
def test_batches_read_ahead_are_those_read_directly(folder: Path, latents: str, flip: str) -> None:
    """In order, after a resume at any step, and out of order; across epochs, which are 37 images long."""
    config = of_store(folder, f"data.latents={latents}", f"data.flip={flip}")
    data = open_dataset(config, CPU)
    assert isinstance(data, LatentsDataset)
    direct = Direct(config, data)
    wanted = {step: direct.draw(step) for step in range(9)}
    for first in range(4):
        with source(config, data) as batches:
            for step in range(first, 9):
                assert_same(batches.draw(step), wanted[step])
    with source(config, data) as batches:
        for step in (4, 5, 2, 3, 3, 8, 0, 1, 7):
            assert_same(batches.draw(step), wanted[step])
    with source(config, data, 4, 7) as batches:
        for step in range(3):
            part, whole = batches.draw(step), wanted[step]
            assert_same(part, Batch(whole.x0[4:11], whole.labels[4:11], whole.t[4:11], whole.noise[4:11]))


def test_the_next_step_is_read_while_this_one_is_at_work(folder: Path) -> None:
    config = of_store(folder)
    data = open_dataset(config, CPU)
    asked = threading.Event()
    fetch, steps = data.fetch, []

    def noting(items: np.ndarray, drawn: Any) -> Any:
        steps.append(threading.current_thread() is threading.main_thread())
        if len(steps) == 2:
            asked.set()
        return fetch(items, drawn)

    data.fetch = noting  # type: ignore[method-assign]
    with source(config, data) as batches:
        batches.draw(0)
        assert asked.wait(60), "step 1 is read though nobody has asked for it"
        batches.draw(1)
        assert batches.waited_s is not None
        assert batches.waited_s > 0
    assert steps == [False] * len(steps), "nothing is read in the thread that trains"


def test_data_in_memory_has_no_thread() -> None:
    config = composed("model=N", "threads=1")
    with source(config, PixelDataset(config, CPU)) as batches:
        batches.draw(0)
        batches.draw(1)
        assert not threads()
    assert batches.waited_s is None


class Quiet:
    """A progress that shows nothing, and does something at a step."""

    def __init__(self, step: int = 0, then: Any = None) -> None:
        self.step, self.then = step, then

    def training(self, step: int, last: int, loss: float | None, images_per_s: float | None) -> None:
        if step == self.step:
            assert threads(), "training reads ahead"
            self.then()

    def sampling(self, step: int, done: int, samples: int) -> None: ...
    def evaluated(self, step: int, metrics: dict[str, float], floor: dict[str, float], features: str) -> None: ...
    def note(self, text: str) -> None: ...


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("next-batch")]


def trained(folder: Path, runs: Path, steps: int, progress: Quiet, stop: StopSignal | None = None) -> Run:
    np.savez(folder.parent / "reference.npz", mu=np.zeros(1), sigma=np.zeros((1, 1)))  # never read but for its kind
    reference = f"evaluation.reference={folder.parent / 'reference.npz'}"
    evaluated = [f"evaluation.decoder={folder.parent / 'vae'}", reference]
    words = [f"steps={steps}", f"runs_dir={runs}", "log_every=1", "data.vae=null", *evaluated]
    (job,) = make_jobs([of_store(folder, *words)])
    run = job.open()
    train(run, job.parts[:1], Worker(Ranks(0, 1, CPU), progress, stop or StopSignal()), keep=set(), evaluate=False)
    return run


def test_the_thread_ends_with_training_however_it_ends(folder: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    stop = StopSignal()
    with pytest.raises(RuntimeError, match="broken"):
        trained(folder, tmp_path / "a", 4, Quiet(2, fail))
    assert not threads()
    with pytest.raises(Stopped):
        trained(folder, tmp_path / "a", 4, Quiet(2, lambda: setattr(stop, "signum", signal.SIGTERM)), stop)
    assert not threads()
    cut = trained(folder, tmp_path / "a", 4, Quiet())
    assert not threads()
    whole = trained(folder, tmp_path / "b", 4, Quiet())
    losses = [[(line["step"], line["loss"]) for line in records(run.folder) if "loss" in line] for run in (cut, whole)]
    assert losses[0] == losses[1]
    shares = [line["data_wait_share"] for line in records(whole.folder) if "loss" in line]
    assert len(shares) == 4
    assert all(0 < share < 1 for share in shares)


def test_an_error_of_the_thread_is_the_caller_s(folder: Path) -> None:
    """When the step comes for which it was met, and not before."""
    config = of_store(folder)
    data = open_dataset(config, CPU)
    fetch, calls = data.fetch, []

    def failing(items: np.ndarray, drawn: Any) -> Any:
        calls.append(items)
        if len(calls) == 3:
            raise UserError("shard 3 is gone: copy it again")
        return fetch(items, drawn)

    data.fetch = failing  # type: ignore[method-assign]
    with source(config, data) as batches:
        batches.draw(0)
        batches.draw(1)
        with pytest.raises(UserError, match=r"^shard 3 is gone: copy it again$"):
            batches.draw(2)
    assert not threads()


@pytest.mark.parametrize(("kind", "budget"), [("latents", 55), ("digits", 56)])
def test_a_batch_takes_few_operations(folder: Path, kind: str, budget: int) -> None:
    """One pass of Philox makes all its numbers: 31 of these. A pass for each purpose took 382 and 301 operations."""
    config = of_store(folder) if kind == "latents" else composed_anyway("model=N", "threads=1", "data.flip=random")
    with source(config, open_dataset(config, CPU)) as batches:
        batches.draw(0)
        with Launches() as launches:
            batches.draw(1)
    assert launches.count <= budget, launches.by_name
