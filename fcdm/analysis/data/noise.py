"""How far a distance varies where nothing but the evaluation's seed differs, from the evaluations that are there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from fcdm.analysis.data.curves import RunCurves, has_log

NOISE = {
    "fid": "noise",
    "fid_pixels": "noise_pixels",
    "fid_heldout": "noise_heldout",
    "fid_pixels_heldout": "noise_pixels_heldout",
}
"""A distance -> the column of its noise."""


def same_but(keys: tuple[str, ...], one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two protocols, as recorded, differ in these keys alone, if at all; of what is not known: no."""
    rest = [{key: value for key, value in protocol.items() if key not in keys} for protocol in (one, other)]
    return bool(rest[0]) and rest[0] == rest[1]


def evaluation_noise(curves: Sequence[RunCurves], *protocols: dict[str, Any]) -> dict[str, float]:
    """Column -> relative standard deviation (NaN: not measured), and `noise_repeats`, its degrees of freedom.

    Of all checkpoints that were evaluated twice or more by one of these protocols but for its seed, pooled.
    """
    found: dict[str, float] = {}
    for metric, column in NOISE.items():
        variances, freedom = 0.0, 0
        for run, protocol in product(curves, protocols):
            by_step: dict[int, list[float]] = {}
            for evaluated in run.evaluated:
                theirs = run.protocols.get(evaluated.protocol_id, {}).get("protocol", {})
                value = evaluated.metrics.get(metric, np.nan)
                if same_but(("seed",), theirs, protocol) and has_log(value):
                    by_step.setdefault(evaluated.step, []).append(value)
            for values in by_step.values():
                if len(values) > 1:
                    variances += float(np.var(values) / np.mean(values) ** 2) * len(values)
                    freedom += len(values) - 1
        found[column] = float(np.sqrt(variances / freedom)) if freedom else np.nan
        if metric == "fid":
            found["noise_repeats"] = freedom
    return found
