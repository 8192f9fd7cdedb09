"""The published numbers of FCDM, DiT and their neighbours, each with its source and how sure it is.

Four files beside this one. `results.csv`: a row per evaluated checkpoint. `models.csv`: parameters and forward GMACs as
published and as `python -m fcdm.cost` counts them. `throughput.csv`: images/s of inference. `ablations.csv`: changes to
FCDM-L, whose width is adjusted to equal MACs (the caption of Table 6).
`confidence` is of the numbers that the row quotes: `paper` (read in the paper that measured or quotes it),
`third-party` (notes by others on the paper; not read in the paper), `derived` (nothing quoted: counted here).

Conventions. The papers' "Gflops" are GMACs: multiply-accumulates of one forward pass of one image / 1e9. FLOPs are
2 x MACs, a training step costs 3 forwards (DiT's convention, arXiv 2212.09748), every batch has 256 images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fcdm.data.image_counts import IMAGENET_TRAIN

PUBLISHED = "published"
"""What stands in `origin` of a row."""

BATCH_SIZE = 256
FOLDER = Path(__file__).parent
NUMBERS = ("fid", "sfid", "inception_score", "precision", "recall")
COLUMNS = (
    *("origin", "model", "family", "label", "resolution", "steps", "images", "epochs", "guidance_scale", *NUMBERS),
    *("samples", "sampler", "labels", "decoder", "framework", "train_precision", "series"),
    *("parameters", "forward_gmacs", "forward_gmacs_published", "train_flops"),
    *("throughput_of", "images_per_s", "implied_tflop_per_s", "source", "confidence"),
)
"""`series`: points of one source and one protocol, which a line may join; empty: the point stands alone.
`guidance_scale`: 1 without guidance, NaN where the source does not tell it. `images`, `epochs` (of ImageNet's training
set), `train_flops`: derived.
`labels`: of the samples, `uniform` (drawn i.i.d., as the public PyTorch codes of FCDM and DiT do), `balanced` (equally
many of each class, which gives a FID about 0.1 lower) or `unknown`. `train_precision`: `fp32` (notes read it for FCDM,
whose public command trains in bf16; DiCo's training logs say it) or `unknown`.
`images_per_s` is of what `throughput_of` says, which is inference in all rows: never to be drawn on one axis with the
throughput of a training. `implied_tflop_per_s`: 2 x forward MACs x images/s, derived; on an undisclosed device, at an
undisclosed batch size and precision. torch computes convolutions in TF32 by default and matrix products in float32, so
that a ratio of two families may compare two precisions."""

PROTOCOL: dict[str, Any] = {
    "samples": 50_000,
    "sampler": "ddpm",
    "sampling_steps": 250,
    "guidance_scale": 1.0,
    "weights": "ema",
    "features": "inception",
}
"""How the unguided published FIDs were measured, in the words of a protocol (SiT's by its SDE sampler)."""


def published(folder: Path = FOLDER) -> pd.DataFrame:
    """One row per published result with COLUMNS, `origin` = "published"; never to be drawn like one's own runs.

    `forward_gmacs` is the count of `python -m fcdm.cost` where this package has the model, else the published one;
    `train_flops` = 3 x 2 x forward MACs x 256 x steps.
    """
    results = pd.read_csv(folder / "results.csv", dtype={"guidance_scale": str, "series": str})
    models = pd.read_csv(folder / "models.csv").drop(columns=["family", "source", "confidence"])
    speeds = pd.read_csv(folder / "throughput.csv")[["model", "resolution", "throughput_of", "images_per_s"]]
    table = results.merge(models, on=["model", "resolution"], how="left", validate="many_to_one")
    table = table.merge(speeds, on=["model", "resolution"], how="left", validate="many_to_one")
    table["guidance_scale"] = table["guidance_scale"].fillna("1").replace("unknown", np.nan).astype(float)
    table["series"] = table["series"].fillna("")
    table["forward_gmacs"] = table["forward_gmacs_counted"].fillna(table["forward_gmacs_published"])
    table["parameters"] = table["parameters_m_counted"].fillna(table["parameters_m_published"]) * 1e6
    table["images"] = table["steps"] * BATCH_SIZE
    table["epochs"] = table["images"] / IMAGENET_TRAIN
    table["train_flops"] = 3 * 2 * table["forward_gmacs"] * 1e9 * table["images"]
    table["implied_tflop_per_s"] = 2 * table["forward_gmacs"] * 1e9 * table["images_per_s"] / 1e12
    return table.assign(origin=PUBLISHED, label=table["model"])[list(COLUMNS)]


def published_curve(table: pd.DataFrame, model: str, resolution: int) -> pd.DataFrame:
    """The unguided points of one model that a line may join, in order of steps; without rows where there are none."""
    found = table[(table["model"] == model) & (table["resolution"] == resolution)]
    found = found[(found["guidance_scale"] == 1) & (found["series"] != "")]
    return found.sort_values("steps", ignore_index=True)


def published_ablations(folder: Path = FOLDER) -> pd.DataFrame:
    """FID of FCDM-L at 200K steps with one thing changed: third-party, unconfirmed, and notes disagree on kernels.

    Of the two pairs for kernels 5 and 3 the first (20.48, 21.28) is better supported: it stands beside 48.2 and 48.1
    GMACs after 48.3, which fall by 0.1 each as the count does (48.23, 48.11, 48.02); the other (21.07, 22.73) has none.
    """
    return pd.read_csv(folder / "ablations.csv").fillna({"remark": ""}).assign(origin=PUBLISHED)
