"""Whether samples lie nearer to the training images than fresh images do: a test of copying by nearest neighbours.

The Mann-Whitney statistic of Meehan, Chaudhuri and Dasgupta 2020 (arXiv 2004.05675, section 3.1): the share of pairs
of a sample and a held-out image in which the sample is nearer to its nearest training image. 0.5 where samples are as
near as fresh images of the same distribution, more where training images are copied, less where samples lie off. It is
taken over all of the space at once, not cell by cell as their C_T, so that copying in one place can hide behind samples
that are off in another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.metrics.float32 import plain_float32

BLOCK = 4096

Rows = Tensor | NDArray[Any]


def data_copying(
    samples: Rows,
    heldout: Rows,
    train: Rows,
    block: int = BLOCK,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """The share of (sample, held-out image) pairs in which the sample is nearer to training images; ties count half.

    Of features `samples` (m, d), `heldout` (n, d) and `train` (k, d), at least one row each. block: rows taken at a
    time, which bounds the memory beside the features to some block^2 + 2 block d floats on `device`.
    progress: called with (blocks done, blocks in all).
    """
    sides = [torch.as_tensor(rows).detach().float() for rows in (samples, heldout)]
    others = torch.as_tensor(train).detach().float()
    total = sum(-(-len(rows) // block) for rows in sides) * -(-len(others) // block)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    mine, fresh = (_to_nearest(rows, others, block, device, step) for rows in sides)
    ordered = fresh.sort().values
    above = len(fresh) - torch.searchsorted(ordered, mine, right=True)
    not_below = len(fresh) - torch.searchsorted(ordered, mine, right=False)
    return float((above + not_below).double().mean()) / (2 * len(fresh))


@torch.no_grad()
def _to_nearest(
    rows: Tensor, others: Tensor, block: int, device: str | torch.device, step: Callable[[], None]
) -> Tensor:
    """Squared distance (n,) float32 of each row to the nearest of the others, on the CPU."""
    found = []
    with plain_float32(torch.device(device)), torch.autocast(torch.device(device).type, enabled=False):
        for mine in torch.split(rows, block):
            u = mine.to(device)
            nearest = torch.full((len(u),), torch.inf, device=device)
            for part in torch.split(others, block):
                v = part.to(device)
                # |u|^2 is the same for all v, and added once.
                distances = torch.addmm(v.square().sum(dim=1), u, v.T, alpha=-2)
                nearest = torch.minimum(nearest, distances.amin(dim=1))
                step()
            found.append((nearest + u.square().sum(dim=1)).cpu())
    return torch.cat(found)
