"""A scaling study whose truth is known: FID = E + (n0 / N)^a + (d0 / D)^b for models of N MACs after D images.

As a tidy table without any folders; the luck of a seed is shared by all budgets of its run, the evaluation's is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import display_name
from fcdm.analysis.data.tidy_table import COLUMNS

BATCH = 128
OFFSET = 4.0


@dataclass(frozen=True)
class Surface:
    """What a family of models does, in MACs of a forward pass and images seen."""

    offset: float = OFFSET
    """E: belongs to the data, so that all families share it."""
    n0: float = 6e9
    a: float = 0.55
    d0: float = 2.5e6
    b: float = 0.75

    def __call__(self, macs: np.ndarray | float, images: np.ndarray | float) -> np.ndarray:
        return np.asarray(
            self.offset + (self.n0 / np.asarray(macs)) ** self.a + (self.d0 / np.asarray(images)) ** self.b
        )

    def frontier(self, flops: np.ndarray | float, macs: Sequence[float]) -> np.ndarray:
        """The least FID at each training compute (6 MACs x images) over models of these sizes: the truth."""
        at = np.atleast_1d(np.asarray(flops, dtype=float))
        return np.min([self(size, at / (6 * size)) for size in macs], axis=0)


SURFACES = {"fcdm": Surface(), "dit": Surface(n0=1.2e10, d0=6e6)}
SIZES = tuple(np.geomspace(2e6, 2e9, 12))
"""MACs of twelve models, a factor of 1.87 apart."""
BUDGETS = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)


def study(
    seeds: int = 3,
    *,
    sizes: Sequence[float] = SIZES,
    budgets: Sequence[int] = BUDGETS,
    families: Sequence[str] = ("fcdm", "dit"),
    of_seed: float = 0.03,
    of_evaluation: float = 0.01,
    draw: int = 0,
) -> pd.DataFrame:
    """A tidy table: a row per family, size, seed and budget. `of_seed`, `of_evaluation`: relative deviations (1 sd)."""
    random = np.random.default_rng(draw)
    rows = []
    for family in families:
        for place, macs in enumerate(sizes):
            model = f"dit/{place + 1:02}-2" if family == "dit" else f"{place + 1:02}"
            for seed in range(seeds):
                luck = random.normal(0, of_seed)
                for steps in budgets:
                    truth = float(SURFACES[family](macs, BATCH * steps))
                    fid = truth * np.exp(luck + random.normal(0, of_evaluation))
                    label = display_name(model, family)
                    rows.append(
                        {
                            **{"run": f"{label}-{seed}", "model": model, "family": family, "data": "known"},
                            **{"resolution": 32, "seed": seed, "batch_size": BATCH, "lr": 1e-3, "steps": steps},
                            **{"protocol_id": "ddim25-10000-00000000", "guidance_scale": 1.0, "fid": fid},
                            **{"heldout_loss": 0.05 * fid**0.2, "parameters": int(macs / 15), "label": label},
                            **{"forward_gmacs": macs / 1e9, "train_flops": 6 * macs * BATCH * steps},
                            **{"images_per_s": 4e9 / macs, "device_seconds": macs * BATCH * steps / 1e11},
                            **{"seconds": macs * BATCH * steps / 1e11, "device": "one", "variant": label},
                            **{"samples": 10_000, "floor": 0.1, "floor_sd": 0.01, "grid": None, "grid_columns": 1},
                        }
                    )
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    table.attrs = {"left_out": [], "missing": [], "protocol": {}, "settings": {}}
    return table
