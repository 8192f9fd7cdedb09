"""When a training has diverged: by its held-out losses, which noise moves by a few per cent only."""

from __future__ import annotations

from collections.abc import Mapping

DIVERGED = 2.0
"""A held-out loss above so many times the lowest by then is no noise."""


def diverged_text(step: int, losses: Mapping[int, float]) -> str:
    """`diverged: held-out loss 20 times that at step 1,000`; "" where it is not, or before there are two.

    `losses`: of one run by one protocol, by step; what a later step says is not used.
    """
    before = {at: loss for at, loss in losses.items() if at < step}
    if not before or step not in losses:
        return ""
    best = min(before, key=lambda at: before[at])
    if not losses[step] > DIVERGED * before[best]:
        return ""
    return f"diverged: held-out loss {losses[step] / before[best]:.2g} times that at step {best:,}"
