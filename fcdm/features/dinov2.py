"""DINOv2's class token (Oquab et al. 2023, arXiv 2304.07193): what FD-DINOv2 is taken over.

As published (Stein et al. 2023, arXiv 2306.04675; Karras et al. 2024, arXiv 2312.02696): images at 224 pixels,
ImageNet's mean and deviation, the normalised class token. Positions are interpolated as DINOv2's own code does it,
which the published numbers are of; `transformers` has another rule, for which see `positions_at`.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.dinov2_files import SIDE, Dinov2Files, checked_id, find_dinov2, without_library
from fcdm.metrics.float32 import plain_float32

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue in [0, 1]."""
OFFSET = 0.1
"""DINOv2's own: added to the number of patches a side before the scale is taken, against float rounding; it moves the
positions, so that it is part of what was published."""
BATCH = 32
"""Images in one forward pass."""


def open_dinov2(name: str, path_or_id: str | Path, device: str | torch.device = "cpu") -> Extractor:
    """Images (n, 3 or 1, h, w) uint8 -> the normalised class token (n, d): 1,024 numbers of the large one.

    name: `dinov2` or `dinov2-pil`, which differ in the resize. Float32 whatever autocast and TF32 say. UserError where
    the weights are not found or not right, transformers is missing, and for images of other shapes.
    """
    files = find_dinov2(path_or_id)
    identity = checked_id(name, files)
    return dinov2_extractor(load_dinov2(files), identity, name, torch.device(device))


def dinov2_extractor(network: nn.Module, identity: str, name: str, device: torch.device) -> Extractor:
    """`open_dinov2` of a network that is there already, in eval mode and with positions for 224 pixels."""
    network.to(device)
    mean, deviation = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    resize = resize_by_pil if name == "dinov2-pil" else resize_in_floats

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"features are of uint8 images (see to_uint8), got {images.dtype}")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise UserError(f"DINOv2 reads images (n, 3, h, w) or (n, 1, h, w), got {tuple(images.shape)}")
        parts = []
        with plain_float32(device):
            for part in torch.split(images, BATCH):
                x = (resize(part).to(device).expand(-1, 3, -1, -1) / 255 - mean) / deviation
                parts.append(network(x).last_hidden_state[:, 0])
        return torch.cat(parts).float()

    return Extractor(identity, int(network.config.hidden_size), features)  # type: ignore[union-attr, arg-type]


def resize_in_floats(images: Tensor) -> Tensor:
    """(n, c, h, w) uint8 -> (n, c, 224, 224) float32, bicubic with antialiasing; neither rounded nor clipped."""
    return F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True)


def resize_by_pil(images: Tensor) -> Tensor:
    """(n, c, h, w) uint8 -> (n, c, 224, 224) float32 of whole numbers, by PIL's bicubic."""
    resized = []
    for image in images.cpu().permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        resized.append(torch.from_numpy(pixels.reshape(SIDE, SIDE, -1).copy()).permute(2, 0, 1))
    return torch.stack(resized).float() if resized else torch.empty(0, images.shape[1], SIDE, SIDE)


def random_dinov2() -> nn.Module:
    """A large one of drawn weights, as fast as the published one. UserError where transformers is missing."""
    library = _transformers()
    values = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    network: nn.Module = library.Dinov2Model(library.Dinov2Config(**values, image_size=SIDE, patch_size=14))
    return network.eval().requires_grad_(False)


def _transformers() -> Any:
    try:
        found: Any = import_module("transformers")
        _ = found.Dinov2Model
    except ImportError as error:
        raise without_library(str(error)) from None
    return found


def load_dinov2(files: Dinov2Files) -> nn.Module:
    """The network with these weights and its positions at 224 pixels: float32 on the CPU, in eval mode, frozen.

    UserError where transformers is missing, and for weights of another network or damaged ones.
    """
    transformers = _transformers()
    log = transformers.utils.logging
    bars, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # missing weights would be drawn
            warnings.simplefilter("ignore")
            network, found = transformers.Dinov2Model.from_pretrained(
                files.folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:  # whatever damaged bytes and configurations make of the library
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{files.weights}: cannot be read ({what}): fetch it again") from error
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
    _check(files, found)
    with torch.no_grad():
        embeddings = network.embeddings
        embeddings.position_embeddings = nn.Parameter(
            positions_at(embeddings.position_embeddings, SIDE // files.values.get("patch_size", 14))
        )
    frozen: nn.Module = network.eval().requires_grad_(False)
    return frozen


def _check(files: Dinov2Files, found: dict[str, Any]) -> None:
    """Raise UserError unless every weight came from the file. What else is in it, such as a head, is not used."""
    for what in ("missing_keys", "mismatched_keys"):
        if keys := sorted(str(key) for key in found.get(what, ())):
            some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise UserError(f"{files.weights}: not the weights of {files.folder / 'config.json'}: {what}: {some}")


def positions_at(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + n^2, d) -> (1, 1 + side^2, d), as DINOv2's own code interpolates them.

    By the scale (side + 0.1) / n, where `transformers` takes side / n; a network given the result uses it as it is.
    """
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == side:
        return positions
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (side + OFFSET) / old
    grid = F.interpolate(grid.float(), scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], dim=1)
