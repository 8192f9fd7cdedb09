"""Which points of a training are left out of laws: the start of a run, and what is no training yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcdm.formatting import plural


@dataclass(frozen=True)
class Cuts:
    """What is left out. A study with few steps lowers these, and says so."""

    first_share: float = 0.1
    """Of a run, by the steps of its last budget."""
    least_steps: int = 1_000
    least_warmups: float = 10.0
    """Times the steps in which the learning rate rises."""

    @property
    def text(self) -> str:
        """`the first 10 % of a run, points below 1,000 steps or 10 warm-ups`."""
        return (
            f"the first {self.first_share:.0%} of a run, points below {self.least_steps:,} steps or "
            f"{self.least_warmups:g} warm-ups"
        ).replace("%", " %")

    def kept(self, steps: np.ndarray, last: np.ndarray, warmup: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """(True where a point stays, (points,); lines that count what is left out).

        `last`: the steps of the last budget of each point's run; `warmup`: its steps of warm-up, NaN where not known.
        """
        parts = (
            (steps < self.first_share * last, f"in the first {self.first_share:.0%} of its run".replace("%", " %")),
            (steps < self.least_steps, f"below {self.least_steps:,} steps"),
            (steps < self.least_warmups * np.nan_to_num(warmup), f"below {self.least_warmups:g} warm-ups"),
        )
        kept, lines = np.ones(len(steps), dtype=bool), []
        for out, why in parts:
            new = out & kept
            if new.any():
                lines.append(f"left out: {plural(int(new.sum()), 'point')} {why}")
            kept &= ~out
        return kept, lines
