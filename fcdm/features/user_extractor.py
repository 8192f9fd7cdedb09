"""A feature extractor of the user's own (`evaluation.features=my_features.Edges`): opened, held to its shape, tried."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fcdm.config.load_code import build, refuse
from fcdm.config.schema import Config
from fcdm.config.user_code import FEATURES, UserCode, code_of
from fcdm.errors import UserError
from fcdm.features import Extractor

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-3
"""Of an image's features alone and beside others, by their length."""


def open_own(code: UserCode, device: torch.device | str, *, channels: int, side: int) -> Extractor:
    """What the target gives, in eval mode; weights that it draws from torch's generator are those of seed 0."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = build(code, {})
    if not callable(found):
        raise UserError(f"{code} gives a {type(found).__name__}: something that is called with images must come of it")
    if isinstance(found, nn.Module):
        found = found.to(device).eval().requires_grad_(False)
    features = _Features(code, found, torch.device(device))
    features.width = features(torch.zeros(2, channels, side, side, dtype=torch.uint8)).shape[1]
    return Extractor(code.short_id, features.width, features)


class _Features:
    def __init__(self, code: UserCode, found: Any, device: torch.device) -> None:
        self.code, self.found, self.device = code, found, device
        self.width: int | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n, d) float32 of images (n, C, side, side) uint8. Raises UserError for whatever else comes of them."""
        import numpy as np
        import torch

        try:
            with torch.no_grad():
                found = self.found(images.to(self.device))
        except Exception as error:
            refuse(self.code, "cannot be run", error)
        if isinstance(found, np.ndarray):
            found = torch.from_numpy(found)
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(images) or found.shape[1] < 1:
            kind = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
            raise UserError(f"{self.code} gives {kind} for {len(images)} images: features are ({len(images)}, d)")
        if self.width not in (None, found.shape[1]):
            raise UserError(f"{self.code} gives {found.shape[1]} features, and {self.width} before: always as many")
        found = found.float()
        if not bool(found.isfinite().all()):
            raise UserError(f"{self.code} gives features that are not finite numbers")
        return found


def try_extractor(code: UserCode, *, channels: int, side: int) -> None:
    """Features of some random images, together and one alone. Raises UserError."""
    import torch

    extractor = open_own(code, "cpu", channels=channels, side=side)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, channels, side, side), dtype=torch.uint8, generator=generator)
    before = images.clone()
    together, alone = extractor(images), extractor(images[1:2])
    if not torch.equal(before, images):
        raise UserError(f"{code} changes the images that it is given: work on a copy")
    if float((together[1] - alone[0]).norm()) > TOLERANCE * max(float(alone.norm()), 1e-12):
        raise UserError(f"{code}: an image's features depend on the others of its batch: they are of that image alone")


def changed_extractor(config: Config, protocol: dict[str, Any]) -> str | None:
    """Why an evaluation by this protocol cannot be: the user's extractor is another by now; None: it can."""
    from fcdm.config.code_source import find_source

    code = code_of(config, FEATURES)
    if code is None:
        return None
    now = dataclasses.replace(code, source=find_source(code.target, code.kind).sha256)
    if now.short_id == protocol["features"]:
        return None
    return (
        f"{code}: its code has changed since this was asked for: put it back, or give the command again: with other "
        "code it is another evaluation"
    )
