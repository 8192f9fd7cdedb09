"""Random numbers as a pure function of (seed, purpose, step, position): there is no state to store.

Counter-based Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
What image `position` of step `step` draws does not depend on the device, the number of ranks, the
micro-batch, or on what was drawn before; so a resumed, split or regrouped run draws the same numbers. The
integers are the same everywhere; normal numbers, being made of logarithms and cosines, differ by float
rounding between devices.

On a GPU an operation costs its launch, not its arithmetic, so all numbers of a step come of one pass (`Draws`), and a
round of Philox is three operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate

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
    OPTIMISER = 11
    SAMPLE_CONDITION = 12


@dataclass(frozen=True)
class Normal:
    """Standard normal numbers, by Box and Muller (1958): float32, all within 6.7."""

    purpose: int
    shape: tuple[int, ...]
    """Of what each position draws. A smaller shape's numbers are a larger one's first."""


@dataclass(frozen=True)
class Uniform:
    """Multiples of 2^-24, uniform in [0, 1): float32."""

    purpose: int
    shape: tuple[int, ...]
    """As for `Normal`."""


@dataclass(frozen=True)
class Integers:
    """One integer a position, uniform in [0, high): int64.

    A 32-bit word is scaled down, so no number's probability is off by more than 2^-32.
    """

    purpose: int
    high: int
    """In [1, 2^31]."""

    shape = ()


Asked = Normal | Uniform | Integers


class Draws:
    """Draws numbers of several purposes for the same positions, all of them in one pass of Philox.

    Args:
        seed: in [0, 2^63).
        positions: (B,) int64, each in [0, 2^32); only the low 32 bits count.
        asked: what each position draws.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, seed: int, positions: Tensor, *asked: Asked) -> None:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), not {seed}")
        if positions.ndim != 1 or positions.dtype != torch.int64:
            raise ValueError(
                f"positions must be a 1-D int64 tensor, not {positions.dtype} of shape {tuple(positions.shape)}"
            )
        for one in asked:
            if not 0 <= one.purpose <= MASK:
                raise ValueError(f"purpose must be in [0, 2^32), not {one.purpose}")
            if isinstance(one, Integers) and not 1 <= one.high <= 2**31:
                raise ValueError(f"high must be in [1, 2^31], not {one.high}")
        self.asked, self.key = asked, (seed & MASK, seed >> 32)
        # Of a kind side by side, so that each kind is made in one go.
        order = sorted(range(len(asked)), key=lambda number: (Normal, Uniform, Integers).index(type(asked[number])))
        sizes = [-(-math.prod(asked[number].shape) // 4) for number in order]
        starts = list(accumulate(sizes, initial=0))
        self._starts = dict(zip(order, starts, strict=False))
        self._normals, self._uniforms = (
            starts[sum(isinstance(one, kinds) for one in asked)] for kinds in (Normal, Normal | Uniform)
        )
        # Words 0 and 2 of the counters are block and step, words 1 and 3 position and purpose.
        self._blocks = torch.cat([torch.arange(size, device=positions.device) for size in sizes])
        self._odd = positions.new_empty(2, 1, len(positions), starts[-1])
        self._odd[0] = positions[:, None]
        for number, part in zip(order, torch.split(self._odd[1], sizes, dim=-1), strict=True):
            part.fill_(int(asked[number].purpose))

    def __call__(self, step: int) -> list[Tensor]:
        """For each of what is asked (B, *shape) on the positions' device; row b is a function of positions[b] alone.

        Raises ValueError: step not in [0, 2^32).
        """
        return [numbers[0] for numbers in self.steps(step, 1)]

    def steps(self, first: int, count: int) -> list[Tensor]:
        """As (count, B, *shape): what `count` steps from `first` on draw, in one pass for all of them."""
        if not 0 <= first <= first + count - 1 <= MASK:
            raise ValueError(f"step must be in [0, 2^32), not {first} to {first + count - 1}")
        even = self._odd.new_empty(2, count, *self._odd.shape[2:])
        even[0] = self._blocks
        if count == 1:
            even[1].fill_(first)
        else:
            even[1] = torch.arange(first, first + count, device=even.device)[:, None, None]
        even, odd = philox(even, self._odd, self.key)
        m, u = self._normals, self._uniforms
        gauss = _normal_of(even[..., :m], odd[..., :m]) if m else even
        flat = _uniform_of(even[..., m:u], odd[..., m:u]) if u > m else even
        found = []
        for number, one in enumerate(self.asked):
            start = self._starts[number]
            if isinstance(one, Integers):
                found.append((even[0, ..., start] * one.high) >> 32)
            else:
                numbers = gauss[..., 4 * start :] if isinstance(one, Normal) else flat[..., 4 * (start - m) :]
                found.append(numbers[..., : math.prod(one.shape)].reshape(count, -1, *one.shape))
        return found


def normal(seed: int, purpose: int, step: int, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`Normal` numbers (B, *shape) alone. Arguments and errors as in `Draws`."""
    return Draws(seed, positions, Normal(purpose, shape))(step)[0]


def uniform(seed: int, purpose: int, step: int, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`Uniform` numbers (B, *shape) alone. Arguments and errors as in `Draws`."""
    return Draws(seed, positions, Uniform(purpose, shape))(step)[0]


def integers(seed: int, purpose: int, step: int, positions: Tensor, high: int) -> Tensor:
    """`Integers` (B,) alone. Arguments and errors as in `Draws`."""
    return Draws(seed, positions, Integers(purpose, high))(step)[0]


def philox(even: Tensor, odd: Tensor, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Philox4x32-10: four words in, four words out.

    Args:
        even: (2, ...) int64, counter words 0 and 2, each in [0, 2^32), contiguous. Overwritten.
        odd: int64 that broadcasts to it, counter words 1 and 3; only the low 32 bits count.
        key: two words in [0, 2^32).

    Returns:
        Output words (0 and 2), (1 and 3), each (2, ...) int64 in [0, 2^32).
    """
    multipliers, round_keys = _constants(key, even.device, even.ndim)
    # A product's two halves are looked at in place, as int32 (the low one comes first: all machines that torch runs on
    # are little-endian), and only low halves of `even` are written, so that nothing is shifted and nothing masked.
    even_words = even.view(torch.int32)[..., ::2]
    odd_words = odd.view(torch.int32)[..., ::2]
    # Both products, twice over: rows 1 and 2 of these four are rows 1 and 0 of the two, the swap of a round. In turns,
    # since a round needs the low halves of the one before.
    products = even.new_empty(2, 4, *even.shape[1:])
    swapped = products[:, 1:3]
    halves = swapped.view(torch.int32)
    low, high = halves[..., ::2].unbind(0), halves[..., 1::2].unbind(0)
    twice, outputs = even.expand(2, *even.shape), products.view(2, 2, *even.shape).unbind(0)
    for number, round_key in enumerate(round_keys):
        turn = number % 2
        torch.mul(twice, multipliers, out=outputs[turn])
        torch.bitwise_xor(high[turn], odd_words, out=even_words)
        even_words.bitwise_xor_(round_key)
        odd_words = low[turn]
    return even, swapped[(ROUNDS - 1) % 2].bitwise_and(MASK)


@lru_cache(maxsize=256)
def _constants(key: tuple[int, int], device: torch.device, dimensions: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Multipliers (2, 1, ...) int64 and the rounds' keys, each (2, 1, ...) int32: copied to the device once."""
    schedule = [[(k + r * w) & MASK for k, w in zip(key, KEY_INCREMENTS, strict=True)] for r in range(ROUNDS)]
    constants = torch.tensor([MULTIPLIERS, *schedule]).to(device).view(-1, 2, *[1] * (dimensions - 1))
    return constants[0], constants[1:].view(torch.int32)[..., :1].unbind(0)


def _normal_of(even: Tensor, odd: Tensor) -> Tensor:
    """Words (2, ..., blocks) to (..., 4 * blocks): two words make two numbers. Overwrites both."""
    # 32 bits each. The radius' number lies in (0, 1], so that its logarithm is finite.
    radius = even.add_(1).mul(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = odd.mul(2.0 * math.pi * 2.0**-32)
    made = radius.new_empty(*even.shape[1:], 2, 2)
    cosines, sines = made.movedim((-1, -2), (0, 1)).unbind(0)
    torch.mul(radius, angle.cos(), out=cosines)
    torch.mul(radius, angle.sin(), out=sines)
    return made.flatten(-3)


def _uniform_of(even: Tensor, odd: Tensor) -> Tensor:
    """Words (2, ..., blocks) to (..., 4 * blocks) in their order."""
    words = torch.stack((even[0], odd[0], even[1], odd[1]), dim=-1).flatten(-2)
    # 24 bits fit float32's significand; 32 would round up to 1.0 now and then.
    return (words >> 8).mul(2.0**-24)
