"""`python -m fcdm.cost`: what each model costs at each resolution, as a table or as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from fcdm.config.presets import off_preset, preset_names
from fcdm.config.schema import Config
from fcdm.errors import UserError, in_one_line
from fcdm.formatting import bytes_text, flops_text, setting_text
from fcdm.runs.run_cost import run_cost
from fcdm.sweep.command_line import readable
from fcdm.sweep.compose import Composer
from fcdm.sweep.expand import expand, keys_said, last_of_each, refuse_unused
from fcdm.sweep.hydra_errors import one_line
from fcdm.sweep.hydra_schema import register_schema
from fcdm.sweep.sampling_config import own_configs

HELP = """python -m fcdm.cost [key=value ...] [--json] [--config-dir DIR]

What each model costs at each resolution: parameters, MACs, FLOPs, memory. Without a model: every preset that has the
keys and fits the resolution; without a resolution: those of the papers.

keys, as of python -m fcdm.train, several values with commas; others have no effect on a cost, and are refused
  model=S,dit/S-2 model.kernel_size=5,7 resolution=256,512
  steps=400_000 batch_size=256        a budget (default: the recipe's); flops=1e18: the steps that spend it
  data, data.channels, data.classes, data.downsample, objective, diffusion.learn_sigma, recipe
  --json                a list of rows instead of a table
  --config-dir DIR      where model/NAME.yaml of your own is

examples
  python -m fcdm.cost model=S,dit/S-2 resolution=256,512
  python -m fcdm.cost model=L model.kernel_size=3,5,7 objective=flow
  python -m fcdm.cost model=L model.feed_forward=true model.match_macs=L      the width at which it costs what L costs
  python -m fcdm.cost model=fcdm/64M,dit/64M,fcdm/6GMACs,dit/w96              sizes between the presets
"""
USES = (
    *("model", "model.*", "recipe", "resolution", "steps", "flops", "batch_size"),
    *("data", "data.name", "data.path", "data.channels", "data.classes", "data.downsample"),
    *("data.conditions.*", "data.target", "data.options.*"),  # of a model that is given conditions
    *("objective", "diffusion.objective", "diffusion.learn_sigma"),
)
"""Keys and groups that have an effect on a cost."""
SPELT = ("model", "resolution", "steps", "batch-size")
"""May be said as `--model S`, too."""
PAPER_RESOLUTIONS = {"imagenet": (256, 512)}
"""Resolutions shown per data set where there is more than its recipe's."""
OWN_COLUMNS = ("model", "resolution", "steps", "batch_size")
"""Keys that a row of the table shows by itself."""


@in_one_line("fcdm.cost")
def main(argv: list[str]) -> None:
    """Print the table, or with --json a list of rows."""
    if any(word in ("-h", "--help", "help") for word in argv):
        print(HELP, end="")
        return
    rows = cost_rows([word for word in argv if word != "--json"])
    if "--json" in argv:
        print(json.dumps(rows, indent=1), flush=True)
    else:
        _print_table(rows)


def cost_rows(words: list[str]) -> list[dict[str, Any]]:
    """One row per model, resolution and budget that a command line asks for.

    A model that is named must fit every resolution (UserError); otherwise those that do not fit are left out.
    """
    words, searched = own_configs(_as_keys(words))
    for word in words:
        if word.startswith("-") or "=" not in word:
            raise UserError(f"{word} is not known: say key=value; --help lists the keys")
    words = last_of_each(readable(words))
    refuse_unused(words, USES, "a cost")
    said = keys_said(words)
    named, sized = "model" in said, "resolution" in said
    asked = expand(words if named else [f"model={','.join(preset_names())}", *words], [])
    swept = {word for choice in asked for word in choice if not all(word in other for other in asked)}
    rows: list[dict[str, Any]] = []
    failure = ""
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_module("fcdm.conf", version_base="1.3"):
        composer = Composer.here(searched)
        for choice in asked:
            differs = [word for word in choice if word in swept and not _shown_anyway(word)]
            try:
                for config in _sizes(composer, choice, named, sized):
                    own = off_preset(config.model, composer.said(choice).presets)
                    told = [*(setting_text(key, value) for key, value in own.items()), *differs]
                    rows += [_row(config, steps, told) for steps in config.steps]
            except (UserError, HydraException, OmegaConfBaseException) as error:
                failure = failure or f"{one_line(error)}  [{' '.join(choice)}]"
                if named:
                    raise UserError(failure) from None
    if not rows:
        raise UserError(failure or f"{' '.join(words)}: fits no preset; try 256 or 512 (latents), 8 (digits)")
    return rows


def _shown_anyway(word: str) -> bool:
    """By a column of its own; of the model's keys where they are not the preset's."""
    key = word.lstrip("+").partition("=")[0]
    return key in OWN_COLUMNS or key.startswith("model.")


def _sizes(composer: Composer, choice: list[str], named: bool, sized: bool) -> Iterator[Config]:
    """The choice at the resolution that it says, else at the usual ones of its data. Raises UserError and Hydra's."""
    config = composer.config(choice)
    path = config.data.path
    if path is not None and "data.path" in composer.said(choice).keys and not Path(path).exists():
        raise UserError(
            f"data.path={path} is not there to tell its channels and classes: say data.channels= and data.classes= then"
        )
    if not sized:
        for resolution in PAPER_RESOLUTIONS.get(config.data.name, (config.resolution,)):
            own = resolution == config.resolution
            yield config if own else composer.config([*choice, f"resolution={resolution}"])
    elif named or config.data.downsample > 1 or not composer.said(choice).differs("resolution", config.resolution):
        yield config  # else: pixels are there at the data's own resolution only


def _as_keys(words: list[str]) -> list[str]:
    """`--batch-size 8` and `--batch-size=8` are `batch_size=8`."""
    found: list[str] = []
    ahead = iter(words)
    for word in ahead:
        option, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and option in SPELT:
            word = f"{option.replace('-', '_')}={value if equals else next(ahead, '')}"
        found.append(word)
    return found


def _row(config: Config, steps: int, differs: list[str]) -> dict[str, Any]:
    cost = run_cost(config)
    return {
        "model": " ".join([config.model.name, *differs]),
        "resolution": config.resolution,
        "parameters": cost.parameters,
        "forward_macs": cost.forward_macs,
        "train_flops_per_image": cost.train_flops_per_image,
        "train_flops_per_step": cost.train_flops_per_step(config.batch_size),
        "train_flops": cost.train_flops(config.batch_size, steps),
        "steps": steps,
        "batch_size": config.batch_size,
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
            f"{flops_text(row['train_flops'])}FLOPs",
            bytes_text(row["state_bytes"]),
            bytes_text(row["activation_bytes_per_image"]),
            bytes_text(row["checkpoint_bytes"]),
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
