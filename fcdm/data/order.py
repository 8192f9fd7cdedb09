"""In which order training sees the data."""

from __future__ import annotations

import numpy as np


class DataOrder:
    """Which item stands at which place of the endless stream of shuffled epochs.

    A pure function of (seed, place): no state, so a resume needs none, and any rank can ask for its part.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def items(self, start: int, count: int) -> np.ndarray:
        """Indices (count,) int64 of places start ... start + count - 1."""
        places = np.arange(start, start + count, dtype=np.int64)
        epochs, offsets = np.divmod(places, self.size)
        found = np.empty(count, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            found[here] = self._shuffled(epoch)[offsets[here]]
        return found

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            # Sorting raw words: numpy promises the bit stream of Philox, not Generator.permutation's use of it.
            words = np.random.Philox(key=[self.seed, epoch]).random_raw(self.size)
            self._epoch, self._permutation = epoch, np.argsort(words, kind="stable")
        return self._permutation
