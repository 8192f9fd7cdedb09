"""A published batch of samples with its published metrics: does this machine's evaluator give the same?

ADM's batch (the README of openai/guided-diffusion, arXiv 2105.05233) was scored with TensorFlow; ours are torch's
convolutions of the same weights, so the last digits differ. The tolerances are what no comparison of papers rests on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fcdm.atomic import read_json
from fcdm.errors import UserError
from fcdm.features.find_reference import is_statistics
from fcdm.features.reference import read_reference
from fcdm.images.image_stream import Images
from fcdm.paths import place

SAMPLES, REFERENCE = "admnet_guided_upsampled_imagenet256.npz", "VIRTUAL_imagenet256_labeled.npz"
PUBLISHED = {
    "inception_score": 215.837,
    "fid": 3.94256,
    "sfid": 6.14043,
    "precision": 0.8265,
    "recall": 0.5309,
}
"""Of SAMPLES against REFERENCE, 50,000 images of 256x256."""
TOLERANCE = {
    "inception_score": 0.01,  # relative
    "fid": 0.02,
    "sfid": 0.02,
    "precision": 0.01,  # absolute: of 50,000 samples
    "recall": 0.01,
}
_RELATIVE = ("inception_score", "fid", "sfid")


IMAGES, SIDE = 50_000, 256
"""Of SAMPLES."""


def check_batch(samples: Images, reference: Path) -> None:
    """UserError for what cannot be ADM's batch and reference: its published values say nothing of others."""
    found = read_reference(reference) if is_statistics(reference) else None
    if found is None or found.resolution != SIDE:
        raise UserError(
            f"{reference} is not the reference of the published values, {REFERENCE}: calibrate with that, or say "
            "published=values.json with the values of your own pair"
        )
    if (samples.count, samples.height, samples.width) != (IMAGES, SIDE, SIDE):
        raise UserError(
            f"{samples.path}: {samples.told}, and the published values are of ADM's batch, {IMAGES:,} images of "
            f"{SIDE}x{SIDE}x3 ({SAMPLES}): calibrate with that, or say published=values.json with this batch's own; "
            "without calibrate, `python -m fcdm.evaluate samples=... reference=...` gives the metrics"
        )


class MetricCheck(NamedTuple):
    """One metric compared."""

    metric: str
    published: float
    found: float
    allowed: float
    """Difference, in the metric's own unit."""

    @property
    def agrees(self) -> bool:
        return abs(self.found - self.published) <= self.allowed


def compare(found: dict[str, Any], published: dict[str, float]) -> list[MetricCheck]:
    """Every published metric beside the found one; a missing or NaN one never agrees."""
    lines = []
    for metric, wanted in published.items():
        allowed = TOLERANCE[metric] * (abs(wanted) if metric in _RELATIVE else 1)
        lines.append(MetricCheck(metric, wanted, float(found.get(metric, "nan")), allowed))
    return lines


def published_values(path: str | None) -> dict[str, float]:
    """The table above, or the values of a JSON file {"fid": 3.9, ...} for a batch of one's own. Raises UserError."""
    if path is None:
        return PUBLISHED
    values = read_json(place(path)) if place(path).is_file() else {}
    if not values or not all(key in TOLERANCE and isinstance(value, int | float) for key, value in values.items()):
        raise UserError(f'published={path}: a JSON file like {{"fid": 3.94}} is wanted, of {", ".join(TOLERANCE)}')
    return {key: float(value) for key, value in values.items()}


def missing_files(samples: str | None, reference: str | None) -> str | None:
    """What to download, where a file is missing; None where both are there."""
    lines = []
    for key, given, name in (("samples", samples, SAMPLES), ("reference", reference, REFERENCE)):
        if given is None:
            lines.append(f"say {key}=<path of {name}>")
        elif not place(given).exists():
            lines.append(f"{key}={given}: there is no such file")
    if not lines:
        return None
    return (
        f"{'; '.join(lines)}. Calibration needs both files of ADM's evaluation suite (openai/guided-diffusion, folder "
        f"`evaluations`, which says where they are): {SAMPLES} (about 10 GB) and {REFERENCE}"
    )
