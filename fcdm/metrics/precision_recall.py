"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), in blocks that fit memory.

Precision is the share of samples that lie within the reference's manifold, recall the share of the reference
within the samples' manifold. A set's manifold is the union of balls around its points, each with the distance
to its k-th nearest neighbour as its radius. As in ADM's evaluator distances stay squared, and a point on a
ball's surface is in it.

Float32, and not ADM's float16: squared distances of Inception features are some hundred, which float16 rounds
to quarters, and ties count as inside; above 65,504 it overflows. Float64 takes twice the time and memory, and
changes no count until two distances agree to six digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.errors import UserError
from fcdm.metrics.float32 import plain_float32

K = 3
BLOCK = 4096
SAME = 2.0**-18
"""Relative to |u|^2 + |v|^2: a squared distance below this is float32's rounding, and the two points are one."""

Points = Tensor | NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with (blocks done, blocks in all)."""


@dataclass(frozen=True)
class PrecisionRecall:
    precision: float
    recall: float


def precision_recall(
    reference: Points,
    samples: Points,
    k: int = K,
    block: int = BLOCK,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> PrecisionRecall:
    """Of features `reference` (n, d) and `samples` (m, d).

    `block`: rows taken at a time, which bounds the memory beside the features to about 3 block^2 + 2 block d
    floats on `device` (280 MB at 4,096 rows of 2,048); it moves the result by near ties only. The features may
    stay on another device. UserError for numbers that are not finite and for sets of k points or fewer.
    """
    report = progress or _silent
    a, b = _points(reference, "reference", k), _points(samples, "samples", k)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of two extractors: {a.shape[1]} and {b.shape[1]} of them")
    parts_a, parts_b = -(-len(a) // block), -(-len(b) // block)
    triangles = parts_a * (parts_a + 1) // 2, parts_b * (parts_b + 1) // 2
    total = sum(triangles) + parts_a * parts_b
    radii_a = manifold_radii(a, k, block, device, lambda done, _: report(done, total))
    radii_b = manifold_radii(b, k, block, device, lambda done, _: report(triangles[0] + done, total))
    a_inside, b_inside = torch.zeros(len(a), dtype=torch.bool), torch.zeros(len(b), dtype=torch.bool)
    done = sum(triangles)
    with torch.no_grad(), plain_float32(torch.device(device)):
        for rows in _blocks(len(a), block):
            for columns in _blocks(len(b), block):
                distances = _squared_distances(a[rows].to(device), b[columns].to(device))
                a_inside[rows] |= (distances <= radii_b[columns].to(device)).any(dim=1).cpu()
                b_inside[columns] |= (distances <= radii_a[rows, None].to(device)).any(dim=0).cpu()
                done += 1
                report(done, total)
    return PrecisionRecall(float(b_inside.double().mean()), float(a_inside.double().mean()))


def manifold_radii(
    features: Points,
    k: int = K,
    block: int = BLOCK,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Squared distance (n,) float32 of each of `features` (n, d) to its k-th nearest neighbour, on the CPU.

    The (k+1)-th smallest distance to all points, the point itself among them at 0. Each pair of blocks is
    computed once and serves both its rows and its columns. Other arguments and errors as in `precision_recall`.
    """
    points = _points(features, "features", k)
    device = torch.device(device)
    nearest = torch.full((len(points), k + 1), torch.inf, device=device)
    blocks = _blocks(len(points), block)
    done, total = 0, len(blocks) * (len(blocks) + 1) // 2
    with torch.no_grad(), plain_float32(device):
        for i, rows in enumerate(blocks):
            mine = points[rows].to(device)
            for columns in blocks[i:]:
                same = columns == rows
                distances = _squared_distances(mine, mine if same else points[columns].to(device))
                if same:
                    distances.fill_diagonal_(0)
                _keep_nearest(nearest[rows], distances)
                if not same:
                    _keep_nearest(nearest[columns], distances.T)
                done += 1
                if progress:
                    progress(done, total)
    return nearest[:, k].cpu()


def _keep_nearest(nearest: Tensor, distances: Tensor) -> None:
    """Into `nearest` (n, k+1), ascending, goes what is smaller in `distances` (n, m)."""
    # Selecting is slow and the minimum is fast; most rows of most blocks hold nothing nearer.
    rows = (distances.amin(dim=1) < nearest[:, -1]).nonzero().squeeze(1)
    if len(rows):
        candidates = torch.cat([nearest[rows], distances[rows]], dim=1)
        nearest[rows] = candidates.topk(nearest.shape[1], dim=1, largest=False, sorted=True).values


def _squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """|u_i - v_j|^2 of u (n, d) and v (m, d): (n, m) float32."""
    u_norms, v_norms = u.square().sum(dim=1), v.square().sum(dim=1)
    distances = torch.addmm(v_norms, u, v.T, alpha=-2).add_(u_norms[:, None])
    # Else copies of one image, such as a collapsed model makes, would be apart by the rounding of their norms.
    return distances.masked_fill_(distances < SAME * (u_norms[:, None] + v_norms), 0)


def _blocks(count: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, count)) for start in range(0, count, block)]


def _points(features: Points, name: str, k: int) -> Tensor:
    """As float32 (n, d), where they are."""
    points = torch.as_tensor(features).detach().float()
    if points.ndim != 2:
        raise ValueError(f"{name} have shape {tuple(points.shape)}, expected (n, d)")
    if len(points) <= k:
        raise UserError(f"precision and recall need more than k = {k} images, the {name} are {len(points)}")
    bad = ~torch.isfinite(torch.linalg.vector_norm(points, dim=1))
    if bad.any():
        raise UserError(
            f"features of {int(bad.sum())} of {len(points)} {name} are NaN or infinite: the images or the extractor's "
            "weights are damaged; make both again"
        )
    return points


def _silent(done: int, total: int) -> None:
    pass
