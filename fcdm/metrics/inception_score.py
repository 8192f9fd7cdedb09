"""The Inception Score, streamed, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcdm.errors import UserError

SPLIT = 5000


def shuffled(count: int, seed: int) -> NDArray[np.int64]:
    """(count,) where each of `count` samples stands among the splits once they are shuffled: a function of the seed.

    For samples that come class by class, or in turn: a split should hold what i.i.d. labels would give it.
    """
    # Sorting raw words: numpy promises the bit stream of Philox, not Generator.permutation's use of it.
    return np.argsort(np.random.Philox(key=[seed, count]).random_raw(count), kind="stable")


class InceptionScore:
    """exp(E_x KL(p(y|x) || p(y))) over splits of consecutive samples (Salimans et al. 2016, arXiv 1606.03498).

    As ADM's evaluator has it: sample i belongs to split i // `split`, a short last split counts like the
    others, and the score is the mean over splits. What a split holds of its samples is additive (how many, the
    sum of p, the sum of p log p), so ranks and resumed parts may come in any order and any batches.
    """

    def __init__(self, classes: int, split: int = SPLIT) -> None:
        if split < 1:
            raise ValueError(f"a split has at least one sample, not {split}")
        self.classes, self.split = classes, split
        self._counts: dict[int, int] = {}
        self._sums: dict[int, NDArray[np.float64]] = {}  # (classes,) sum over samples of p
        self._entropies: dict[int, float] = {}  # sum over samples and classes of p log p

    @property
    def count(self) -> int:
        """Number of samples seen."""
        return sum(self._counts.values())

    def update(self, probabilities: torch.Tensor | NDArray[Any], first: int | NDArray[np.int64] | None = None) -> None:
        """Add `probabilities` (n, classes) of the samples numbered `first`, first + 1, ... (by default: the next).

        `first` may be the numbers themselves, (n,): where samples are to be shuffled before they are split.
        Rows must sum to 1, to 1e-4; UserError where they do not or a number is not finite.
        """
        if isinstance(probabilities, torch.Tensor):
            probabilities = probabilities.detach().to("cpu", torch.float64).numpy()
        p = np.asarray(probabilities, np.float64)
        if p.ndim != 2 or p.shape[1] != self.classes:
            raise ValueError(f"probabilities have shape {p.shape}, expected (n, {self.classes})")
        start = self.count if first is None else first
        numbers = start if isinstance(start, np.ndarray) else start + np.arange(len(p))
        off = ~(np.abs(p.sum(axis=1) - 1) <= 1e-4) | (p < 0).any(axis=1)  # NaN is off too
        if off.any():
            raise UserError(
                f"class probabilities of {off.sum()} of {len(p)} samples are NaN, negative or do not sum to 1 (first: "
                f"sample {numbers[off.argmax()]}): the extractor's weights are damaged; make them again"
            )
        splits = numbers // self.split
        for number in np.unique(splits):
            part = p[splits == number]
            entropy = float(np.sum(part * np.log(part, out=np.zeros_like(part), where=part > 0)))
            self._add(int(number), len(part), part.sum(axis=0), entropy)

    def merge(self, other: InceptionScore) -> None:
        """Add the samples that `other` has seen (of another rank, or another part of the samples)."""
        if (other.classes, other.split) != (self.classes, self.split):
            raise ValueError(
                f"cannot merge scores of {other.classes} classes in splits of {other.split} into those of "
                f"{self.classes} in splits of {self.split}"
            )
        for number, count in other._counts.items():
            self._add(number, count, other._sums[number], other._entropies[number])

    def _add(self, number: int, count: int, total: NDArray[np.float64], entropy: float) -> None:
        self._counts[number] = self._counts.get(number, 0) + count
        self._sums[number] = self._sums.get(number, np.zeros(self.classes)) + total
        self._entropies[number] = self._entropies.get(number, 0.0) + entropy
        if self._counts[number] > self.split:
            raise ValueError(f"split {number} has {self._counts[number]} samples: some were counted twice")

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation (divisor: the number of splits, as in the public codes) over splits.

        Between 1 and the number of classes. UserError where no sample was seen.
        """
        if not self._counts:
            raise UserError("an Inception Score needs samples: none were given")
        scores = []
        for number in sorted(self._counts):
            mean = self._sums[number] / self._counts[number]
            marginal = np.sum(mean * np.log(mean, out=np.zeros_like(mean), where=mean > 0))
            scores.append(np.exp(self._entropies[number] / self._counts[number] - marginal))
        return float(np.mean(scores)), float(np.std(scores))

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything needed to go on: `split` (1,), `numbers` (s,), `counts` (s,), `sums` (s, classes), `entropies`."""
        numbers = sorted(self._counts)
        return {
            "split": np.array([self.split], np.int64),
            "numbers": np.array(numbers, np.int64),
            "counts": np.array([self._counts[k] for k in numbers], np.int64),
            "sums": np.array([self._sums[k] for k in numbers], np.float64).reshape(-1, self.classes),
            "entropies": np.array([self._entropies[k] for k in numbers], np.float64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> InceptionScore:
        """The score that gave `state`."""
        score = cls(state["sums"].shape[1], int(state["split"][0]))
        columns = (state[key] for key in ("numbers", "counts", "sums", "entropies"))
        for number, count, total, entropy in zip(*columns, strict=True):
            score._add(int(number), int(count), np.array(total, np.float64), float(entropy))
        return score
