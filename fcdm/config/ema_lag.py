"""How far behind the plain average of the weights is: what of it is still the initial weights, and its mean age.

Closed forms of the engine's rule, for plans: nothing is simulated over millions of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fcdm.config.schema import Config, EMAConfig

WARN_FROM = 0.05
"""Share of initial weights in an average, from which its evaluation says little of what was trained."""
_EXACTLY = 1000
"""So many steps of ramp-up are summed one by one; of more, sums are integrals, to 1e-3 and better."""


@dataclass(frozen=True)
class Lag:
    """Of the average at one step."""

    step: int
    initial: float
    """Share of the weights that training began from."""
    age: float
    """Mean age in steps of the weights that it averages, the initial ones among them."""

    @property
    def text(self) -> str:
        share = share_text(self.age / self.step)
        return (
            f"at step {self.step:,} {share_text(self.initial)} initial weights, {self.age:,.0f} steps ({share}) behind"
        )


def ema_decay(ema: EMAConfig, step: int) -> float:
    """Decay of the update that follows training step `step` (1 for the first).

    The configured decay d has half-life ln(1/2)/ln(d) steps; `rampup` bounds it by that fraction of the steps
    so far, as EDM's training does in images (arXiv 2206.00364, its public code). Without a decay it is that fraction
    throughout: then step k counts in proportion to k^g with g = ln(2) / rampup - 1, which is the power function average
    of EDM2 (arXiv 2312.02696, section 3.1). A function of the steps so far and never of the last one, so that one
    trajectory serves several budgets.
    """
    if ema.decay is None:
        assert ema.rampup is not None  # `fcdm.config.ema_profiles`
        return math.exp2(-1.0 / (ema.rampup * step))
    if ema.rampup is None or not 0.0 < ema.decay < 1.0:
        return ema.decay
    return math.exp2(-1.0 / min(_half_life(ema.decay), ema.rampup * step))


def ema_lag(ema: EMAConfig, step: int) -> Lag:
    """Of the average a_n = d_n a_{n-1} + (1 - d_n) w_n after `step` steps, a_0 = w_0.

    The initial share is the product of all d_n; an age grows by one and is multiplied by d_n at each step, so after
    n steps of one decay d it is L d^n + d (1 - d^n) / (1 - d), with L before them.
    """
    if ema.decay is None:
        return Lag(step, *_ramped(ema, step))
    if not 0.0 < ema.decay < 1.0:
        return Lag(step, ema.decay, ema.decay * step)
    ramped = 0
    initial, age = 1.0, 0.0
    if ema.rampup is not None:
        ramped = min(step, math.ceil(_half_life(ema.decay) / ema.rampup) - 1)  # whose half-life is rampup * n
        initial, age = _ramped(ema, ramped)
    kept = ema.decay ** (step - ramped)
    return Lag(step, initial * kept, age * kept + ema.decay * (1 - kept) / (1 - ema.decay))


def lags(evaluations: Iterable[tuple[Config, int]]) -> list[Lag]:
    """Of the average at each step of (whose protocol, step) that is evaluated by it, ascending. All are of one run."""
    asked = {step: config.ema for config, step in evaluations if config.evaluation.weights == "ema"}
    return [ema_lag(asked[step], step) for step in sorted(asked)]


def lag_text(ema: EMAConfig, found: Iterable[Lag]) -> str:
    """`EMA 0.9999, ramp-up 0.1: at step 800 0 % initial weights, 101 steps (13 %) behind; ...`."""
    ramp = "no ramp-up" if ema.rampup is None else f"ramp-up {ema.rampup:g}"
    length = f"EMA {ema.decay}, {ramp}"
    if ema.decay is None:
        length = f"EMA of half-life {share_text(ema.rampup or 0.0)} of the steps so far"
    return f"{length}: {'; '.join(lag.text for lag in found)}"


def lag_warning(evaluations: Iterable[tuple[Config, int]]) -> str | None:
    """One line where an average that is evaluated still is the initial weights to a part that counts, or is longer than
    the cooldown of a branch."""
    evaluations = list(evaluations)
    found = [text for text in (_of_initial(evaluations), _of_cooldown(evaluations)) if text]
    return "; ".join(found) or None


def _of_cooldown(evaluations: list[tuple[Config, int]]) -> str | None:
    for lag in lags(evaluations):
        config = evaluations[0][0]
        start, end = config.optimiser.cooldown or (0, 0)
        if lag.step == end and lag.age > end - start:
            return (
                f"the average that is evaluated is {lag.age:,.0f} steps behind, more than the {end - start:,} of the "
                "cooldown: raw weights show what that does (evaluation.weights=raw); ema=share is a shorter average "
                "(another run)"
            )
    return None


def _of_initial(evaluations: list[tuple[Config, int]]) -> str | None:
    behind = [lag for lag in lags(evaluations) if lag.initial >= WARN_FROM]
    if not behind:
        return None
    config = evaluations[0][0]
    begun = "drawn at random" if config.init_from is None else "those of init_from"
    at = ", ".join(f"{share_text(lag.initial)} at step {lag.step:,}" for lag in behind)
    ramp = "" if config.ema.rampup is not None else "ema.rampup=0.1 (another run), "
    return (
        f"the average that is evaluated (ema.decay={config.ema.decay}) still is the initial weights, {begun}, to "
        f"{at}: {ramp}evaluation.weights=raw or more steps"
    )


def share_text(share: float) -> str:
    """`98 %`, `0.1 %`, `0 %`."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 1 or percent < 0.05 else f"{percent:.1f} %"


def _half_life(decay: float) -> float:
    return math.log(0.5) / math.log(decay)


def _ramped(ema: EMAConfig, steps: int) -> tuple[float, float]:
    """Initial share and mean age after so many steps whose half-life is rampup * n.

    d_n = exp(-a / n) with a = ln(2) / rampup, so the share is exp(-a H(steps)) with the harmonic number, and of what
    step k brought (k / steps)^a is left, by which the age is steps / (a + 1).
    """
    assert ema.rampup is not None
    if steps <= _EXACTLY:
        initial, age = 1.0, 0.0
        for step in range(1, steps + 1):
            decay = ema_decay(ema, step)
            initial, age = initial * decay, decay * (age + 1.0)
        return initial, age
    rate = math.log(2.0) / ema.rampup
    harmonic = math.log(steps) + 0.5772156649015329 + 0.5 / steps
    return math.exp(-rate * harmonic), steps * (steps / (steps + 0.5)) ** rate / (rate + 1.0)
