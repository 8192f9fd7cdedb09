"""The metrics of samples in one call, as the engine takes them batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fcdm.features import Extractor
from fcdm.features.reference import Reference
from fcdm.features.sample_statistics import SampleStatistics, check_resolution


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
        check_resolution(batch, reference)
        statistics.update(extractor.features(batch))
        if progress:
            progress(statistics.count)
    return statistics.metrics(reference, reference.features(extractor) if statistics.keep else None, device)
