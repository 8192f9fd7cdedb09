"""What plans need of laws, and laws themselves, in plain Python: a plan is made without numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

MACS, PARAMETERS = "forward_macs", "parameters"
N_UNITS = (MACS, PARAMETERS)
"""What the size of a model is counted in."""


@dataclass(frozen=True)
class LossMapNumbers:
    """ln of a distance = level + slopes of ln loss - centre, and of its square: numbers of `fcdm.laws.loss_map`."""

    level: float
    centre: float
    slopes: tuple[float, ...]
    """One or two."""

    def __call__(self, loss: float) -> float:
        off = math.log(loss) - self.centre
        return math.exp(self.level + sum(slope * off**power for power, slope in enumerate(self.slopes, 1)))
