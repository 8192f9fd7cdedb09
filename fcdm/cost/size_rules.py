"""Hyperparameters that follow a model's size: `optimiser.lr_rule=width`, `batch_rule=width`.

By the rule a value is what is said, times (width / width of the base) to a power: lr x (width / base)^-lr_power, of
which 0.5 and 1 are usual (muP's for Adam is 1, arXiv 2203.03466), and batch_size x (width / base)^batch_power, to a
multiple of 8. A base is a model of the same family. A run has the value that comes out, and no rule: with that
value typed by hand it is the same run.
"""

from __future__ import annotations

from typing import Any

from fcdm.config.check import check_values, near
from fcdm.config.presets import load_preset, preset_names
from fcdm.config.schema import Config, DiTConfig, FCDMConfig
from fcdm.config.shape import shape_of
from fcdm.cost.ladder import sized
from fcdm.errors import UserError
from fcdm.formatting import setting_text

WIDTH, CONSTANT = "width", "constant"
DIGITS = 4
"""Significant digits of a rate: an id must not hang on the last bits of a power."""
WHOLE = 8
"""Batches are multiples of it."""


def settle_rules(config: Config) -> list[str]:
    """Gives the configuration the learning rate and the batch of its model's width, in place; notes on them.

    Raises UserError where a rule lacks its power or its base, or the base is of another family.
    """
    notes = []
    optimiser = config.optimiser
    if optimiser.lr_rule == WIDTH:
        check_values(config)
        base, width = _widths(config, "optimiser.lr", optimiser.lr_power, optimiser.lr_base)
        assert optimiser.lr_power is not None
        before, optimiser.lr = optimiser.lr, float(f"{optimiser.lr * (width / base) ** -optimiser.lr_power:.{DIGITS}g}")
        notes.append(
            f"model={config.model.name}: optimiser.lr={optimiser.lr:g}, {before:g} x ({width} / {base})"
            f"^-{optimiser.lr_power:g}"
        )
        optimiser.lr_rule, optimiser.lr_power, optimiser.lr_base = CONSTANT, None, None
    if config.batch_rule == WIDTH:
        check_values(config)
        base, width = _widths(config, "batch", config.batch_power, config.batch_base)
        assert config.batch_power is not None
        whole = config.batch_size * (width / base) ** config.batch_power
        before, config.batch_size = config.batch_size, max(WHOLE, round(whole / WHOLE) * WHOLE)
        notes.append(
            f"model={config.model.name}: batch_size={config.batch_size}, {before} x ({width} / {base})"
            f"^{config.batch_power:g}, to a multiple of {WHOLE}"
        )
        config.batch_rule, config.batch_power, config.batch_base = CONSTANT, None, None
    return notes


def _widths(config: Config, key: str, power: float | None, base: Any) -> tuple[int, int]:
    """Of the base of the model's family, and of the model. Raises UserError."""
    model = config.model
    if not isinstance(model, FCDMConfig | DiTConfig):
        raise UserError(f"{key}_rule=width is of FCDM and DiT, whose width is known: say {key}_rule=constant")
    if power is None or base is None:
        missing = f"{key}_power" if power is None else f"{key}_base"
        example = "0.5" if power is None else "N, or '[N,dit/N-2]' for both families"
        raise UserError(f"{key}_rule=width needs {missing} too: say {missing}={example}")
    bases = [_model(str(name), f"{key}_base", config) for name in (base if isinstance(base, list) else [base])]
    own = [one for one in bases if one.family == model.family]
    if len(own) != 1:
        told = "none" if not own else "several"
        raise UserError(
            f"{setting_text(f'{key}_base', base)} names {told} of {model.family}, and model={model.name} is one: "
            f"name one model of each family, such as '{key}_base=[N,dit/N-2]'"
        )
    return own[0].width, model.width


def _model(name: str, key: str, config: Config) -> FCDMConfig | DiTConfig:
    model = load_preset(name) if name in preset_names() else sized(name, shape_of(config))
    if not isinstance(model, FCDMConfig | DiTConfig):
        raise UserError(f"{key}={name} is no model of ours: {near(name, preset_names())}")
    return model
