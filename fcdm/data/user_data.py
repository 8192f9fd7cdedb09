"""A data set of the user's own: images in memory, made by their code, looked over, and read as any other is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fcdm.config.load_code import build, refuse
from fcdm.config.schema import Config, DataConfig
from fcdm.config.user_code import DATA, UserCode
from fcdm.data.memory_dataset import ImageSide, MemoryDataset
from fcdm.errors import UserError
from fcdm.runs.kept_source import with_source

if TYPE_CHECKING:
    import torch


GIVES = ("images", "labels", "conditions", "heldout_images", "heldout_labels", "heldout_conditions")
"""What it gives, as a dictionary or as attributes; labels and conditions where it has any."""


def code_of_data(data: DataConfig) -> UserCode:
    assert data.target is not None
    return UserCode(DATA, data.target, data.options, data.source)


def own_checksum(data: DataConfig) -> str:
    """The identity of a data set of the user's own: its code and options, known without running it."""
    return with_source(code_of_data(data)).identity


def load_images(
    code: UserCode, *, channels: int, side: int, classes: int, conditions: Mapping[str, Sequence[int]]
) -> tuple[ImageSide, ImageSide]:
    """What the user's code gives: (trained on, held out). Raises UserError for what cannot be trained on.

    conditions: name -> shape of one image's. Generators of torch, numpy and Python are seeded for it.
    """
    import random

    import numpy as np
    import torch

    with torch.random.fork_rng(devices=[]):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(0)
        found = build(code, {"channels": channels, "side": side, "classes": classes})
        given = _Given(code, found)
        if isinstance(found, Mapping) and (unknown := sorted(set(map(str, found)) - set(GIVES))):
            raise UserError(f"{code} gives {unknown[0]}, which nothing reads: it gives {', '.join(GIVES)}")
        sides = [
            ImageSide(
                given.images(f"{which}images", (channels, side, side)),
                given.labels(f"{which}labels", f"{which}images", classes),
                given.conditions(f"{which}conditions", f"{which}images", conditions),
            )
            for which in ("", "heldout_")
        ]
    return sides[0], sides[1]


class _Given:
    """What the user's code gives, piece by piece; each refusal is one line."""

    def __init__(self, code: UserCode, found: Any) -> None:
        self.code, self.found = code, found

    def piece(self, name: str) -> Any:
        if isinstance(self.found, Mapping):
            return self.found.get(name)
        try:
            return getattr(self.found, name, None)
        except Exception as error:
            refuse(self.code, f"cannot give {name}", error)

    def tensor(self, name: str, piece: Any) -> torch.Tensor:
        import numpy as np
        import torch

        if isinstance(piece, np.ndarray):
            piece = torch.from_numpy(np.ascontiguousarray(piece))
        if not isinstance(piece, torch.Tensor):
            kind = "none" if piece is None else f"a {type(piece).__name__}"
            raise UserError(f"{self.code}: {name} is {kind}: a numpy array or a torch tensor belongs there")
        return piece.detach().cpu()

    def images(self, name: str, shape: tuple[int, int, int]) -> torch.Tensor:
        import torch

        images = self.tensor(name, self.piece(name))
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise UserError(
                f"{self.code}: {name} has shape {tuple(images.shape)}; data.channels={shape[0]} and "
                f"resolution={shape[1]} say (N, {', '.join(map(str, shape))})"
            )
        if len(images) == 0:
            why = "samples are compared with images that were held out" if "heldout" in name else "nothing to train on"
            raise UserError(f"{self.code}: {name} is empty: {why}")
        if images.dtype == torch.uint8:
            return images
        if images.dtype != torch.float32:
            raise UserError(f"{self.code}: {name} is {images.dtype}: uint8, or float32 from -1 to 1")
        low, high = float(images.min()), float(images.max())
        if not (low >= -1.0 and high <= 1.0):  # also where they are NaN
            raise UserError(f"{self.code}: {name} goes from {low:g} to {high:g}: float32 goes from -1 to 1")
        return images

    def labels(self, name: str, beside: str, classes: int) -> torch.Tensor:
        import torch

        count, piece = len(self.piece(beside)), self.piece(name)
        if piece is None:
            if classes != 1:
                raise UserError(f"{self.code} gives no {name}: data without labels is of one class, data.classes=1")
            return torch.zeros(count, dtype=torch.int64)
        labels = self.tensor(name, piece)
        if labels.is_floating_point() or labels.is_complex() or tuple(labels.shape) != (count,):
            raise UserError(
                f"{self.code}: {name} is {labels.dtype} of shape {tuple(labels.shape)}: whole numbers, ({count},)"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise UserError(
                f"{self.code}: {name} has the label {wrong}: data.classes={classes} allows 0 to {classes - 1}"
            )
        return labels.long()

    def conditions(self, name: str, beside: str, declared: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
        import torch

        count, found = len(self.piece(beside)), self.piece(name) or {}
        if not isinstance(found, Mapping) or set(found) != set(declared):
            given = f"has {', '.join(map(str, found)) or 'none'}" if isinstance(found, Mapping) else "is no dictionary"
            raise UserError(f"{self.code}: {name} {given}; data.conditions says {', '.join(declared) or 'none'}")
        tensors = {}
        for key, shape in declared.items():
            tensor = self.tensor(f"{name}[{key}]", found[key])
            wanted = (count, *shape)
            if tuple(tensor.shape) != wanted or tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
                raise UserError(
                    f"{self.code}: {name}[{key}] is {tensor.dtype} of shape {tuple(tensor.shape)}: finite float32 of "
                    f"shape {wanted}, as data.conditions.{key}={list(shape)} says"
                )
            tensors[key] = tensor
        return tensors


def images_of(config: Config) -> tuple[ImageSide, ImageSide]:
    """The configuration's own data set, made once a process. Raises UserError."""
    data = config.data
    key = (code_of_data(data).identity, data.channels, config.resolution, data.classes, repr(data.conditions))
    if data.source is None or key not in _made:
        _made.clear()
        _made[key] = load_images(
            code_of_data(data),
            channels=data.channels,
            side=config.resolution,
            classes=data.classes,
            conditions=data.conditions,
        )
    return _made[key]


_made: dict[Any, tuple[ImageSide, ImageSide]] = {}


class UserDataset(MemoryDataset):
    """One of the user's own, which may give conditions beside labels."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(*images_of(config), config.data.flip, device)

    def conditions(self, fetched: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of the images of a batch: name -> (n, ...) float32."""
        chosen = fetched.to(self.device, non_blocking=True)
        return {name: tensor[chosen] for name, tensor in self.train.conditions.items()}

    def heldout_conditions(self, places: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: tensor[places] for name, tensor in self.held.conditions.items()}


def try_data(code: UserCode, **facts: Any) -> int:
    """Make the data set; twice where that is quick, to see that it is the same. Returns how many images are trained on.

    Raises UserError.
    """
    import time

    import torch

    began = time.monotonic()
    first = load_images(code, **facts)
    if time.monotonic() - began > 5.0:
        return len(first[0])
    for before, after in zip(first, load_images(code, **facts), strict=True):
        pairs = [(before.images, after.images), (before.labels, after.labels)]
        pairs += [(tensor, after.conditions[name]) for name, tensor in before.conditions.items()]
        if not all(torch.equal(a, b) for a, b in pairs):
            raise UserError(
                f"{code} gives other images, labels or conditions each time that it is made: draw them from a "
                "generator with a seed of its own, such as numpy.random.default_rng(0)"
            )
    return len(first[0])
