"""`python -m fcdm.cost`: what each model costs at each resolution, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from fcdm.config.model_checks import check_model
from fcdm.config.presets import Setting, load_preset, preset_names, preset_setting
from fcdm.config.schema import ModelConfig
from fcdm.errors import OneLineParser, UserError, as_options, in_one_line
from fcdm.runs.run_cost import cost_of

PAPER_RESOLUTIONS = {"imagenet": (256, 512)}
"""Resolutions shown per data set where there is more than its recipe's."""


@in_one_line("fcdm.cost")
def main(argv: list[str]) -> None:
    """Print the table, or with --json a list of rows."""
    arguments = _parser().parse_args(as_options(argv))
    folder = arguments.config_dir
    rows = cost_rows(arguments.model, arguments.resolution, arguments.steps, arguments.batch_size, folder)
    if arguments.json:
        print(json.dumps(rows, indent=1), flush=True)
    else:
        _print_table(rows)


def cost_rows(
    models: list[str] | None = None,
    resolutions: list[int] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """One row per model and resolution; what is None comes from the preset's own data and recipe.

    `folder`: where a user's own presets are, as Hydra's --config-dir takes it.

    A model that is named must fit every resolution (UserError); otherwise those that do not fit are left out.
    """
    rows = []
    for name in models or preset_names():
        config, setting = load_preset(name, folder), preset_setting(name, folder)
        usual = PAPER_RESOLUTIONS.get(setting.data, (setting.resolution,))
        for resolution in resolutions or usual:
            if not models and setting.downsample == 1 and resolution not in usual:
                continue  # pixels are there at the data's own resolution only
            try:
                check_model(config, resolution // setting.downsample, resolution, setting.downsample)
            except UserError as error:
                if models:
                    raise UserError(f"model={name} {error}") from None
                continue
            rows.append(_row(config, setting, resolution, steps, batch_size))
    if not rows:
        asked = ",".join(str(resolution) for resolution in resolutions or ())
        raise UserError(f"resolution={asked}: fits no preset; try 256 or 512 (latents), 8 (digits)")
    return rows


def _row(
    config: ModelConfig, setting: Setting, resolution: int, steps: int | None, batch_size: int | None
) -> dict[str, Any]:
    steps = setting.steps if steps is None else steps
    batch_size = setting.batch_size if batch_size is None else batch_size
    side = resolution // setting.downsample
    cost = cost_of(config, channels=setting.channels, side=side, classes=setting.classes)
    return {
        "model": config.name,
        "resolution": resolution,
        "parameters": cost.parameters,
        "forward_macs": cost.forward_macs,
        "train_flops_per_image": cost.train_flops_per_image,
        "train_flops_per_step": cost.train_flops_per_step(batch_size),
        "train_flops": cost.train_flops(batch_size, steps),
        "steps": steps,
        "batch_size": batch_size,
        "state_bytes": cost.state_bytes,
        "activation_bytes_per_image": cost.activation_bytes_per_image,
        "checkpoint_bytes": cost.checkpoint_bytes,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "model",
        "resolution",
        "parameters",
        "forward\nGMACs",
        "training\nGFLOPs\nper image",
        "batch",
        "TFLOPs\nper step",
        "steps",
        "FLOPs of\nthe budget",
        "memory:\nstate",
        "activations\nper image",
        "checkpoint\non disk",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["model"],
            str(row["resolution"]),
            f"{row['parameters'] / 1e6:,.2f} M",
            _significant(row["forward_macs"] / 1e9),
            _significant(row["train_flops_per_image"] / 1e9),
            f"{row['batch_size']:,}",
            _significant(row["train_flops_per_step"] / 1e12),
            f"{row['steps']:,}",
            _with_prefix(row["train_flops"], "FLOPs"),
            _with_prefix(row["state_bytes"], "B"),
            _with_prefix(row["activation_bytes_per_image"], "B"),
            _with_prefix(row["checkpoint_bytes"], "B"),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe has no width, and half a number helps nobody
    console.print(table)
    console.print(
        "FLOPs = 2 x MACs; a training step = 3 forwards. State: float32 weights, gradients, AdamW's two moments, "
        "EMA.\nActivations: float32 without activation checkpointing, an estimate; bf16 about half. 1 GB = 1e9 B.",
        highlight=False,
    )


def _significant(value: float, digits: int = 4) -> str:
    """Four digits that mean something, never an exponent: 0.003412, 3.073, 118.6, 1,234."""
    decimals = max(0, digits - 1 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f}"


def _with_prefix(value: float, unit: str) -> str:
    prefix = min(6, int(math.log10(value) // 3))
    return f"{value / 1000**prefix:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[prefix]}{unit}"


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m fcdm.cost",
        description="What each model costs at each resolution. Without arguments: every preset.",
        epilog="Example: python -m fcdm.cost model=S,dit/S-2 resolution=256,512",
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=lambda text: text.split(","), metavar="S,dit/S-2", help="presets")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="where model/*.yaml of your own are")
    parser.add_argument("--resolution", type=_counts, metavar="256,512", help="side of the images in pixels")
    parser.add_argument("--steps", type=_count, help="budget in training steps (default: the recipe's)")
    parser.add_argument("--batch-size", type=_count, help="global batch (default: the recipe's)")
    parser.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    return parser


def _count(text: str) -> int:
    if not text.replace("_", "").isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
