"""Mean and deviation of each channel of a store's latents: measured as it is made, for `data.normalisation=channel`.

The numbers do not depend on shards, processes or the kind of CPU: an image's sums are made by additions in a fixed
order, in float64, and sums of images are exact. They stand beside the manifest, not in it, since they follow from the
shards: stores that were made before keep their identity, and so does one that is made again.

Importing this is torch-free.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import read_json_if_whole, write_json
from fcdm.codecs.normalisation import Channels
from fcdm.data.manifest import LATENTS, Manifest, read_manifest
from fcdm.errors import UserError

CHANNELS = "channels.json"
AT_ONCE = 8
"""Images summed at a time: what lies in the cache."""


@dataclass(frozen=True)
class Sums:
    """Exact sums of what is stored of images, for each channel."""

    count: int
    """Numbers of one channel."""
    first: tuple[Fraction, ...]
    """Of the means."""
    second: tuple[Fraction, ...]
    """Of their squares and of the variances."""

    def __add__(self, other: Sums) -> Sums:
        first, second = (
            tuple(a + b for a, b in zip(*pair, strict=True))
            for pair in ((self.first, other.first), (self.second, other.second))
        )
        return Sums(self.count + other.count, first, second)

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "first": [*map(str, self.first)], "second": [*map(str, self.second)]}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Sums:
        first, second = (tuple(map(Fraction, values[key])) for key in ("first", "second"))
        return cls(int(values["count"]), first, second)

    def channels(self, scale: float = 1.0, shift: float = 0.0) -> Channels:
        """Of the latents, of which (latent - shift) * scale is stored."""
        means = [total / self.count for total in self.first]
        variances = [total / self.count - mean * mean for total, mean in zip(self.second, means, strict=True)]
        factor = Fraction(scale)
        return Channels(
            tuple(float(mean / factor + Fraction(shift)) for mean in means),
            tuple(math.sqrt(max(0.0, float(variance / factor**2))) for variance in variances),
        )


def sums_of(rows: NDArray[Any]) -> Sums:
    """Of images (n, flips, parts, C, h, w): parts are the mean, or mean and standard deviation."""
    images, _, parts, channels, height, width = rows.shape
    first: list[NDArray[np.float64]] = []
    second: list[NDArray[np.float64]] = []
    for start in range(0, images, AT_ONCE):
        some = rows[start : start + AT_ONCE].astype(np.float64).reshape(-1, parts, channels, height * width)
        mean = some[:, 0]
        squares = mean * mean
        if parts == 2:
            squares += some[:, 1] * some[:, 1]
        first.append(_added(mean))
        second.append(_added(squares))
    count = rows.size // (parts * channels)
    return Sums(count, _exact(first, channels), _exact(second, channels))


def _added(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the last axis: halves are added, over and over, since numpy's own order is the CPU's affair."""
    while (length := values.shape[-1]) > 1:
        half = (length + 1) // 2
        left = values[..., :half].copy()
        left[..., : length - half] += values[..., half:]
        values = left
    return values[..., 0]


def _exact(sums: Sequence[NDArray[np.float64]], channels: int) -> tuple[Fraction, ...]:
    """The exact sum over images (n, C) for each channel."""
    whole = np.concatenate([*sums, np.zeros((0, channels))])
    return tuple(_exact_sum(whole[:, channel].tolist()) for channel in range(channels))


def _exact_sum(values: Iterable[float]) -> Fraction:
    numerators: dict[int, int] = {}
    for value in values:
        numerator, denominator = value.as_integer_ratio()
        numerators[denominator] = numerators.get(denominator, 0) + numerator
    return sum((Fraction(numerator, denominator) for denominator, numerator in numerators.items()), Fraction())


def write_channels(folder: Path, shards: Sequence[dict[str, Any]], channels: Channels) -> None:
    """Puts what was measured of these shards, as the manifest has them, beside it. Raises UserError."""
    measured = {"mean": list(channels.mean), "deviation": list(channels.deviation)}
    write_json(folder / CHANNELS, {"shards": _shards_id(shard["sha256"] for shard in shards), **measured})


def read_channels(folder: Path) -> Channels:
    """What was measured of the store. Raises UserError where nothing was, or a channel is the same everywhere."""
    manifest = read_manifest(folder)
    _refuse_pixels(folder, manifest)
    found = read_json_if_whole(folder / CHANNELS)
    mean, deviation = (tuple(map(float, found.get(key, ()))) for key in ("mean", "deviation"))
    if found.get("shards") != _shards_id(shard.sha256 for shard in manifest.shards) or not (
        len(mean) == len(deviation) == manifest.channels
    ):
        raise UserError(
            f"data.normalisation=channel: {folder} has no measure of its channels ({CHANNELS}; it was made before they "
            f"were measured): `python -m fcdm.prepare channels data.path={folder}` makes it, of the shards alone"
        )
    if flat := [channel for channel, value in enumerate(deviation) if not value > 0]:
        raise UserError(
            f"data.normalisation=channel: channel {flat[0]} of the latents in {folder} is the same everywhere, and "
            "cannot be divided by its deviation: say data.normalisation=scalar, or leave it away"
        )
    return Channels(mean, deviation)


def measure_channels(folder: Path, progress: Any = None) -> Channels:
    """Measures a store that stands, and puts the result beside its manifest. Raises UserError.

    progress: called with the number of images done, after each shard.
    """
    from fcdm.data.latents import LatentsStore

    _refuse_pixels(folder, read_manifest(folder))
    store = LatentsStore(folder)
    manifest, total, done = store.manifest, None, 0
    for shard in store.shards:
        sums = sums_of(shard.array)
        total = sums if total is None else total + sums
        done += len(shard.array)
        if progress is not None:
            progress(done)
    assert total is not None
    channels = total.channels(manifest.stored.scale, manifest.stored.shift)
    write_channels(folder, [{"sha256": shard.sha256} for shard in manifest.shards], channels)
    return channels


def _refuse_pixels(folder: Path, manifest: Manifest) -> None:
    if manifest.kind != LATENTS:
        raise UserError(f"{folder} is a store of {manifest.kind}: channels are measured of latents")


def _shards_id(checksums: Iterable[str]) -> str:
    """What was measured."""
    return hashlib.sha256("".join(checksums).encode()).hexdigest()
