"""`flops=[1e15,3e15]`: budgets in FLOPs of training, for models of any size, as the steps that spend them.

The rule: steps = FLOPs / (batch size x FLOPs of training on one image), to the nearest whole number, of two equally
near ones the even one. FLOPs of training are 3 x 2 x the MACs of a forward pass (`fcdm.cost.model_cost`). So a run has
steps and nothing else, and with the same steps typed by hand it is the same run.
"""

from __future__ import annotations

import math
from typing import Any

from fcdm.config.check import check_model_fits, check_values
from fcdm.config.said import Said
from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.formatting import flops_text
from fcdm.runs.run_cost import run_cost

MOST_OFF = 0.01
"""How far from the FLOPs that are asked for whole steps may be without a word: 50 steps and more never are."""


def settle_budgets(config: Config, said: Said) -> list[str]:
    """Gives the configuration the steps that its `flops` ask for, in place; notes on those that whole steps miss.

    Raises UserError where steps are said too, and for what is no number of FLOPs, or less than half a step.
    """
    if config.flops is None:
        return []
    if "steps" in said.keys:
        raise UserError(
            f"flops={_said(config.flops)} and steps={_said(config.steps)} both say how long {config.model.name} is "
            "trained: leave one of them away"
        )
    check_values(config)
    check_model_fits(config)
    step = run_cost(config).train_flops_per_step(config.batch_size)
    found = {budget: _steps(budget, step, config) for budget in _numbers(config.flops)}
    config.steps, config.flops = sorted(set(found.values())), None
    return [_off_text(budget, steps, step, config) for budget, steps in found.items() if _off(budget, steps, step)]


def _numbers(flops: Any) -> list[float]:
    """What was typed, a number or a list, as numbers. Raises UserError."""
    values = list(flops) if isinstance(flops, list | tuple) else [flops]
    if not values:
        raise UserError("flops=[] asks for nothing: say flops=1e15 or 'flops=[1e15,3e15]'")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(
                f"flops={value} is no number of FLOPs above 0: say flops=1e15 (FLOPs of training, 3 x 2 x MACs of a "
                "forward pass for each image) or 'flops=[1e15,3e15]'"
            )
    return sorted({float(value) for value in values})


def _steps(budget: float, step: int, config: Config) -> int:
    steps = round(budget / step)
    if steps < 1:
        raise UserError(
            f"flops={budget:g} is less than half a step of {config.model.name}, which takes {step:.4g} FLOPs at "
            f"batch_size={config.batch_size}: ask for more, or for a smaller batch or model"
        )
    return steps


def _off(budget: float, steps: int, step: int) -> bool:
    return abs(steps * step / budget - 1) > MOST_OFF


def _off_text(budget: float, steps: int, step: int, config: Config) -> str:
    return (
        f"flops={budget:g} of {config.model.name}: {steps:,} steps are the nearest, {flops_text(steps * step)}FLOPs "
        f"({steps * step / budget - 1:+.1%}), since one is {flops_text(step)}FLOPs"
    )


def _said(value: Any) -> str:
    return f"[{','.join(f'{item:g}' for item in value)}]" if isinstance(value, list) else str(value)
