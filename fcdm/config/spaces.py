"""Spaces of features: their names, and several in one request, `evaluation.features=[digits-cnn,pixels]`.

Of several each is an evaluation of its own, with a protocol and a key of its own: composing makes one configuration of
each, so that a checked or frozen one names one space (`fcdm.sweep.points`). What they share is the samples, which are
drawn once (`fcdm.engine.evaluate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fcdm.errors import UserError

KEY = "evaluation.features"
DINOV2 = ("dinov2", "dinov2-pil")
"""Which differ in how images come to DINOv2's side."""
SPACES = ("digits-cnn", "pixels", "classifier", "inception", *DINOV2)
"""All of ours; the user's own have a dot in their name."""
OF_DIGITS = ("digits-cnn", "pixels")
"""Those of the bundled digits."""
OF_THE_DATA = ("digits-cnn", "classifier")
"""Those of the data that is trained on alone: no other reference fits them."""
OF_ANY_IMAGES = ("inception", *DINOV2, "pixels")
"""Those that anybody's images can be measured in, against a reference."""


def spaces_of(value: Any) -> list[str] | None:
    """The spaces that a list names, in its order; None for anything but a list. Raises UserError for a wrong list."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    said = f"{KEY}=[{','.join(map(str, value))}]"
    if not value:
        raise UserError(f"{said} asks for nothing: say a name, or several in a list")
    for at, name in enumerate(value):
        if not isinstance(name, str):
            raise UserError(f"{said} cannot be: {name} is no name of a space of features")
        if name in value[:at]:
            raise UserError(f"{said} says {name} twice: each space once")
    return list(value)
