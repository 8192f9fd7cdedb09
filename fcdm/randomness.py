"""Random numbers as a pure function of (seed, purpose, step, position): there is no state to store.

Counter-based Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
What image `position` of step `step` draws does not depend on the device, the number of ranks, the
micro-batch, or on what was drawn before; so a resumed, split or regrouped run draws the same numbers. The
integers are the same everywhere; normal numbers, being made of logarithms and cosines, differ by float
rounding between devices.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


class Purpose(IntEnum):
    """What a number is drawn for. Purposes are independent. Never renumber: runs depend on it."""

    TIMESTEP = 1
    NOISE = 2
    LABEL_DROP = 3
    FLIP = 4
    POSTERIOR = 5
    SAMPLE_START = 6
    SAMPLE_STEP = 7
    SAMPLE_LABEL = 8
    HELDOUT_NOISE = 9
    MODEL = 10


def philox(even: Tensor, odd: Tensor, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Philox4x32-10: four words in, four words out.

    Args:
        even: (2, ...) int64, counter words 0 and 2, each in [0, 2^32).
        odd: same shape, counter words 1 and 3.
        key: two words in [0, 2^32).

    Returns:
        Output words (0 and 2), (1 and 3), in the same layout.
    """
    rows = (2,) + (1,) * (even.ndim - 1)
    schedule = [[(k + r * w) & MASK for k, w in zip(key, KEY_INCREMENTS, strict=True)] for r in range(ROUNDS)]
    # One asynchronous copy for all the constants: a copy that waits would stall a GPU at every draw.
    constants = torch.tensor([MULTIPLIERS, *schedule]).to(even.device, non_blocking=True)
    multipliers, *round_keys = (row.view(rows) for row in constants)
    for round_key in round_keys:
        # The 64-bit product may wrap into the sign bit. Its low half is right all the same, and so is its
        # high half once the sign's copies are masked off. The odd words' high halves are left dirty: the mask
        # drops them.
        product = (even * multipliers).flip(0)
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(round_key).bitwise_and_(MASK)
        odd = product
    return even, odd.bitwise_and_(MASK)


def normal(seed: int, purpose: int, step: int, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, by Box and Muller (1958).

    Args:
        seed: in [0, 2^63).
        purpose: a `Purpose`.
        step: in [0, 2^32).
        positions: (B,) int64, each in [0, 2^32); only the low 32 bits count.
        shape: of what each position draws. A smaller shape's numbers are a larger one's first.

    Returns:
        (B, *shape) float32 on the positions' device; row b is a function of positions[b] alone. All are
        within 6.7.

    Raises:
        ValueError: seed, step or purpose out of range.
    """
    even, odd = _words(seed, purpose, step, positions, -(-math.prod(shape) // 4))
    # 32 bits each. The radius' number lies in (0, 1], so that its logarithm is finite.
    radius = even.add_(1).float().mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = odd.float().mul_(2.0 * math.pi * 2.0**-32)
    return _per_position(torch.stack((radius * angle.cos(), radius * angle.sin())), shape)


def uniform(seed: int, purpose: int, step: int, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Multiples of 2^-24, uniform in [0, 1): (B, *shape) float32. Arguments and errors as in `normal`."""
    even, odd = _words(seed, purpose, step, positions, -(-math.prod(shape) // 4))
    words = _per_position(torch.stack((even, odd)), shape)
    # 24 bits fit float32's significand; 32 would round up to 1.0 now and then.
    return (words >> 8).float().mul_(2.0**-24)


def integers(seed: int, purpose: int, step: int, positions: Tensor, high: int) -> Tensor:
    """Uniform integers in [0, high): (B,) int64, one a position. Other arguments as in `normal`.

    A 32-bit word is scaled down, so no number's probability is off by more than 2^-32.

    Raises:
        ValueError: high not in [1, 2^31], or as in `normal`.
    """
    if not 1 <= high <= 2**31:
        raise ValueError(f"high must be in [1, 2^31], not {high}")
    even, _ = _words(seed, purpose, step, positions, 1)
    return (even[0, :, 0] * high) >> 32


def _words(seed: int, purpose: int, step: int, positions: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Philox words (0 and 2), (1 and 3), each (2, B, blocks), of counter (block, position, step, purpose)."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2^63), not {seed}")
    if not 0 <= step <= MASK:
        raise ValueError(f"step must be in [0, 2^32), not {step}")
    if not 0 <= purpose <= MASK:
        raise ValueError(f"purpose must be in [0, 2^32), not {purpose}")
    if positions.ndim != 1 or positions.dtype != torch.int64:
        raise ValueError(
            f"positions must be a 1-D int64 tensor, not {positions.dtype} of shape {tuple(positions.shape)}"
        )
    even = positions.new_empty(2, len(positions), blocks)
    even[0] = torch.arange(blocks, device=positions.device)
    even[1] = step
    odd = torch.empty_like(even)
    odd[0] = positions[:, None]
    odd[1] = int(purpose)
    return philox(even, odd, (seed & MASK, seed >> 32))


def _per_position(quads: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(2, 2, B, blocks), indexed [odd, pair, position, block], to (B, *shape) in the order of the words."""
    flat = quads.permute(2, 3, 1, 0).reshape(quads.shape[2], quads.shape[3] * 4)
    return flat[:, : math.prod(shape)].reshape(quads.shape[2], *shape)
