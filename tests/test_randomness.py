"""Philox against its published answers, and the distributions and independence of what is drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fcdm.randomness import Draws, Integers, Normal, Purpose, Uniform, integers, normal, philox, uniform
from tests.support.launches import Launches

POSITIONS = torch.arange(256)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    """The known-answer vectors of Random123 (file kat_vectors, philox4x32 10)."""
    c = [int(word, 16) for word in counter.split()]
    k = [int(word, 16) for word in key.split()]
    even, odd = philox(torch.tensor([[c[0]], [c[2]]]), torch.tensor([[c[1]], [c[3]]]), (k[0], k[1]))
    words = [even[0, 0], odd[0, 0], even[1, 0], odd[1, 0]]
    assert " ".join(f"{int(word):08x}" for word in words) == answer


def reference_words(block: int, position: int, step: int, purpose: int, seed: int) -> list[int]:
    """Philox4x32-10 in Python's unbounded integers, as in the paper."""
    c0, c1, c2, c3 = block, position, step, purpose
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**32 - 1),
    purpose=st.sampled_from(Purpose),
    positions=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
)
def test_counter_words_are_block_position_step_purpose(
    seed: int, step: int, purpose: Purpose, positions: list[int]
) -> None:
    drawn = torch.tensor(positions)
    numbers = uniform(seed, purpose, step, drawn, (9,))
    gauss = normal(seed, purpose, step, drawn, (2, 4))
    whole = integers(seed, purpose, step, drawn, 1000)
    for row, position in enumerate(positions):
        words = [w for block in range(3) for w in reference_words(block, position, step, purpose, seed)]
        assert numbers[row].tolist() == [(w >> 8) / 2**24 for w in words[:9]]
        assert whole[row] == words[0] * 1000 >> 32
        pairs = np.array(words[:8], dtype=np.float64).reshape(4, 2)
        radius, angle = np.sqrt(-2 * np.log((pairs[:, 0] + 1) / 2**32)), 2 * np.pi * pairs[:, 1] / 2**32
        expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(2, 4)
        # A float32 u1 next to 1 has no finer steps than 6e-8, so a tiny radius is off by up to 2.5e-4.
        np.testing.assert_allclose(gauss[row].numpy(), expected, rtol=2e-5, atol=3e-4)


@given(seed=st.integers(0, 2**63 - 1), first=st.integers(0, 2**32 - 3), positions=st.lists(st.integers(0, 2**32 - 1)))
def test_numbers_drawn_together_are_those_drawn_alone(seed: int, first: int, positions: list[int]) -> None:
    """Of several purposes, and of several steps, in one pass."""
    places = torch.tensor(positions, dtype=torch.int64)
    asked = (
        Uniform(Purpose.LABEL_DROP, (3,)),
        Normal(Purpose.NOISE, (2, 3, 3)),
        Integers(Purpose.TIMESTEP, 1000),
        Normal(Purpose.POSTERIOR, (5,)),
        Uniform(Purpose.FLIP, ()),
    )
    draws = Draws(seed, places, *asked)
    alone = [
        [
            uniform(seed, Purpose.LABEL_DROP, step, places, (3,)),
            normal(seed, Purpose.NOISE, step, places, (2, 3, 3)),
            integers(seed, Purpose.TIMESTEP, step, places, 1000),
            normal(seed, Purpose.POSTERIOR, step, places, (5,)),
            uniform(seed, Purpose.FLIP, step, places, ()),
        ]
        for step in range(first, first + 3)
    ]
    for wanted, found in zip(alone[1], draws(first + 1), strict=True):
        assert torch.equal(wanted, found)
    for number, found in enumerate(draws.steps(first, 3)):
        assert torch.equal(torch.stack([step[number] for step in alone]), found)


def test_a_pass_takes_few_operations() -> None:
    """Three for a round of Philox, of whatever number of numbers, purposes and steps."""
    key = (1, 2)
    philox(torch.ones(2, 1, 1, 1, dtype=torch.int64), torch.ones(2, 1, 1, 1, dtype=torch.int64), key)
    draws = Draws(0, POSITIONS, Normal(Purpose.NOISE, (4, 8, 8)), Normal(Purpose.POSTERIOR, (4, 8, 8)))
    draws(0)
    with Launches() as rounds:
        philox(torch.ones(2, 1, 1, 1, dtype=torch.int64), torch.ones(2, 1, 1, 1, dtype=torch.int64), key)
    assert rounds.count <= 31 + 2, rounds.by_name  # two make the counters here
    for count in (1, 8):
        with Launches() as launches:
            draws.steps(1, count)
        assert launches.count <= 44, launches.by_name


@pytest.mark.parametrize("shape", [(), (1,), (3,), (64,), (1, 8, 8), (4, 32, 32), (1023,)])
@pytest.mark.parametrize("draw", [normal, uniform])
def test_a_position_draws_the_same_alone(draw: object, shape: tuple[int, ...]) -> None:
    assert callable(draw)
    together = draw(7, Purpose.NOISE, 11, torch.arange(16), shape)
    assert together.shape == (16, *shape)
    for some in ([5, 9], [15], [9, 5, 5], list(range(1, 16))):
        assert torch.equal(draw(7, Purpose.NOISE, 11, torch.tensor(some), shape), together[some])
    assert draw(7, Purpose.NOISE, 11, torch.arange(0), shape).shape == (0, *shape)
    flat = draw(7, Purpose.NOISE, 11, torch.arange(16), (4100,))
    assert torch.equal(flat[:, : together[0].numel()], together.reshape(16, -1))


def test_normal_moments_and_distribution() -> None:
    """2^20 numbers: each bound is five standard errors, but for the extremes."""
    x = normal(3, Purpose.NOISE, 5, POSITIONS, (4096,)).double().flatten()
    n = x.numel()
    assert abs(x.mean()) < 5 * (1 / n) ** 0.5
    assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((x**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert 4.3 < x.abs().max() < 6.7
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3
    # The four numbers of a block come from different words; each must be normal by itself.
    for lane in range(4):
        assert stats.kstest(x[lane::4].numpy(), "norm").pvalue > 1e-3


def test_uniform_distribution() -> None:
    x = uniform(3, Purpose.LABEL_DROP, 5, POSITIONS, (4096,)).double().flatten()
    assert x.min() >= 0
    assert x.max() < 1
    assert stats.kstest(x.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_the_rarest_words_give_numbers_in_range(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No logarithm of 0 and no 1.0: a word of 0 would take 2^32 draws to meet, so it is put in place."""

    def words(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((2, 1, 1, 1), word), torch.full((2, 1, 1, 1), word)

    monkeypatch.setattr("fcdm.randomness.philox", words)
    positions = torch.arange(1)
    assert normal(0, Purpose.NOISE, 0, positions, (4,)).abs().max() < 6.7
    numbers = uniform(0, Purpose.NOISE, 0, positions, (4,))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert integers(0, Purpose.TIMESTEP, 0, positions, 2**31) == word >> 1


@pytest.mark.parametrize("high", [1, 2, 10, 1000])
def test_integers_are_uniform(high: int) -> None:
    drawn = integers(0, Purpose.TIMESTEP, 4, torch.arange(200_000), high)
    counts = torch.bincount(drawn, minlength=high)
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_other_seeds_steps_purposes_and_positions_are_independent() -> None:
    """Correlations of 4096 numbers are within five standard errors of 0, for neighbouring counters too."""
    shape = (4096,)
    base = {"seed": 1, "purpose": Purpose.NOISE, "step": 3}
    rows = [normal(**base, positions=torch.arange(4), shape=shape)]
    rows += [
        normal(**{**base, **change}, positions=torch.arange(1), shape=shape)
        for change in (
            {"seed": 2},
            {"seed": 1 + 2**32},
            {"step": 4},
            {"purpose": Purpose.SAMPLE_STEP},
            {"step": 2, "purpose": 3},  # the counter's last two words swapped
        )
    ]
    correlation = np.corrcoef(torch.cat(rows).numpy())
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / 4096**0.5


def test_serial_correlation_within_a_position() -> None:
    x = normal(9, Purpose.NOISE, 0, torch.arange(1), (2**18,))[0]
    for lag in (1, 2, 3, 4, 8, 64):
        assert abs((x[lag:] * x[:-lag]).mean()) < 5 / 2**9


def test_numbers_never_change() -> None:
    """Runs that stand on disk depend on these: a change here is a change of every result."""
    positions = torch.tensor([0, 1])
    assert integers(0, Purpose.TIMESTEP, 1, positions, 1000).tolist() == [870, 739]
    numbers = uniform(2**62 + 1, Purpose.LABEL_DROP, 400_000, positions, (2,))
    assert numbers.tolist() == [
        [0.22052031755447388, 0.19249320030212402],
        [0.6856372356414795, 0.175514817237854],
    ]
    gauss = normal(0, Purpose.NOISE, 1, positions, (3,))
    expected = [[-0.8026873, -0.0356093, -0.6225300], [-0.9691921, -1.0420964, 1.0361425]]
    torch.testing.assert_close(gauss, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "TIMESTEP": 1,
        "NOISE": 2,
        "LABEL_DROP": 3,
        "FLIP": 4,
        "POSTERIOR": 5,
        "SAMPLE_START": 6,
        "SAMPLE_STEP": 7,
        "SAMPLE_LABEL": 8,
        "HELDOUT_NOISE": 9,
        "MODEL": 10,
        "OPTIMISER": 11,
        "SAMPLE_CONDITION": 12,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"step": -1}, "step"),
        ({"step": 2**32}, "step"),
        ({"purpose": -1}, "purpose"),
        ({"positions": torch.zeros(2)}, "positions"),
        ({"positions": torch.zeros(2, 2, dtype=torch.int64)}, "positions"),
    ],
)
def test_arguments_out_of_range(change: dict[str, object], message: str) -> None:
    good = {"seed": 0, "purpose": Purpose.NOISE, "step": 0, "positions": torch.arange(2), "shape": (3,)}
    assert normal(**good).shape == (2, 3)
    with pytest.raises(ValueError, match=message):
        normal(**{**good, **change})


@pytest.mark.parametrize("high", [0, 2**31 + 1])
def test_integers_refuses_a_range(high: int) -> None:
    with pytest.raises(ValueError, match="high"):
        integers(0, Purpose.TIMESTEP, 0, torch.arange(2), high)
