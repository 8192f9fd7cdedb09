"""Whether the parts of a store of pixels have enough images: to compare with, and to teach a classifier. Torch-free."""

from __future__ import annotations

from typing import NamedTuple

from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.metrics.least_images import LEAST

LEAST_TAUGHT = 40
"""Images that a classifier learns from, and as many others that it is tested on."""
TESTED = 5
"""Where fewer are held out, one in so many of those set aside is tested on."""
ADVISED = 160, "heldout=0.3 aside=0.4"
"""Of so many images these parts have enough, whatever the sizes of their classes."""


class Parts(NamedTuple):
    """Images in each part of a store."""

    trained: int
    heldout: int
    aside: int


def refuse_few(store: object, parts: Parts, least: int = LEAST) -> None:
    """Raises UserError where fewer images than `least` are trained on: nothing could be compared with them."""
    if parts.trained >= least:
        return
    total = sum(parts)
    others = f" ({parts.heldout:,} held out, {parts.aside:,} set aside)" if total > parts.trained else ""
    more = "take more images" if total < least else "say less, as heldout=0 aside=0, or take more images"
    raise UserError(
        f"{store}: {parts.trained:,} of {plural(total, 'image')} would be trained on{others}, and that must be at "
        f"least {least}: {more}"
    )


def why_no_classifier(parts: Parts) -> str | None:
    """What the store lacks for a classifier, and what to say instead; None: it has enough."""
    tests, taught = parts.heldout, parts.aside
    if tests < LEAST_TAUGHT:
        tests = parts.aside // TESTED
        taught -= tests
    if min(tests, taught) >= LEAST_TAUGHT:
        return None
    images, options = ADVISED
    store = "the store again" if sum(parts) >= images else f"a store of {images} images or more"
    return (
        f"the store has {parts.aside:,} images set aside and {parts.heldout:,} held out, and a classifier wants "
        f"{LEAST_TAUGHT} of each: say evaluation.features=pixels, inception or dinov2, or make {store} by "
        f"`fcdm.prepare images ... {options}`"
    )


def notes_of_few(parts: Parts) -> list[str]:
    """What a person should know before training on these."""
    notes = []
    if parts.heldout < LEAST:
        notes.append(
            f"{plural(parts.heldout, 'image')} held out, and no distance is told to fewer than {LEAST}: heldout= says "
            "which fraction"
        )
    if why := why_no_classifier(parts):
        notes.append(f"not for evaluation.features=classifier, a training's default: {why}")
    return notes
