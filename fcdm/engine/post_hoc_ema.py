"""Power function averages of the weights, and averages of other lengths after the fact.

EDM2 (arXiv 2312.02696), section 3.1 and appendix C. The average at step t weighs the weights of time tau by the
profile (gamma + 1) tau^gamma / t^(gamma + 1) on (0, t]. Its length is sigma_rel, the profile's standard deviation as a
share of t; so unlike an exponential average of fixed decay it grows with training. Two averages (say of sigma_rel
0.05 and 0.10) are kept in training and saved now and then; a profile of any other length is then approached by a
linear combination of the saved ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.config.ema_profiles import checked_length
from fcdm.errors import UserError

_EXACT_STEPS, _SELDOM = 1024, 64


class Profile(NamedTuple):
    """What an average weighs: gamma >= 0 and the step t >= 1 at which it was taken."""

    step: int
    gamma: float


class Synthesis(NamedTuple):
    """How targets are made of snapshots: sums over the second index."""

    weights: NDArray[np.float64]
    """(targets, snapshots); each row sums to 1."""
    errors: NDArray[np.float64]
    """(targets,) what is left of a target's profile, ||sum - target|| / ||target|| in L2: 0 exact, above 0.1 or so
    not the average that was asked for."""


def gamma_from_sigma_rel(sigma_rel: float) -> float:
    """The exponent gamma >= 0 of an average of relative length sigma_rel (EDM2 section 3.1, algorithm 2).

    Raises:
        UserError: sigma_rel not in (0, 0.2886], the length of the plain mean; shorter than 1e-4 is refused too.
    """
    checked_length(sigma_rel, "power_ema.sigma_rel")
    # sigma_rel^2 (gamma + 2)^2 (gamma + 3) = gamma + 1, a cubic. Beyond gamma = 0 its length only falls.
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(np.max(roots.real)))


def beta(step: int, gamma: float, every: int = 1) -> float:
    """Decay of the update after training step `step`, counted from 1: (1 - every / step)^(gamma + 1).

    0 at the first update, so an average begins as the weights after it. The discrete average then weighs the weights
    of `step` by exactly the profile's integral over (step - every, step].

    Args:
        every: steps since the last update.

    Raises:
        ValueError: more steps since the last update than there were, or fewer than 1.
    """
    if not 1 <= every <= step:
        raise ValueError(f"the last update cannot have been {every} steps before step {step}")
    return math.pow(1.0 - every / step, gamma + 1.0)


def last_update(step: int) -> int:
    """The last step <= `step` after which the averages are updated: a function of the step alone.

    Every step at first, then every 2nd from step 2,048, every 4th from 4,096, ... every 64th from 65,536: under a
    thousandth of the steps so far, a fiftieth of the usual lengths. Late in training 1 - beta is so small that
    float32 rounds much of an update away (sigma_rel 0.10, after 10^6 steps, weights that moved by 0.5 %: half of it is
    lost with an update every step, 0.1 % with one every 16); and fewer updates cost less.
    """
    every = 1
    while every < _SELDOM and step >= 2 * every * _EXACT_STEPS:
        every *= 2
    return step - step % every


@torch.no_grad()
def update_power_ema(average: list[Tensor], current: list[Tensor], step: int, gamma: float, every: int = 1) -> None:
    """average <- beta average + (1 - beta) current, in place, after training step `step` (counted from 1)."""
    torch._foreach_lerp_(average, current, 1.0 - beta(step, gamma, every))


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> NDArray[np.float64]:
    """Integrals of the products of profiles over time, (len(a), len(b)) float64 (EDM2 appendix C).

    With m the smaller step, M the larger, and g the larger one's gamma:
    (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (m / M)^g / M.
    """
    step_a, gamma_a = (np.array(column, dtype=np.float64)[:, None] for column in _columns(a))
    step_b, gamma_b = (np.array(column, dtype=np.float64)[None, :] for column in _columns(b))
    smaller, larger = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
    exponent = np.where(step_a > step_b, gamma_a, gamma_b)
    shared = (gamma_a + 1.0) * (gamma_b + 1.0) / (gamma_a + gamma_b + 1.0)
    product: NDArray[np.float64] = shared * (smaller / larger) ** exponent / larger
    return product


def solve_weights(targets: Sequence[Profile], snapshots: Sequence[Profile]) -> Synthesis:
    """The combinations of snapshots whose profiles come closest, in L2, to the targets' (EDM2 appendix C).

    Beyond the paper, the weights sum to 1, so that what does not move in training is reproduced exactly.

    Raises:
        UserError: no snapshots, one given twice, or a target later than all of them.
    """
    if not snapshots:
        raise UserError("there are no snapshots of power function averages to make another length of")
    if len(set(snapshots)) < len(snapshots):
        raise UserError("a snapshot of a power function average was given twice")
    last = max(profile.step for profile in snapshots)
    late = [profile.step for profile in targets if profile.step > last]
    if late:
        raise UserError(f"an average at step {max(late)} needs snapshots up to it; the last is of step {last}")
    # In units of each profile's own norm: a well-scaled system with ones on its diagonal.
    norms = np.sqrt(np.diag(inner_products(snapshots, snapshots)))
    gram = inner_products(snapshots, snapshots) / np.outer(norms, norms)
    right = inner_products(snapshots, targets) / norms[:, None]
    # Minimise under the condition 1 . (weights / norms) = 1, by a Lagrange multiplier. Profiles of near-by steps are
    # nearly dependent: of equally good solutions lstsq takes the smallest.
    size = norms.min()
    condition = size / norms
    system = np.block([[gram, condition[:, None]], [condition[None, :], np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.vstack([right, np.full((1, len(targets)), size)]), rcond=1e-14)[0]
    scaled = solution[:-1]
    own = np.array([inner_products([target], [target])[0, 0] for target in targets])
    left = np.einsum("kt,kl,lt->t", scaled, gram, scaled) - 2.0 * np.einsum("kt,kt->t", scaled, right) + own
    weights: NDArray[np.float64] = (scaled / norms[:, None]).T
    return Synthesis(weights, np.sqrt(np.maximum(left, 0.0) / own))


@torch.no_grad()
def reconstruct(snapshots: Iterable[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The sum of state dicts times `weights`, added up in float64 and returned in the first one's types.

    Snapshots are read one after the other, so an iterator that loads them keeps one in memory at a time. What is
    not a floating-point tensor is taken from the last.

    Raises:
        UserError: other names or shapes in a snapshot than in the first.
        ValueError: not as many snapshots as weights.
    """
    totals: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for snapshot, weight in zip(snapshots, weights, strict=True):
        if not types:
            types = {name: tensor.dtype for name, tensor in snapshot.items()}
            totals = {
                name: torch.zeros_like(tensor, dtype=torch.float64 if tensor.is_floating_point() else None)
                for name, tensor in snapshot.items()
            }
        odd = sorted(totals.keys() ^ snapshot.keys())
        odd += [name for name in totals.keys() & snapshot.keys() if totals[name].shape != snapshot[name].shape]
        if odd:
            raise UserError(f"snapshots of different models: {', '.join(odd[:4])} are not alike in all of them")
        for name, tensor in snapshot.items():
            if tensor.is_floating_point():
                totals[name].add_(tensor.double(), alpha=float(weight))
            else:
                totals[name].copy_(tensor)
    return {name: total.to(types[name]) for name, total in totals.items()}


def _columns(profiles: Sequence[Profile]) -> tuple[list[int], list[float]]:
    return [profile.step for profile in profiles], [profile.gamma for profile in profiles]
