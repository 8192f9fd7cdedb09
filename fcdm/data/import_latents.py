"""Latents that others encoded as a store: which VAE's they are and how they were scaled is what the user says.

Their values are kept as they were. `scale` and `shift` say what was done to the VAE's latents, (latent - shift) *
scale, so latents that were scaled by the VAE's own factor reach a model as they are in the files, to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcdm.codecs.vae_files import ALIASES, SD_SCALE, VaeIdentity, vae_identity
from fcdm.data.labelled_images import ImageSource
from fcdm.data.latent_files import open_latents
from fcdm.data.manifest import LATENTS, Stored
from fcdm.data.store_contents import WithChannels
from fcdm.errors import UserError
from fcdm.images.crop import Source, Square, Unreadable
from fcdm.paths import place

FLOATS = ("float16", "float32")
LOOKED = 32
"""So many latents, all over the source, say whether the scale is plausible."""
PLAUSIBLE = (0.5, 2.0)
"""Deviations of latents as models see them: the public VAEs' are within 0.9 and 1.1."""


@dataclass(frozen=True)
class ImportRequest:
    """What the user says of latents that lie there."""

    scale: float
    shift: float = 0.0
    """(latent - shift) * scale is what lies there."""
    flips: int = 1
    """2: of each image and of its mirror image."""
    moments: bool = False
    """Mean and standard deviation, one after the other in 2C channels; else one latent."""
    classes: int | None = None
    """Null: up to the largest label."""


@dataclass(frozen=True)
class StatedVae:
    """Whose latents they are said to be."""

    name: str
    """Hub id, or the folder's name."""
    asked: str
    id: str
    """Of a hub id itself, which its manifest names; of a folder empty: there its weights are known."""
    scaling_factor: float
    shift_factor: float
    identity: VaeIdentity | None
    """Where its files are on this machine."""

    @property
    def weights_sha256(self) -> str:
        """As the manifest has it: of a hub id none, so that it does not depend on what lies on this machine."""
        return self.identity.weights_sha256 if self.identity is not None and not self.id else ""

    def manifest(self) -> dict[str, Any]:
        return {"id": self.id, "weights_sha256": ""} if self.id else {"weights_sha256": self.weights_sha256}

    def made(self) -> dict[str, Any]:
        """For people."""
        folder = place(self.asked)
        asked = str(folder.absolute()) if folder.is_dir() else self.asked
        return (asdict(self.identity) if self.identity else {}) | {"name": self.name, "asked": asked}


def stated_vae(asked: str, request: ImportRequest) -> StatedVae:
    """The VAE that the user names: a folder, or a hub id whose files need not be here. Raises UserError.

    Its factor and shift are its own where its files are here; of the SD-VAEs they are known; of another hub id they are
    those that the latents were scaled by.
    """
    name = ALIASES.get(asked, asked)
    is_id = "/" in name and not name.startswith((".", "/", "~")) and not place(name).is_dir()
    try:
        identity: VaeIdentity | None = vae_identity(asked, download=False)
    except UserError:
        if not is_id:
            raise
        identity = None
    if identity is not None:
        scale, shift = identity.scaling_factor, identity.shift_factor
    elif name in ALIASES.values():
        scale, shift = SD_SCALE, 0.0
    elif request.scale == 1:
        raise UserError(
            f"scale=1 says that the latents were not scaled, and vae={asked}, whose factor models are to see them by, "
            "is not on this machine: say the folder of the VAE"
        )
    else:
        scale, shift = request.scale, request.shift
    return StatedVae(identity.name if identity else name, asked, name if is_id else "", scale, shift, identity)


@dataclass(frozen=True)
class ImportedLatents(WithChannels):
    """Latents with the values that they have in the files."""

    kind: ClassVar[str] = LATENTS
    resolution: int
    vae: StatedVae
    stored: Stored
    shape: tuple[int, int, int]
    """(C, side, side) of one latent."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(flips, parts, C, h, w)."""
        return self.stored.flips, self.stored.parts, *self.shape

    @property
    def told(self) -> str:
        what = "mean and standard deviation" if self.stored.deviation else "one latent"
        mirrored = " and of its mirror image" if self.stored.flips == 2 else ""
        return f"{what} of each image{mirrored} in {self.stored.dtype}, as it was"

    def options(self) -> dict[str, Any]:
        return {"vae": self.vae.name if self.vae.id else self.vae.weights_sha256, **asdict(self.stored)}

    def options_of(self, manifest: dict[str, Any]) -> dict[str, Any]:
        vae, stored = manifest["vae"], manifest.get("stored", {})
        return {"vae": vae.get("id") or vae["weights_sha256"], **{key: stored.get(key) for key in asdict(self.stored)}}

    def plan(self) -> dict[str, Any]:
        return {"kind": "imported", **self.manifest()}

    def manifest(self) -> dict[str, Any]:
        return {
            "channels": self.shape[0],
            "side": self.shape[1],
            "scaling_factor": self.vae.scaling_factor,
            "shift_factor": self.vae.shift_factor,
            "stored": asdict(self.stored),
            "vae": self.vae.manifest(),
        }

    @property
    def allows(self) -> tuple[str, ...]:
        return ()

    def square(self, source: Source, huge: bool) -> tuple[Square, tuple[str, ...]]:
        """One image's latents (flips, parts, C, h, w)."""
        return Square(self.rows_of(self._read(source)), turned=False, scaled_up=False), ()

    def _read(self, source: Source) -> NDArray[Any]:
        if not isinstance(source, Path):
            return np.asarray(source)
        try:
            found: NDArray[Any] = np.load(source, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Unreadable(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
        return found

    def rows_of(self, latent: NDArray[Any]) -> NDArray[Any]:
        """As the store keeps it. Raises Unreadable for another shape or type than the first's, and for NaN."""
        channels, height, width = self.shape
        found = _without_ones(latent, self.stored.flips)
        one = channels * self.stored.parts, height, width
        wanted = one if self.stored.flips == 1 else (2, *one)
        if found.shape != wanted or found.dtype != self.dtype:
            raise Unreadable(f"it is {latent.dtype} {latent.shape}, and the first is {self.dtype} {wanted}")
        if not np.isfinite(found).all():
            raise Unreadable("it holds NaN or infinite numbers")
        return found.reshape(self.row_shape)


def import_content(
    root: Path, labels: str | None, vae: str, resolution: int, request: ImportRequest
) -> tuple[ImportedLatents, ImageSource, str | None]:
    """What is to be made, of which latents, and a note where their scale is not plausible. Raises UserError."""
    for name, value in (("scale", request.scale), ("shift", request.shift)):
        if not math.isfinite(value) or (name == "scale" and value <= 0):
            raise UserError(
                f"{name}={value} cannot be: the number that the latents were multiplied by, such as 0.18215"
            )
    stated = stated_vae(vae, request)
    found = open_latents(root, labels, request.classes)
    content = _content(root, found.first, stated, resolution, request)
    return content, found.source, _implausible(content, found.source)


def _content(
    root: Path, first: NDArray[Any], vae: StatedVae, resolution: int, request: ImportRequest
) -> ImportedLatents:
    latent = _without_ones(first, request.flips)
    what = f"latents={root}: the first is {first.dtype} of shape {first.shape}"
    if latent.dtype.name not in FLOATS or not latent.dtype.isnative:
        raise UserError(
            f"{what}: float16 or float32 is kept as it is, another type is not: save latents.astype('float32')"
        )
    ends = latent.shape[-3:]
    if latent.ndim != 3 + (request.flips == 2) or (request.flips == 2 and len(latent) != 2) or ends[1] != ends[2]:
        wanted = "(2, C, side, side), of the image and its mirror image" if request.flips == 2 else "(C, side, side)"
        raise UserError(f"{what}: {wanted} is wanted, with or without a 1 before it")
    channels, side = ends[0], ends[1]
    if request.moments and channels % 2:
        raise UserError(f"{what}: holds=moments is mean and standard deviation, of as many channels each")
    channels //= 2 if request.moments else 1
    if resolution % side:
        raise UserError(f"{what}: resolution={resolution} is not a multiple of {side}: say that of the images")
    if vae.identity is not None and (channels, resolution // side) != (vae.identity.channels, vae.identity.downsample):
        moments = ""
        if channels == 2 * vae.identity.channels and not request.moments:
            moments = "; holds=moments if these are mean and standard deviation"
        raise UserError(
            f"{what} at resolution={resolution}: {channels} channels and {resolution // side} pixels a side, and "
            f"vae={vae.asked} has {vae.identity.channels} and {vae.identity.downsample}: say its own VAE and "
            f"resolution{moments}"
        )
    stored = Stored(request.flips, request.moments, latent.dtype.name, request.scale, request.shift)
    return ImportedLatents(resolution, vae, stored, (channels, side, side))


def _without_ones(latent: NDArray[Any], flips: int) -> NDArray[Any]:
    """(1, C, h, w) is (C, h, w)."""
    while latent.ndim > (3 if flips == 1 else 4) and len(latent) == 1:
        latent = latent[0]
    return latent


def _implausible(content: ImportedLatents, source: ImageSource) -> str | None:
    """A note where latents looked at have no deviation near 1 as models would see them."""
    numbers = np.unique(np.linspace(0, len(source) - 1, LOOKED).astype(int)).tolist()
    values = []
    for number in numbers:
        try:
            values.append(content.square(source.read(number), False)[0].pixels[:, 0].astype(np.float64))
        except Unreadable:
            continue  # told when its turn comes
    if not values:
        return None
    stored, factor = content.stored, content.vae.scaling_factor
    lies = float(np.std(np.stack(values)))
    seen = lies * factor / stored.scale
    if PLAUSIBLE[0] < seen < PLAUSIBLE[1]:
        return None
    others = {scale: lies * factor / scale for scale in (1.0, factor) if scale != stored.scale}
    better = [scale for scale, value in others.items() if PLAUSIBLE[0] < value < PLAUSIBLE[1]]
    hint = f"scale={better[0]:g} would give {others[better[0]]:.2g}" if better else "is that the VAE and its scale?"
    return (
        f"note: with scale={stored.scale:g} these latents have a deviation of {seen:.2g} as models see them, where 1 "
        f"is usual: {hint}"
    )
