"""Feature extractors: 8-bit images in, the numbers that distances between sets of images are taken over out.

Importing this is torch-free, so a plan can name its extractor (`extractor_id`) at once. docs/features.md says which is
for what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.config.schema import EvaluationConfig
from fcdm.config.spaces import DINOV2, SPACES
from fcdm.errors import UserError
from fcdm.features.classifier_files import NONE_YET, ClassifierFiles, find_classifier
from fcdm.features.dinov2_files import dinov2_id
from fcdm.features.inception_weights import inception_id
from fcdm.hashing import known_sha256

if TYPE_CHECKING:
    import torch

DIGITS_CNN_WEIGHTS = Path(__file__).with_name("digits_cnn.safetensors")


@dataclass(frozen=True)
class Features:
    """What one pass gives for n images, float32; None where the extractor has no such output."""

    pool: torch.Tensor
    """(n, dim): for FID, precision and recall. Inception's pool_3, 2,048 numbers."""
    spatial: torch.Tensor | None = None
    """(n, spatial_dim): for sFID. 7 channels of Inception's mixed_6/conv on 17x17 places, channels last: 2,023."""
    probabilities: torch.Tensor | None = None
    """(n, classes), rows sum to 1: for the Inception Score. 1,008 classes."""


@dataclass(frozen=True)
class Extractor:
    """Call it with images (n, c, h, w) uint8: features (n, dim) float32 on the device it was opened on."""

    id: str
    """Names the weights too: features of two ids are never compared."""
    dim: int
    extract: Callable[[torch.Tensor], torch.Tensor]
    spatial_dim: int | None = None
    classes: int | None = None
    extract_all: Callable[[torch.Tensor], Features] | None = None
    second: Extractor | None = None
    """Another of the same kind, by which all is measured too: a ranking that flips between the two is no result."""

    @property
    def is_inception(self) -> bool:
        """Whether it has the outputs that ADM's five metrics are of."""
        return self.classes is not None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.extract(images)

    def features(self, images: torch.Tensor) -> Features:
        """All that the extractor has to say about images (n, c, h, w) uint8, in one pass."""
        return self.extract_all(images) if self.extract_all else Features(self.extract(images))


def digits_cnn_id() -> str:
    """`digits-cnn@<first 8 hex digits of the shipped weight file's sha256>`."""
    return "digits-cnn@" + known_sha256(DIGITS_CNN_WEIGHTS)[:8]


def extractor_id(name: str, weights: str | Path | None = None, channels: int = 1, store: str | None = None) -> str:
    """The id of the extractor `name`, without loading it; other arguments as in `open_extractor`.

    Inception's is the public file's even where that is not there yet. UserError for an unknown name, and for weights
    that are not there.
    """
    if name not in SPACES:
        raise UserError(f"no feature extractor {name!r}: choose one of {', '.join(SPACES)}")
    if name == "inception":
        return inception_id(weights)
    if name in DINOV2:
        return dinov2_id(name, _dinov2(weights))
    if name == "digits-cnn":
        return digits_cnn_id()
    if name == "classifier":
        found = _classifier(weights, store)
        return found.id if found else NONE_YET
    return "pixels-8x8" if channels == 1 else "pixels-4x4x3"


def open_extractor(
    name: str,
    device: str | torch.device = "cpu",
    weights: str | Path | None = None,
    channels: int = 1,
    store: str | None = None,
) -> Extractor:
    """The extractor `name`, ready on `device`; UserError for an unknown name.

    - `digits-cnn`: 64 penultimate features of a small CNN that reads the digits (`fcdm.features.digits_cnn`);
    - `pixels`: the pixels themselves, area-averaged to 8x8 (`channels` 1) or 4x4x3, and scaled to [-1, 1]. A CNN's
      features might favour the samples of a ConvNet; these favour nobody;
    - `inception`: what published FIDs are taken over (`fcdm.features.inception`), of images of any size. Its
      weights are at `weights`, else $FCDM_INCEPTION, else in the cache folder;
    - `dinov2`, `dinov2-pil`: what FD-DINOv2 is taken over (`fcdm.features.dinov2`), of images of any size. `weights` is
      a hub id or a folder, else the configuration's default;
    - `classifier`: 64 features each of two small networks that were trained on images of the store of pixels at
      `weights`, of the checksum `store` (`fcdm.features.classifier`).

    UserError where weights are missing. The first two compute in float64 (autocast and TF32 leave it alone), so batch
    size and device move a feature by no more than its float32 rounding.
    """
    if name == "inception":
        from fcdm.features.inception import open_inception

        return open_inception(weights, device)
    if name in DINOV2:
        from fcdm.features.dinov2 import open_dinov2

        return open_dinov2(name, _dinov2(weights), device)
    if name == "classifier":
        from fcdm.features.classifier import open_classifier

        found = _classifier(weights, store)
        if found is None:
            raise UserError(
                f"the store {weights} has no classifier yet: `python -m fcdm.prepare features data.path={weights}` "
                "makes it"
            )
        return open_classifier(found, device)
    identity = extractor_id(name, weights, channels)
    if name == "pixels":
        from fcdm.features.averaged_pixels import pixel_values

        return Extractor(
            identity, 64 if channels == 1 else 48, lambda images: pixel_values(images.to(device), channels)
        )
    import torch

    from fcdm.features.digits_cnn import FEATURES, load_digits_cnn, to_8x8

    network = load_digits_cnn().to(device, torch.float64)

    @torch.no_grad()
    def penultimate(images: torch.Tensor) -> torch.Tensor:
        return network.features(to_8x8(images.to(device))).float()

    return Extractor(identity, FEATURES, penultimate)


def _classifier(folder: str | Path | None, store: str | None) -> ClassifierFiles | None:
    if folder is None or store is None:
        raise UserError("features=classifier are those of a store of pixels: say data.path=STORE")
    return find_classifier(Path(folder), store)


def _dinov2(weights: str | Path | None) -> str | Path:
    return EvaluationConfig.dinov2 if weights is None else weights
