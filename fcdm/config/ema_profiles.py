"""Which average of the weights is evaluated, and which are kept: what `evaluation.weights` and `power_ema` may say."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fcdm.config.schema import Config
from fcdm.errors import UserError

LONGEST = 1.0 / math.sqrt(12.0)
"""sigma_rel of the plain mean of all steps (EDM2, arXiv 2312.02696, section 3.1)."""
SHORTEST = 1e-4
POWER = "power:"


@dataclass(frozen=True)
class Kept:
    """The snapshots that an average of any length is made of: which of them is a function of the step alone.

    So the same whatever other budgets, and other commands, had snapshots taken besides.
    """

    lengths: tuple[float, ...]
    """sigma_rel of those that are tracked, ascending."""
    every: int | None
    """Steps from one to the next; None: that of the step itself only."""

    def steps(self, target: int) -> list[int]:
        """Whose snapshots make the average at step `target`."""
        before = range(self.every, target, self.every) if self.every else range(0)
        return [*before, target]

    @property
    def text(self) -> str:
        """As it stands in protocols: `0.05,0.1 every 100`."""
        lengths = ",".join(map(length_text, self.lengths))
        return f"{lengths} every {self.every}" if self.every else lengths

    @classmethod
    def of(cls, text: str) -> Kept:
        """Of its `text`. Raises UserError."""
        found = re.fullmatch(r"([\d.,e-]+)(?: every (\d+))?", text)
        try:
            if found is None:
                raise ValueError
            return cls(tuple(map(float, found[1].split(","))), int(found[2]) if found[2] else None)
        except ValueError:
            raise UserError(f"{text!r} names no snapshots: leave that key to the commands, which set it") from None


def power_length(weights: str, key: str = "evaluation.weights") -> float | None:
    """sigma_rel of `power:0.08`; None for `ema` and `raw`. Raises UserError, that names `key`, for what is neither."""
    if weights in ("ema", "raw"):
        return None
    try:
        if not weights.startswith(POWER):
            raise ValueError
        return checked_length(float(weights.removeprefix(POWER)), key)
    except ValueError:
        raise UserError(
            f"{key}={weights} is not known: write ema (the default), raw, or power:0.08 for a power "
            "function average of that length, made of snapshots (power_ema.sigma_rel)"
        ) from None


def checked_length(sigma_rel: float, key: str) -> float:
    """The length, where an average can have it. Raises UserError that names `key`."""
    if not SHORTEST <= sigma_rel <= LONGEST:
        raise UserError(
            f"{key}: a power function average's length (sigma_rel) must be between {SHORTEST:.4f} and {LONGEST:.4f} "
            f"(the mean of all steps), not {sigma_rel:g}; usual are 0.05 and 0.10"
        )
    return sigma_rel


def weights_text(weights: str) -> str:
    """One spelling of what `evaluation.weights` may say: `power:0.08` for `power:8e-2`."""
    length = power_length(weights)
    return weights if length is None else f"{POWER}{length_text(length)}"


def length_text(sigma_rel: float) -> str:
    """How a length is written in files and ids: `0.05`."""
    return f"{sigma_rel:g}"


def check_averages(config: Config) -> None:
    """Raise UserError where the averages that are asked for cannot be."""
    if config.ema.decay is None and config.ema.rampup is None:
        raise UserError(
            "ema.decay=null and ema.rampup=null leave the EMA without a length: say ema.decay=0.9999, or "
            "ema.rampup=0.1 for a half-life of a tenth of the steps so far"
        )
    tracked = config.power_ema.sigma_rel
    for sigma_rel in tracked or []:
        checked_length(sigma_rel, "power_ema.sigma_rel")
    if tracked and len({length_text(sigma_rel) for sigma_rel in tracked}) < len(tracked):
        raise UserError(f"power_ema.sigma_rel={tracked} names a length twice")
    power_length(config.evaluation.guidance_weak_weights, "evaluation.guidance_weak_weights")
    if power_length(config.evaluation.weights) is not None and tracked == []:
        raise UserError(
            f"evaluation.weights={config.evaluation.weights} is made of snapshots, and power_ema.sigma_rel=[] keeps "
            "none: say power_ema.sigma_rel=[0.05,0.10]"
        )
