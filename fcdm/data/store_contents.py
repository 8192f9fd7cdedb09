"""What a store holds of each image, and how it comes of it: latents of a VAE, or the pixels themselves. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcdm.codecs.vae_files import VaeIdentity
from fcdm.data.manifest import LATENTS, PIXELS
from fcdm.images.crop import Source, Unreadable, read_square_and_turn

Square = tuple[NDArray[np.uint8], bool]
"""A square image (S, S, channels), and whether it carries an EXIF orientation."""


class Content(Protocol):
    """What one kind of store holds."""

    kind: ClassVar[str]
    dtype: ClassVar[np.dtype[Any]]

    @property
    def resolution(self) -> int:
        """Side of the square images in pixels."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one image."""

    @property
    def told(self) -> str:
        """For people: what is kept of an image."""

    def plan(self) -> dict[str, Any]:
        """Everything of it that must be the same for a start to continue another."""

    def manifest(self) -> dict[str, Any]:
        """What manifest.json says of it."""

    def options(self) -> dict[str, Any]:
        """What was asked for, where a whole store of the kind, resolution and VAE can still be another."""

    def options_of(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The same of a store that stands."""

    def square(self, source: Source, huge: bool) -> Square:
        """The image as it is encoded. Safe in threads. Raises Unreadable."""


@dataclass(frozen=True)
class Latents:
    """Mean and standard deviation of a VAE's latents, of the image and of its mirror image."""

    kind: ClassVar[str] = LATENTS
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float16)
    resolution: int
    vae: VaeIdentity
    precision: str
    """`fp32` or `tf32`: of the encoder's products on a GPU."""

    @property
    def side(self) -> int:
        return self.resolution // self.vae.downsample

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(2 flips, 2 mean and std, C, h, w)."""
        return 2, 2, self.vae.channels, self.side, self.side

    @property
    def told(self) -> str:
        return "mean and standard deviation in float16, of each image and its mirror image"

    def plan(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "vae": self.vae.weights_sha256,
            "scaling_factor": self.vae.scaling_factor,
            "shift_factor": self.vae.shift_factor,
        }

    def manifest(self) -> dict[str, Any]:
        return {
            "channels": self.vae.channels,
            "side": self.side,
            "scaling_factor": self.vae.scaling_factor,
            "shift_factor": self.vae.shift_factor,
            "vae": {"weights_sha256": self.vae.weights_sha256, "precision": self.precision},
        }

    def options(self) -> dict[str, Any]:
        return {"precision": self.precision}

    def options_of(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return {"precision": manifest["vae"]["precision"]}

    def square(self, source: Source, huge: bool) -> Square:
        return read_square_and_turn(source, self.resolution, huge)


@dataclass(frozen=True)
class Pixels:
    """The bytes of the square image itself."""

    kind: ClassVar[str] = PIXELS
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)
    resolution: int
    channels: int
    """1: grey, 3: RGB."""
    converts: bool
    """Grey: coloured images become grey, as was asked; else they are refused, for the first ones were grey."""
    pad: int | None
    """Images stand in the middle of a black square of that side, whose blocks are then averaged; null: ADM's crop."""
    upscale: bool
    """Whether images smaller than the resolution are scaled up; else they are refused."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(C, S, S)."""
        return self.channels, self.resolution, self.resolution

    @property
    def told(self) -> str:
        return f"{'grey' if self.channels == 1 else 'RGB'}, 8 bits"

    def plan(self) -> dict[str, Any]:
        return {"kind": self.kind, "channels": self.channels, **self._rule()}

    def manifest(self) -> dict[str, Any]:
        return {"kind": self.kind, "channels": self.channels, "side": self.resolution, "rule": self._rule()}

    def options(self) -> dict[str, Any]:
        return {"channels": self.channels, **self._rule()}

    def options_of(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return {"channels": manifest["channels"], **manifest["rule"]}

    def _rule(self) -> dict[str, Any]:
        return {"converts": self.converts, "pad": self.pad, "upscale": self.upscale}

    def square(self, source: Source, huge: bool) -> Square:
        found, turned = read_square_and_turn(source, self.resolution, huge, self.pad, self.upscale)
        if self.channels == 3:
            return found, turned
        if (found == found[..., :1]).all():
            return found[..., :1], turned
        if not self.converts:
            raise Unreadable("it has colour, and the first images are grey: say channels=3, or channels=1 for all grey")
        return np.asarray(Image.fromarray(found).convert("L"), dtype=np.uint8)[..., None], turned
