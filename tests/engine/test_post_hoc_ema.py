"""Power function averages: widths in closed form, brute-force averages of a trajectory, lengths after the fact."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad

from fcdm.config.ema_profiles import LONGEST
from fcdm.engine.post_hoc_ema import (
    Profile,
    beta,
    gamma_from_sigma_rel,
    inner_products,
    reconstruct,
    solve_weights,
    update_power_ema,
)
from fcdm.errors import UserError

Array = NDArray[np.float64]

STEPS = 1024
SHORT, LONG = gamma_from_sigma_rel(0.05), gamma_from_sigma_rel(0.10)


def density(profile: Profile, tau: float) -> float:
    """The profile, from its definition."""
    if tau > profile.step:
        return 0.0
    return (profile.gamma + 1) / profile.step * (tau / profile.step) ** profile.gamma


def brute_force(trajectory: Array, profile: Profile) -> Array:
    """The average of weights (steps, d), step i weighing the profile's integral over (i - 1, i]."""
    i = np.arange(profile.step + 1) / profile.step
    return np.diff(i ** (profile.gamma + 1)) @ trajectory[: profile.step]


def trajectory(kind: str) -> Array:
    """Synthetic weights (STEPS, 100) around 3: a random walk, or a decay with noise."""
    rng = np.random.default_rng(0)
    if kind == "walk":
        return 3.0 + 0.03 * np.cumsum(rng.normal(size=(STEPS, 100)), axis=0)
    time = np.arange(STEPS)[:, None] / 150
    return 3.0 + np.exp(-time) * rng.normal(size=100) + 0.1 * rng.normal(size=(STEPS, 100))


def snapshots_at(count: int) -> list[Profile]:
    """Both tracked lengths at `count` even steps."""
    return [Profile(STEPS * (k + 1) // count, gamma) for k in range(count) for gamma in (SHORT, LONG)]


# --- lengths ---


def sigma_rel_from_gamma(gamma: float) -> float:
    """Standard deviation of the profile as a share of t (EDM2 section 3.1)."""
    return math.sqrt((gamma + 1.0) / (gamma + 3.0)) / (gamma + 2.0)


@given(sigma_rel=st.floats(1e-4, LONGEST))
def test_sigma_rel_there_and_back(sigma_rel: float) -> None:
    gamma = gamma_from_sigma_rel(sigma_rel)
    assert gamma >= 0
    assert sigma_rel_from_gamma(gamma) == pytest.approx(sigma_rel, rel=1e-9)


@given(a=st.floats(1e-4, LONGEST), b=st.floats(1e-4, LONGEST))
def test_longer_averages_have_smaller_gammas(a: float, b: float) -> None:
    if a < b * (1 - 1e-9):
        assert gamma_from_sigma_rel(a) > gamma_from_sigma_rel(b)


def test_published_gammas() -> None:
    """EDM2 section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94; and gamma 0 is the plain mean."""
    assert pytest.approx(16.97, abs=5e-3) == SHORT
    assert pytest.approx(6.94, abs=5e-3) == LONG
    assert gamma_from_sigma_rel(LONGEST) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 1.0, LONG, SHORT])
def test_sigma_rel_is_the_profile_s_standard_deviation(gamma: float) -> None:
    profile = Profile(200, gamma)
    moments = [quad(lambda tau, k=k: tau**k * density(profile, tau), 0, 200)[0] for k in range(3)]
    assert moments[0] == pytest.approx(1)
    assert math.sqrt(moments[2] - moments[1] ** 2) / 200 == pytest.approx(sigma_rel_from_gamma(gamma), rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, 1e-5, float("nan")])
def test_refuses_lengths_that_no_average_has(sigma_rel: float) -> None:
    with pytest.raises(UserError, match=r"ema\.sigma_rel.* between 0\.0001 and 0\.2887 .*usual are 0\.05 and 0\.10"):
        gamma_from_sigma_rel(sigma_rel)


# --- the running average ---


@given(step=st.integers(1, 10_000_000), gamma=st.floats(0, 1000))
def test_decay(step: int, gamma: float) -> None:
    """0 at first, then towards 1, and never larger for a shorter average."""
    decay = beta(step, gamma)
    assert 0 <= decay < 1
    assert decay <= beta(step + 1, gamma)
    assert beta(step, gamma + 1) <= decay
    assert beta(1, gamma) == 0


@pytest.mark.parametrize(("step", "every"), [(0, 1), (-4, 4), (3, 4), (4, 0)])
def test_no_update_before_the_first_step(step: int, every: int) -> None:
    with pytest.raises(ValueError, match=f"cannot have been {every} steps before step {step}"):
        beta(step, 1.0, every)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("gamma", [0.0, LONG, SHORT])
def test_updates_are_the_brute_force_average(gamma: float, every: int) -> None:
    """Over two tensors in float64 and float32; whatever the average was before the first update.

    An update every 4 steps is the average of a trajectory that stood still between them.
    """
    weights = np.repeat(trajectory("walk")[: 300 // every], every, axis=0)
    average = [torch.full((40,), 99.0, dtype=torch.float64), torch.full((6, 10), -5.0)]
    for step in range(every, 301, every):
        row = weights[step - 1]
        current = [torch.from_numpy(row[:40]), torch.from_numpy(row[40:]).view(6, 10).float()]
        update_power_ema(average, current, step, gamma, every)
        if step == every:
            assert all(torch.equal(a, c) for a, c in zip(average, current, strict=True))
    expected = brute_force(weights, Profile(300, gamma))
    np.testing.assert_allclose(average[0], expected[:40], rtol=1e-12)
    np.testing.assert_allclose(average[1].flatten(), expected[40:], rtol=2e-6)


def test_float32_averages_keep_moving_late_in_training() -> None:
    """Weights that stand 0.5 % off their average, after 10^6 steps: what float32 loses of 20,000 steps.

    With an update every step, nearly half of the way; every 16, under 2 %.
    """
    lost = {}
    noise = torch.Generator().manual_seed(0)
    for every in (1, 16):
        single, double = torch.ones(500), torch.ones(500, dtype=torch.float64)
        for step in range(1_000_000 + every, 1_020_000, every):
            weights = 1.005 + 0.003 * torch.randn(500, generator=noise)
            update_power_ema([single], [weights], step, LONG, every)
            update_power_ema([double], [weights.double()], step, LONG, every)
        lost[every] = ((double - single).mean() / (double.mean() - 1)).item()
    assert lost[1] > 0.3, f"{lost}"
    assert abs(lost[16]) < 0.02, f"{lost}"


# --- inner products ---


@given(
    a=st.tuples(st.integers(1, 500), st.floats(0, 30)),
    b=st.tuples(st.integers(1, 500), st.floats(0, 30)),
)
def test_inner_products_are_the_integrals(a: tuple[int, float], b: tuple[int, float]) -> None:
    first, second = Profile(*a), Profile(*b)
    end = min(first.step, second.step)
    integral = quad(lambda tau: density(first, tau) * density(second, tau), 0, end, epsabs=0, epsrel=1e-10)[0]
    assert inner_products([first], [second])[0, 0] == pytest.approx(integral, rel=1e-7)
    assert inner_products([second], [first])[0, 0] == pytest.approx(inner_products([first], [second])[0, 0])


def test_inner_products_of_many() -> None:
    profiles = snapshots_at(4)
    gram = inner_products(profiles, profiles[:3])
    assert gram.shape == (8, 3)
    for i, a in enumerate(profiles):
        for j, b in enumerate(profiles[:3]):
            assert gram[i, j] == inner_products([a], [b])[0, 0]
    assert np.linalg.eigvalsh(inner_products(profiles, profiles)).min() > 0


# --- other lengths after the fact ---


@pytest.mark.parametrize("kind", ["walk", "decay"])
@pytest.mark.parametrize(("sigma_rel", "allowed"), [(0.03, 0.05), (0.075, 5e-3), (0.15, 5e-3)])
def test_reconstruction(kind: str, sigma_rel: float, allowed: float) -> None:
    """Against the brute-force average, relative to what is to be found: its distance from the nearest average kept.

    The error falls with the number of snapshots; with 32 steps it is under the stated share. Profiles' errors,
    which know nothing of the weights, fall alike.
    """
    weights, target = trajectory(kind), Profile(STEPS, gamma_from_sigma_rel(sigma_rel))
    expected = brute_force(weights, target)
    nearest = min(np.abs(brute_force(weights, Profile(STEPS, g)) - expected).mean() for g in (SHORT, LONG))
    errors, fits = [], []
    for count in (2, 8, 32):
        kept = snapshots_at(count)
        states = ({"w": torch.from_numpy(brute_force(weights, profile))} for profile in kept)
        synthesis = solve_weights([target], kept)
        found = reconstruct(states, list(synthesis.weights[0]))["w"].numpy()
        errors.append(np.abs(found - expected).mean() / nearest)
        fits.append(synthesis.errors[0])
    assert all(more > 1.5 * fewer for more, fewer in pairwise(errors)), f"errors {errors}"
    assert all(more > 1.5 * fewer for more, fewer in pairwise(fits)), f"fits {fits}"
    assert errors[-1] < allowed, f"errors {errors}"
    assert fits[-1] < 0.02


def test_targets_before_the_last_step() -> None:
    """An average of half-way, of a length between the kept ones."""
    weights, target = trajectory("walk"), Profile(STEPS // 2, gamma_from_sigma_rel(0.075))
    kept = snapshots_at(16)
    synthesis = solve_weights([target], kept)
    found = synthesis.weights[0] @ np.stack([brute_force(weights, profile) for profile in kept])
    assert np.abs(found - brute_force(weights, target)).max() < 5e-3
    late = sum(abs(w) for w, profile in zip(synthesis.weights[0], kept, strict=True) if profile.step > target.step)
    assert late < 0.05


@given(
    steps=st.lists(st.integers(1, 100_000), min_size=1, max_size=12, unique=True),
    sigma_rels=st.lists(st.floats(0.02, LONGEST), min_size=1, max_size=3, unique=True),
    wanted=st.floats(0.01, LONGEST),
)
def test_weights_sum_to_one_and_errors_are_shares(steps: list[int], sigma_rels: list[float], wanted: float) -> None:
    kept = list(dict.fromkeys(Profile(step, gamma_from_sigma_rel(s)) for step in steps for s in sigma_rels))
    target = Profile(max(steps), gamma_from_sigma_rel(wanted))
    synthesis = solve_weights([target, target], kept)
    assert synthesis.weights.shape[0] == 2
    np.testing.assert_allclose(synthesis.weights.sum(1), 1, atol=1e-6)
    assert np.isfinite(synthesis.errors).all()
    # Never worse than the best of the last step's snapshots alone, but for rounding: it is one of the combinations.
    alone = [solve_weights([target], [profile]).errors[0] for profile in kept if profile.step == target.step]
    assert synthesis.errors[0] <= min(alone) + 1e-5


def test_a_snapshot_is_itself() -> None:
    kept = snapshots_at(8)
    synthesis = solve_weights(kept, kept)
    np.testing.assert_allclose(synthesis.weights, np.eye(16), atol=1e-5)
    np.testing.assert_allclose(synthesis.errors, 0, atol=1e-5)


def test_weights_are_the_least_squares_ones() -> None:
    """Of all that sum to 1: any step along a direction of sum 0 makes the profile's error larger."""
    kept, target = snapshots_at(3), Profile(STEPS, gamma_from_sigma_rel(0.2))
    best = solve_weights([target], kept).weights[0]
    gram, right = inner_products(kept, kept), inner_products(kept, [target])[:, 0]
    rng = np.random.default_rng(1)
    for _ in range(20):
        direction = rng.normal(size=len(best))
        direction -= direction.mean()
        gradient = direction @ (gram @ best - right)
        assert abs(gradient) < 1e-9 * math.sqrt(direction @ gram @ direction)


@pytest.mark.parametrize(
    ("targets", "kept", "message"),
    [
        ([Profile(10, 1.0)], [], "there are no snapshots"),
        (
            [Profile(11, 1.0)],
            [Profile(10, 1.0), Profile(5, 1.0)],
            "at step 11 needs snapshots up to it; the last is of",
        ),
        ([Profile(5, 1.0)], [Profile(10, 1.0), Profile(10, 1.0)], "given twice"),
    ],
)
def test_refuses_what_cannot_be_made(targets: list[Profile], kept: list[Profile], message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve_weights(targets, kept)


# --- state dicts ---


def test_reconstruct_by_hand() -> None:
    """In the first one's types; what is no floating-point number, from the last; one snapshot at a time."""
    alive = []

    def snapshots() -> object:
        for k in range(3):
            alive.append(k)
            yield {
                "a": torch.tensor([1.0 + k, 2.0]),
                "b": torch.full((1, 2), 4.0 * k, dtype=torch.bfloat16),
                "n": torch.tensor(10 + k),
            }

    found = reconstruct(snapshots(), [0.5, -1.0, 1.5])  # type: ignore[arg-type]
    assert found["a"].tolist() == [3.0, 2.0]
    assert found["b"].tolist() == [[8.0, 8.0]]
    assert found["n"].item() == 12
    assert [found[name].dtype for name in "abn"] == [torch.float32, torch.bfloat16, torch.int64]
    assert alive == [0, 1, 2]


def test_reconstruct_leaves_its_snapshots_alone() -> None:
    states = [{"a": torch.ones(3, requires_grad=True)}, {"a": torch.zeros(3)}]
    found = reconstruct(states, [0.25, 0.75])
    assert found["a"].tolist() == [0.25] * 3
    assert not found["a"].requires_grad
    assert states[0]["a"].tolist() == [1.0] * 3


@pytest.mark.parametrize("other", [{"b": torch.zeros(2)}, {"a": torch.zeros(3)}, {}])
def test_reconstruct_refuses_other_models(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="snapshots of different models: a"):
        reconstruct([{"a": torch.zeros(2)}, other], [0.5, 0.5])


@pytest.mark.parametrize("weights", [[1.0], [0.2, 0.3, 0.5]])
def test_reconstruct_wants_a_weight_for_each(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="argument"):
        reconstruct([{"a": torch.zeros(2)}] * 2, weights)
