"""The joint law of size and data, L(N, D) = E + A N^-alpha + B D^-beta, and a second form that is its check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fcdm.cost.model_cost import ModelCost

FLOPS_PER_MAC = ModelCost(forward_macs=1).train_flops_per_image
"""Training FLOPs of an image for each MAC of the forward pass: three passes, two operations a multiply-accumulate."""
FORMS = {
    "additive": "E + A N^-alpha + B D^-beta",
    "Kaplan's": "E + ((A N^-alpha)^(1/beta) + (B D^-beta)^(1/beta))^beta",
}
"""The additive one is Hoffmann et al.'s (arXiv 2203.15556, approach 3). The other is equation 1.5 of Kaplan et al.
(arXiv 2001.08361) with an E: of a lack of size and a lack of data, the larger one decides more."""
MOST_MULTIPLE = 1e6
"""Compute is followed so far, up and down, for a compute-equivalent."""


@dataclass(frozen=True)
class JointLaw:
    """L(N, D): N is the size of a model (forward MACs, or parameters), D the images it was trained on."""

    offset: float
    """E, in L's unit: what neither size nor data removes."""
    size_scale: float
    """A: moves with the unit of N. 0: the points show no effect of size."""
    size_exponent: float
    """alpha."""
    data_scale: float
    """B: moves with the unit of D. 0: the points show no effect of data."""
    data_exponent: float
    """beta."""
    form: str = "additive"
    """Which of FORMS."""

    def __call__(self, n: ArrayLike, d: ArrayLike) -> np.ndarray:
        """L at sizes `n` and images `d` > 0, of shapes that broadcast."""
        return np.asarray(values_of(np.array([self.numbers]), n, d, self.form)[0])

    @classmethod
    def of_row(cls, numbers: np.ndarray, form: str = "additive") -> JointLaw:
        """Of `numbers` (5,)."""
        offset, size_scale, size_exponent, data_scale, data_exponent = map(float, numbers)
        return cls(offset, size_scale, size_exponent, data_scale, data_exponent, form)

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        """E, A, alpha, B, beta: a row of the arrays of many laws."""
        return self.offset, self.size_scale, self.size_exponent, self.data_scale, self.data_exponent

    def along_compute(self, n: float, d: float) -> list[tuple[float, float]]:
        """(multiple of the compute of (n, d), L there), both N and D times its root: for `compute_equivalent`.

        Only where L still falls by more than rounding.
        """
        multiples = np.exp(np.linspace(-1, 1, 121) * np.log(MOST_MULTIPLE))
        values = self(n * np.sqrt(multiples), d * np.sqrt(multiples))
        falls = np.concatenate([[True], np.diff(values) < -1e-12 * values[1:]])
        return [(float(x), float(y)) for x, y in zip(multiples[falls], values[falls], strict=True)]


def values_of(numbers: np.ndarray, n: ArrayLike, d: ArrayLike, form: str = "additive") -> np.ndarray:
    """L of many laws, rows E, A, alpha, B, beta of shape (laws, 5), at n and d of one shape: (laws, *shape)."""
    n, d = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(d, dtype=float))
    axes = (slice(None), *[None] * n.ndim)
    offset, size_scale, alpha, data_scale, beta = (column[axes] for column in numbers.T)
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        of_size, of_data = np.log(size_scale) - alpha * np.log(n), np.log(data_scale) - beta * np.log(d)
        sharpness = beta if form == "Kaplan's" else 1.0
        return np.asarray(offset + np.exp(sharpness * np.logaddexp(of_size / sharpness, of_data / sharpness)))


def optima_of(numbers: np.ndarray, compute: ArrayLike, form: str = "additive") -> tuple[np.ndarray, ...]:
    """The lowest L of each law, rows of shape (laws, 5), at training FLOPs C = 6 N D, with N in forward MACs.

    N and D of shape (laws, *compute), and the exponent of N (laws,): N = G (C / 6)^(b / (a + b)) with
    G = (a A / b B)^(1 / (a + b)) (arXiv 2203.15556, equation 4); D's is one less that. Of a law without an effect of
    size or of data, 0 or infinite.
    """
    _, size_scale, alpha, data_scale, beta = numbers.T
    sharpness = beta if form == "Kaplan's" else np.ones_like(beta)  # its least is that of P^(1/s) + Q^(1/s)
    a, b = alpha / sharpness, beta / sharpness
    pairs = np.asarray(compute, dtype=float) / FLOPS_PER_MAC
    axes = (slice(None), *[None] * pairs.ndim)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        log_g = (np.log(a / b) + (np.log(size_scale) - np.log(data_scale)) / sharpness) / (a + b)
        exponent = b / (a + b)
        n = np.exp(log_g[axes] + exponent[axes] * np.log(pairs))
        return n, pairs / n, exponent
