"""Losses of fixed images with fixed noise: which images they are of, and an evaluation that is losses alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcdm.config.schema import Config
from fcdm.data.dataset import Dataset, PixelDataset
from fcdm.data.memory_dataset import ImageSide, MemoryDataset
from fcdm.diffusion import make_objective
from fcdm.engine.distributed import Ranks
from fcdm.engine.evaluate import EvaluationResult, evaluate
from fcdm.engine.evaluated_loss import BINS, heldout_loss
from fcdm.engine.state import create_model
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study
from fcdm.jobs.run_job import do_job
from fcdm.metrics.inception_score import shuffled
from fcdm.randomness import Purpose, normal, uniform
from fcdm.runs.protocol import protocol_id, protocol_of
from fcdm.status import main as status
from tests.support.commands import composed, evaluations, records
from tests.support.silent import Silent

CPU = torch.device("cpu")


def worker() -> Worker:
    return Worker(Ranks(0, 1, CPU), Silent())


def asking(loss_images: int | None = None, **changes: Any) -> Config:
    config = composed("model=N", "model.width=8")
    evaluation = dataclasses.replace(config.evaluation, loss_images=loss_images, batch_size=400, **changes)
    return dataclasses.replace(config, evaluation=evaluation)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    found = create_model(asking(), CPU).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return found


@pytest.fixture(scope="module")
def digits() -> PixelDataset:
    return PixelDataset(asking(), CPU)


def by_hand(model: torch.nn.Module, config: Config, side: ImageSide, chosen: np.ndarray) -> list[float]:
    """Each bin's mean squared error, image by image of the order, all in one batch."""
    objective, seed = make_objective(config.diffusion), config.evaluation.seed
    x, labels, places = side.seen(torch.from_numpy(chosen)), side.labels[chosen], torch.arange(len(chosen))
    found = []
    for number in range(BINS):
        t = objective.times_in_bin(number, BINS, uniform(seed, Purpose.HELDOUT_NOISE, 2 * number, places, ()))
        eps = normal(seed, Purpose.HELDOUT_NOISE, 2 * number + 1, places, tuple(x.shape[1:]))
        with torch.no_grad():
            answer = model(objective.corrupt(x, t, eps), t, labels)[:, : x.shape[1]]
        found.append(float((answer - eps).square().mean()))
    return found


@pytest.mark.parametrize("of_training", [False, True])
def test_a_draw_of_images_by_the_evaluations_seed(
    model: torch.nn.Module, digits: PixelDataset, of_training: bool
) -> None:
    """As many of both kinds, with the same noise; other images and other noise by another seed."""
    side = digits.train if of_training else digits.held
    drawn = {}
    for seed in (0, 5):
        config = asking(30, seed=seed)
        drawn[seed] = np.sort(shuffled(len(side), seed)[:30])
        found = heldout_loss(model, config, digits, worker(), of_training)
        assert found == pytest.approx(by_hand(model, config, side, drawn[seed]), rel=1e-4)
    assert set(drawn[0]) != set(drawn[5])


def test_all_held_out_images_where_nothing_is_said_or_more_than_there_are(
    model: torch.nn.Module, digits: PixelDataset
) -> None:
    everything = by_hand(model, asking(), digits.held, np.arange(len(digits.held)))
    for said in (None, len(digits.held), 10_000):
        assert heldout_loss(model, asking(said), digits, worker()) == pytest.approx(everything, rel=1e-4)


def test_as_many_training_images_as_held_out_ones(model: torch.nn.Module, digits: PixelDataset) -> None:
    """And of one kind of images both losses are one: the difference is the images', never the noise's."""
    twins = MemoryDataset(digits.held, digits.held, "random", CPU)
    result = losses_of(model, asking(50, samples=0), twins)
    assert result.metrics["train_loss"] == pytest.approx(result.metrics["heldout_loss"], rel=1e-6)
    few = MemoryDataset(digits.train, ImageSide(digits.held.images[:7], digits.held.labels[:7]), "none", CPU)
    wanted = by_hand(model, asking(), digits.train, np.sort(shuffled(len(digits.train), 0)[:7]))
    assert losses_of(model, asking(50, samples=0), few).bins["train_loss"] == pytest.approx(wanted, rel=1e-4)


def losses_of(model: torch.nn.Module, config: Config, data: Dataset) -> EvaluationResult:
    (found,) = evaluate(model, {Path("unused"): config}, data, 1, worker())
    assert isinstance(found, EvaluationResult)
    return found


def test_the_loss_of_training_images_is_asked_for_by_their_number(model: torch.nn.Module, digits: PixelDataset) -> None:
    plain, asked = (losses_of(model, asking(said, samples=0), digits) for said in (None, 20))
    assert plain.metrics.keys() == plain.bins.keys() == {"heldout_loss"}
    assert asked.metrics.keys() == asked.bins.keys() == {"heldout_loss", "train_loss"}
    for name, values in asked.bins.items():
        assert asked.metrics[name] == pytest.approx(np.mean(values))


def test_losses_alone_of_data_of_which_nothing_is_held_out_are_refused(
    model: torch.nn.Module, digits: PixelDataset
) -> None:
    nothing = MemoryDataset(digits.train, ImageSide(digits.held.images[:0], digits.held.labels[:0]), "none", CPU)
    with pytest.raises(UserError, match="no image of this data is held out"):
        losses_of(model, asking(samples=0), nothing)


# --- protocols ---------------------------------------------------------------------------------------------------


def test_a_protocol_without_these_keys_is_what_it_was() -> None:
    assert protocol_id(protocol_of(composed("model=N"))) == "ddim25-1000-586805a9"
    assert not {"loss_images", "headline"} & protocol_of(composed("model=N")).keys()
    assert protocol_of(composed("model=N", "evaluation.loss_images=9"))["loss_images"] == 9


def test_losses_alone_are_one_protocol_whatever_would_be_drawn() -> None:
    plain = protocol_of(composed("model=N", "evaluation.samples=0"))
    assert plain == {"weights": "ema", "samples": 0, "seed": 0, "precision": "fp32"}
    assert plain == protocol_of(composed("model=N", "objective=flow", "evaluation.samples=0"))
    assert protocol_id(plain).startswith("loss-")
    other = protocol_of(composed("model=N", "evaluation.samples=0", "evaluation.loss_images=9", "evaluation.seed=1"))
    assert other == {**plain, "loss_images": 9, "seed": 1}


def test_latents_need_neither_reference_nor_decoder_for_losses() -> None:
    config = composed("model=S", "evaluation.samples=0", "data.checksum=0123")
    assert protocol_of(config).keys() == {"weights", "samples", "seed", "precision"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluation.samples=1",), "at least 2, or 0 for the losses of held-out images alone"),
        (("evaluation.samples=-1",), "evaluation.samples=-1 cannot be"),
        (("evaluation.loss_images=0",), "evaluation.loss_images=0 cannot be"),
        (("evaluation.headline=both",), "evaluation.headline=both is not known"),
        (("evaluation.headline=heldout",), "of the digits both distances are told"),
        (("model=S", "evaluation.headline=heldout"), "that is of stores of pixels"),
    ],
)
def test_what_cannot_be_is_one_line(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError) as refused:
        composed("model=N", *words)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


# --- a whole run ---------------------------------------------------------------------------------------------------


def test_losses_at_every_budget_and_samples_at_the_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is asked first, the study's headline is what has samples; the status tells the losses."""
    words = ["model=N", "model.width=8", "batch_size=16", "threads=1", f"runs_dir={tmp_path}", "mlflow_uri=off"]
    words.append("evaluation.loss_images=20")
    drawing = ("evaluation.samples=20", "evaluation.sampling_steps=2")
    configs = [composed(*words, "steps=[2,4]", "evaluation.samples=0"), composed(*words, "steps=4", *drawing)]
    (job,) = make_jobs(configs)
    record_study([job], ["python"])
    job.open()
    do_job(job, worker())
    found = evaluations(job.folder)
    kinds = sorted(name.split("-")[2] for name in found)
    assert kinds == ["ddim2", "loss", "loss"]
    assert len(list((job.folder / "evaluations").glob("*.png"))) == 1
    of_losses = [content for name, content in found.items() if "loss" in name]
    assert all(content["metrics"].keys() == {"heldout_loss", "train_loss"} for content in of_losses)
    (drawn,) = (content for name, content in found.items() if "ddim2" in name)
    last = max(of_losses, key=lambda content: content["step"])
    assert drawn["metrics"]["train_loss"] == pytest.approx(last["metrics"]["train_loss"])
    assert sum("heldout_loss" in record for record in records(job.folder)) == 3
    status([f"runs_dir={tmp_path}"])
    assert f"loss {last['metrics']['heldout_loss']:.4f}" in capsys.readouterr().out
    study = json.loads((tmp_path / "studies" / "default.json").read_text())
    assert (study["protocol_id"], list(study["spaces"])) == (drawn["protocol_id"], [drawn["protocol_id"]])
