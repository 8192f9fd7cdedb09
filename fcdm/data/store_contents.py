"""What a store holds of each image, and how it comes of it: latents of a VAE, or the pixels themselves. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcdm.codecs.vae_files import VaeIdentity
from fcdm.data.channels import Sums, sums_of, write_channels
from fcdm.data.manifest import LATENTS, PIXELS, Stored
from fcdm.images.crop import Source, Square, Unreadable, square_of
from fcdm.metrics.least_images import LEAST

SMALLER, GREYED = "smaller=upscale", "channels=1"
"""What must have been asked for before it is done to an image."""


class Content(Protocol):
    """What one kind of store holds."""

    kind: ClassVar[str]
    least: ClassVar[int]
    """Images that must be trained on: samples of a store of pixels are compared with these."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows."""

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

    @property
    def allows(self) -> tuple[str, ...]:
        """Of `SMALLER` and `GREYED`, what was asked for. An image to which it need not be done is the same without."""

    def square(self, source: Source, huge: bool) -> tuple[Square, tuple[str, ...]]:
        """The image as it is encoded, and what of `allows` was done to it. Safe in threads. Raises Unreadable."""

    def sums(self, rows: NDArray[Any]) -> dict[str, Any] | None:
        """What a shard's mark keeps of its rows (n, ...), for `finish`."""

    def finish(self, out: Path, shards: Sequence[dict[str, Any]], sums: Sequence[dict[str, Any] | None]) -> None:
        """Puts what follows from the shards into the store, before the manifest that names them.

        sums: of each shard; null where its mark has none. Raises UserError.
        """


class WithChannels:
    """Contents whose channels are measured as they come: latents."""

    stored: Stored
    least: ClassVar[int] = 1

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.stored.dtype)

    def sums(self, rows: NDArray[Any]) -> dict[str, Any] | None:
        return sums_of(rows).as_json()

    def finish(self, out: Path, shards: Sequence[dict[str, Any]], sums: Sequence[dict[str, Any] | None]) -> None:
        total: Sums | None = None
        for shard, kept in zip(shards, sums, strict=True):
            # An earlier version's mark has none.
            part = Sums.of_json(kept) if kept else sums_of(np.load(out / shard["file"], mmap_mode="r"))
            total = part if total is None else total + part
        assert total is not None
        write_channels(out, shards, total.channels(self.stored.scale, self.stored.shift))


@dataclass(frozen=True)
class Latents(WithChannels):
    """Mean and standard deviation of a VAE's latents, of the image and of its mirror image."""

    kind: ClassVar[str] = LATENTS
    stored: ClassVar[Stored] = Stored()  # type: ignore[misc]
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

    @property
    def allows(self) -> tuple[str, ...]:
        return ()

    def square(self, source: Source, huge: bool) -> tuple[Square, tuple[str, ...]]:
        return square_of(source, self.resolution, huge), ()


@dataclass(frozen=True)
class Pixels:
    """The bytes of the square image itself."""

    kind: ClassVar[str] = PIXELS
    least: ClassVar[int] = LEAST
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
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(C, S, S)."""
        return self.channels, self.resolution, self.resolution

    @property
    def told(self) -> str:
        return f"{'grey' if self.channels == 1 else 'RGB'}, 8 bits"

    def plan(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options()}

    def manifest(self) -> dict[str, Any]:
        return {"kind": self.kind, "side": self.resolution, **self.options()}

    def options(self) -> dict[str, Any]:
        return {"channels": self.channels, "pad": self.pad}

    def options_of(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return {"channels": manifest["channels"], "pad": manifest["pad"]}

    @property
    def allows(self) -> tuple[str, ...]:
        asked = {SMALLER: self.upscale, GREYED: self.converts}
        return tuple(word for word, is_asked in asked.items() if is_asked)

    def sums(self, rows: NDArray[Any]) -> dict[str, Any] | None:
        return None

    def finish(self, out: Path, shards: Sequence[dict[str, Any]], sums: Sequence[dict[str, Any] | None]) -> None:
        """Of pixels nothing is measured."""

    def square(self, source: Source, huge: bool) -> tuple[Square, tuple[str, ...]]:
        found = square_of(source, self.resolution, huge, self.pad, self.upscale)
        done = (SMALLER,) if found.scaled_up else ()
        if self.channels == 3:
            return found, done
        rgb = found.pixels
        if (rgb == rgb[..., :1]).all():
            return dataclasses.replace(found, pixels=rgb[..., :1]), done
        if not self.converts:
            raise Unreadable("it has colour, and the images looked at first are grey: say channels=3, or channels=1")
        grey = np.asarray(Image.fromarray(rgb).convert("L"), dtype=np.uint8)[..., None]
        return dataclasses.replace(found, pixels=grey), (*done, GREYED)
