"""The kernel distance between two sets of features (KID, KDD), unbiased, with its standard error.

KID (Binkowski et al. 2018, arXiv 1801.01401) is the squared maximum mean discrepancy under the cubic polynomial kernel
k(x, y) = (x.y / d + 1)^3: unlike a Fréchet distance it has no bias at few samples, so that it may come out below 0.

The value is the U-statistic over all pairs, not a mean over random blocks: nothing is drawn, and no pair is left out.
Its variance is Hoeffding's, with every term estimated without bias: what one sample moves (the part of order 1/m), and
what a pair moves (of order 1/m^2), which is all that is left where both sets are of one distribution. Both sets count
as drawn: the error is that of another set of samples *and* of other real images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.errors import UserError
from fcdm.metrics.least_images import LEAST

BLOCK = 2048


@dataclass(frozen=True)
class KernelDistance:
    value: float
    """Squared; its expectation is 0 for two sets of one distribution."""
    standard_error: float


@dataclass(frozen=True)
class _Pairs:
    """Sums of the kernel over the pairs of two sets (n, m), or of one with itself but for each point with itself."""

    rows: Tensor
    """(n,) float64, over the second set."""
    columns: Tensor
    """(m,), over the first."""
    squares: float
    """Of the kernel's square."""

    @property
    def total(self) -> float:
        return float(self.rows.sum())


def kernel_distance(
    samples: Tensor | NDArray[Any],
    reference: Tensor | NDArray[Any],
    block: int = BLOCK,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> KernelDistance:
    """Of features `samples` (m, d) and `reference` (n, d), in float64; at least 4 rows each.

    block: rows taken at a time, which bounds the memory beside the features to some block^2 + 2 block d numbers on
    `device`. progress: called with (blocks done, blocks in all). UserError for too few rows and numbers that are not
    finite.
    """
    x, y = _rows(samples, "samples"), _rows(reference, "reference")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of two extractors: {x.shape[1]} and {y.shape[1]} of them")
    parts_x, parts_y = -(-len(x) // block), -(-len(y) // block)
    shares = (parts_x * (parts_x + 1) // 2, parts_y * (parts_y + 1) // 2, parts_x * parts_y)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, sum(shares))

    with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
        xx, yy = _within(x, block, device, step), _within(y, block, device, step)
        xy = _between(x, y, block, device, step)
    m, n = len(x), len(y)
    value = xx.total / (m * (m - 1)) + yy.total / (n * (n - 1)) - 2 * xy.total / (m * n)
    return KernelDistance(value, _variance(xx, yy, xy) ** 0.5)


def _variance(xx: _Pairs, yy: _Pairs, xy: _Pairs) -> float:
    """Of the U-statistic, by its Hoeffding decomposition: kernel = mean + parts of one point + a rest of both.

    Without bias but for the bound from below, the rests' own part, which is all there is where both sets are of one
    distribution: there the error comes out too large, by up to 30 % where it was measured.
    """
    m, n = len(xx.rows), len(yy.rows)
    rest_xx, rest_yy = _rest_within(xx), _rest_within(yy)
    rest_xy = (
        xy.squares - float(xy.rows.square().sum()) / n - float(xy.columns.square().sum()) / m + xy.total**2 / (m * n)
    ) / ((m - 1) * (n - 1))
    # The means over the other points carry those rests' noise, which is taken off again.
    of_x = float((xx.rows / (m - 2) - xy.rows / n).var()) - rest_xx / (m - 2) - rest_xy / n
    of_y = float((yy.rows / (n - 2) - xy.columns / m).var()) - rest_yy / (n - 2) - rest_xy / m
    rests = 2 * rest_xx / (m * (m - 1)) + 2 * rest_yy / (n * (n - 1)) + 4 * rest_xy / (m * n)
    return max(4 * of_x / m + 4 * of_y / n + rests, rests, 0.0)


def _rest_within(pairs: _Pairs) -> float:
    """Mean square of the doubly centred kernel, without bias (U-centring; Székely & Rizzo 2014, arXiv 1310.2926)."""
    n = len(pairs.rows)
    squares = pairs.squares - 2 * float(pairs.rows.square().sum()) / (n - 2)
    return (squares + pairs.total**2 / ((n - 1) * (n - 2))) / (n * (n - 3))


def _within(points: Tensor, block: int, device: str | torch.device, step: Callable[[], None]) -> _Pairs:
    """Of a set with itself: each pair of blocks is computed once and serves both its rows and its columns."""
    rows = torch.zeros(len(points), dtype=torch.float64)
    squares = 0.0
    blocks = _blocks(len(points), block)
    for number, first in enumerate(blocks):
        mine = points[first].to(device, torch.float64)
        for second in blocks[number:]:
            same = first == second
            kernel = _kernel(mine, mine if same else points[second].to(device, torch.float64))
            if same:
                kernel.fill_diagonal_(0)
            else:
                rows[second] += kernel.sum(dim=0).cpu()
            rows[first] += kernel.sum(dim=1).cpu()
            squares += float(kernel.square_().sum()) * (1 if same else 2)
            step()
    return _Pairs(rows, rows, squares)


def _between(x: Tensor, y: Tensor, block: int, device: str | torch.device, step: Callable[[], None]) -> _Pairs:
    rows, columns = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    squares = 0.0
    for first in _blocks(len(x), block):
        mine = x[first].to(device, torch.float64)
        for second in _blocks(len(y), block):
            kernel = _kernel(mine, y[second].to(device, torch.float64))
            rows[first] += kernel.sum(dim=1).cpu()
            columns[second] += kernel.sum(dim=0).cpu()
            squares += float(kernel.square_().sum())
            step()
    return _Pairs(rows, columns, squares)


def _kernel(u: Tensor, v: Tensor) -> Tensor:
    """(u.v / d + 1)^3 - 1 of u (n, d) and v (m, d): (n, m). The 1 falls out of the distance, and costs digits."""
    t = (u @ v.T).div_(u.shape[1])
    return (t + 3).mul_(t).add_(3).mul_(t)


def _blocks(count: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, count)) for start in range(0, count, block)]


def _rows(features: Tensor | NDArray[Any], name: str) -> Tensor:
    """(n, d), of whatever precision they have."""
    rows = torch.as_tensor(features).detach()
    if rows.ndim != 2:
        raise ValueError(f"{name} have shape {tuple(rows.shape)}, expected (n, d)")
    if len(rows) < LEAST:
        raise UserError(f"a kernel distance needs at least {LEAST} images, the {name} are {len(rows)}")
    bad = ~torch.isfinite(rows).all(dim=1)
    if bad.any():
        raise UserError(
            f"features of {int(bad.sum())} of {len(rows)} {name} are NaN or infinite: the images or the extractor's "
            "weights are damaged; make both again"
        )
    return rows
