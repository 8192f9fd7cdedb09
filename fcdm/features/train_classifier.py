"""Trains a store's classifier: what there is to learn, two networks of two seeds, and whether they have learned it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fcdm.errors import UserError
from fcdm.features.classifier import BATCH, StoreClassifier, scaled
from fcdm.features.enough_images import LEAST_TAUGHT
from fcdm.metrics.inception_score import shuffled

SEEDS = (0, 1)
STEPS, IMAGES_A_STEP = 800, 64
"""Bounds the time, whatever the data: about 51,000 images are looked at for each network."""
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.05, 50
LEAST_OF_CLASS = 20
"""A class with so many images set aside can be learned ..."""
COVERED = 0.9
"""... and labels are learned where such classes hold this share of the images set aside,"""
MOST_CLASSES = 1000
"""and are no more than these."""
SURE = 1e-3
"""How likely guessing may be to do as well as a network that counts as having learned."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn: images (n, C, side, side) uint8 and answers (n,), and others to be tested on."""

    task: str
    """`labels` or `rotations`."""
    classes: int
    images: NDArray[np.uint8]
    answers: NDArray[np.int64] | None
    """None: by which quarter turn each image is rotated, drawn anew each time."""
    tests: NDArray[np.uint8]
    test_answers: NDArray[np.int64]

    @property
    def chance(self) -> float:
        """What is right of the best constant answer."""
        return float(np.bincount(self.test_answers).max() / len(self.test_answers))


def lesson_of(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    tests: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    task: str = "auto",
) -> Lesson:
    """Labels where enough images of enough classes are set aside, else rotations. task: `labels` or `rotations`
    decides.

    Raises UserError where there are no labels to learn though these are asked for.
    """
    values, counts = np.unique(labels, return_counts=True)
    chosen = values[counts >= LEAST_OF_CLASS]
    covered = counts[counts >= LEAST_OF_CLASS].sum() / counts.sum()
    known = np.isin(test_labels, chosen)
    learnable = 2 <= len(chosen) <= MOST_CLASSES and covered >= COVERED and known.sum() >= LEAST_TAUGHT
    if task == "labels" and not learnable:
        raise UserError(
            f"task=labels: {len(chosen)} of {len(values)} classes have {LEAST_OF_CLASS} images set aside, which hold "
            f"{100 * covered:.0f} % of them: say task=rotations, or leave it away"
        )
    if task == "rotations" or not learnable:
        turns = np.arange(len(tests)) % 4
        return Lesson("rotations", 4, images, None, turned(tests, turns), turns)
    taught = np.isin(labels, chosen)
    answers, right = (np.searchsorted(chosen, part) for part in (labels[taught], test_labels[known]))
    return Lesson("labels", len(chosen), images[taught], answers, tests[known], right)


def turned(images: NDArray[np.uint8], turns: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, C, s, s), each by so many quarter turns (n,)."""
    found = np.empty_like(images)
    for turn in range(4):
        found[turns == turn] = np.rot90(images[turns == turn], turn, axes=(2, 3))
    return found


def train_classifier(
    lesson: Lesson, seed: int, progress: Callable[[int], None], steps: int | None = None
) -> tuple[dict[str, Tensor], int]:
    """(weights, how many tests it answers rightly) of one network, on the CPU; a function of the lesson and the seed.

    progress: called with the images looked at so far. It may raise.
    """
    steps = STEPS if steps is None else steps
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = StoreClassifier(lesson.images.shape[1], lesson.images.shape[2], lesson.classes).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
        images, answers = _batch(lesson, seed, step)
        with torch.enable_grad():
            loss = F.cross_entropy(network(scaled(images)), answers)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress((step + 1) * IMAGES_A_STEP)
    network.eval()
    with torch.no_grad():
        network.measure_size(scaled(torch.from_numpy(lesson.images[: 2 * BATCH])))
    return {key: value.detach().clone() for key, value in network.state_dict().items()}, _right(network, lesson)


def has_learned(right: int, lesson: Lesson) -> bool:
    """Whether so many right answers are clearly more than guessing gives (binomial, one-sided)."""
    from scipy.stats import binom

    return bool(binom.sf(right - 1, len(lesson.test_answers), lesson.chance) < SURE)


def _batch(lesson: Lesson, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Images (n, C, s, s) uint8, each moved by up to an eighth of its side, and their answers.

    Each epoch is a shuffle of its own; a batch may span two.
    """
    count, side = len(lesson.images), lesson.images.shape[2]
    numbers = np.arange(step * IMAGES_A_STEP, (step + 1) * IMAGES_A_STEP)
    epochs = numbers // count
    places = np.empty_like(numbers)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        places[here] = shuffled(count, 2 * epoch + (seed << 32))[numbers[here] % count]
    raw = np.random.Philox(key=[seed, step]).random_raw(3 * len(numbers)).reshape(3, -1)
    images = lesson.images[places]
    if lesson.answers is None:
        answers = (raw[2] % np.uint64(4)).astype(np.int64)
        images = turned(images, answers)
    else:
        answers = lesson.answers[places]
    reach = side // 8
    shifts = (raw[:2] % np.uint64(2 * reach + 1)).astype(np.int64)
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    moved = [image[:, top : top + side, left : left + side] for image, top, left in zip(padded, *shifts, strict=True)]
    return torch.from_numpy(np.stack(moved)), torch.from_numpy(answers)


@torch.no_grad()
def _right(network: StoreClassifier, lesson: Lesson) -> int:
    right = 0
    for first in range(0, len(lesson.tests), BATCH):
        part: Any = slice(first, first + BATCH)
        said = network(scaled(torch.from_numpy(lesson.tests[part]))).argmax(1)
        right += int((said.numpy() == lesson.test_answers[part]).sum())
    return right
