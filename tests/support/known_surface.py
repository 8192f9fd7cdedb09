"""A scaling study whose truth is known: FID = E + (n0 / N)^a + (d0 / D)^b for models of N MACs after D images.

As a tidy table without any folders, or as the points of a joint law; the luck of a seed is shared by all budgets of its
run, the evaluation's is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fcdm.analysis.data.labels import display_name
from fcdm.analysis.data.tidy_table import COLUMNS
from fcdm.laws.joint_law import JointLaw
from fcdm.laws.surface_points import SurfacePoints

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
    form: str = "additive"
    """Or `Kaplan's`: E + ((n0 / N)^(a / b) + d0 / D)^b."""

    def __call__(self, macs: np.ndarray | float, images: np.ndarray | float) -> np.ndarray:
        of_size, of_data = self.n0 / np.asarray(macs), self.d0 / np.asarray(images)
        if self.form == "Kaplan's":
            return np.asarray(self.offset + (of_size ** (self.a / self.b) + of_data) ** self.b)
        return np.asarray(self.offset + of_size**self.a + of_data**self.b)

    @property
    def law(self) -> JointLaw:
        """The same, as E, A, alpha, B, beta."""
        return JointLaw(self.offset, self.n0**self.a, self.a, self.d0**self.b, self.b, self.form)

    def frontier(self, flops: np.ndarray | float, macs: Sequence[float]) -> np.ndarray:
        """The least FID at each training compute (6 MACs x images) over models of these sizes: the truth."""
        at = np.atleast_1d(np.asarray(flops, dtype=float))
        return np.min([self(size, at / (6 * size)) for size in macs], axis=0)


SURFACES = {"fcdm": Surface(), "dit": Surface(n0=1.2e10, d0=6e6)}
LOSS = Surface(offset=0.05, n0=113.0, a=0.4, d0=54.0, b=0.5)
"""Of a held-out loss: at FEW_SIZES and FEW_BUDGETS from 0.13 to 0.072, a third of which is above E at the end."""
FEW_SIZES, FEW_BUDGETS = tuple(2e6 * 2.0**k for k in range(5)), tuple(15e3 * 2.0**k for k in range(5))
"""Five sizes in MACs and five budgets in images, a factor of 2 apart: what two cores can train."""
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


def measured(
    surface: Surface = LOSS,
    seeds: int = 2,
    *,
    sizes: Sequence[float] = FEW_SIZES,
    images: Sequence[float] = FEW_BUDGETS,
    of_seed: float = 0.01,
    of_evaluation: float = 0.005,
    of_size: float = 0.0,
    outlier: float = 1.0,
    draw: int = 0,
) -> SurfacePoints:
    """Points of a joint law. `of_size`: how sizes deviate from the surface (1 sd), as no law has it. `outlier`: the
    factor of one value, wherever the draw puts it."""
    random = np.random.default_rng(draw)
    shape = (len(sizes), seeds, len(images))
    n, d = (np.broadcast_to(part, shape).ravel() for part in (np.reshape(sizes, (-1, 1, 1)), np.asarray(images)))
    runs = np.repeat(np.arange(shape[0] * seeds), len(images))
    off = random.normal(0, of_seed, shape[:2])[:, :, None] + random.normal(0, of_evaluation, shape)
    off = off + random.normal(0, of_size, len(sizes))[:, None, None]
    y = surface(n, d) * np.exp(off.ravel())
    y[random.integers(len(y))] *= outlier
    return SurfacePoints.checked(n, d, y, list(runs))
