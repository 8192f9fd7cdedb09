"""What a training step must move and compute on a GPU, on paper: the table that a profile is compared with.

    python benchmarks/roofline.py [--products 798] [--copies 3.0]        an H100's measured ceilings

Operations one by one, as eager PyTorch runs them (`fcdm.speed.roofline`); forward, backward, AdamW and EMA.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hydra import compose, initialize_config_module

from fcdm.config.check import checked
from fcdm.config.shape import shape_of
from fcdm.models import build_model
from fcdm.runs.run_cost import run_cost
from fcdm.speed.ceilings import Ceilings
from fcdm.speed.roofline import KINDS, training_roofline
from fcdm.sweep.hydra_schema import register_schema

MODELS = ("S", "B", "L", "XL", "dit/S-2", "dit/B-2", "dit/L-2", "dit/XL-2")
IMAGES = {256: 64, 512: 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=float, default=798.0, help="of bf16, TFLOP/s (default: 798)")
    parser.add_argument("--copies", type=float, default=3.0, help="read and written, TB/s (default: 3.0)")
    parser.add_argument("--models", default=",".join(MODELS))
    arguments = parser.parse_args()
    if not (arguments.products > 0 and arguments.copies > 0):
        parser.error("--products and --copies: more than 0")
    ceilings = Ceilings({"bf16": 1e12 * arguments.products}, 1e12 * arguments.copies)
    register_schema()
    print(f"| model | images | launches | GB | ms | images/s | MFU | {' | '.join(KINDS)} |")
    print(f"|---|{'---|' * (6 + len(KINDS))}")
    for name in arguments.models.split(","):
        for resolution in (256, 512) if "XL" in name else (256,):
            with initialize_config_module("fcdm.conf", version_base="1.3"):
                config = checked(compose("train", [f"model={name}", f"resolution={resolution}", "precision=bf16"]))
            images = IMAGES[resolution]
            build = lambda config=config: build_model(config.model, **shape_of(config))  # noqa: E731
            found = training_roofline(build, config, images).described(ceilings, "bf16")
            seconds = found["seconds"]
            share = run_cost(config).train_flops_per_image * images / seconds / ceilings.flops_per_s["bf16"]
            kinds = (found["kinds"].get(kind) for kind in KINDS)
            times = " | ".join(f"{1000 * kind['seconds']:.1f}" if kind else "-" for kind in kinds)
            print(
                f"| {name} {resolution}px | {images} | {found['launches']:,} | {found['bytes'] / 1e9:.0f} | "
                f"{1000 * seconds:.1f} | {images / seconds:,.0f} | {share:.2f} | {times} |"
            )


if __name__ == "__main__":
    main()
