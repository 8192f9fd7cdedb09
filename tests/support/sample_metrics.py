"""The metrics of samples in one call, as the engine takes them batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fcdm.features import Extractor
from fcdm.features.make_reference import kept_numbers, write_reference
from fcdm.features.reference import KEEP, Reference
from fcdm.features.sample_statistics import SampleStatistics, check_resolution


def write_reference_of(
    path: str | Path, images: Iterable[Tensor], extractor: Extractor, keep: int = KEEP, seed: int = 0
) -> list[str]:
    """The reference file of `images`, batches (n, c, h, w) uint8 in memory; returns the warnings."""
    statistics = SampleStatistics(extractor.dim, extractor.spatial_dim, keep=0)
    seen = []
    for batch in images:
        statistics.update(extractor.features(batch))
        seen.append(batch.permute(0, 2, 3, 1).numpy())
    numbers = kept_numbers(statistics.count, keep, seed)
    kept = [np.concatenate(seen)[numbers]] if seen else []
    write_reference(Path(path), statistics, extractor, kept, len(numbers))
    return statistics.warnings()


def evaluate_samples(
    images: Iterable[Tensor],
    reference: Reference,
    extractor: Extractor,
    statistics: SampleStatistics | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """The metrics (see `SampleStatistics.metrics`) of `images`, batches (n, c, h, w) uint8, against `reference`.

    `statistics` may bring samples that were seen before, and then holds all (for `warnings`). Precision and
    recall need the reference's images and are computed on `device`. `progress(samples done)`.
    UserError for a reference of another extractor, and for images of another size than its own.
    """
    reference.check_extractor(extractor)
    statistics = statistics or SampleStatistics.for_extractor(extractor)
    for batch in images:
        check_resolution(*batch.shape[2:], reference)
        statistics.update(extractor.features(batch))
        if progress:
            progress(statistics.count)
    return statistics.metrics(reference, reference.features(extractor) if statistics.keep else None, device)
