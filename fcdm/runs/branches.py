"""Cooldown branches (`cooldown=0.1`): for each budget the end of a trajectory with a rate that falls to 0.

A branch leaves its parent, the run whose rate goes on, at step (1 - cooldown) B, takes the rate linearly to 0 and ends
at step B (arXiv 2405.18392). So one trajectory serves all budgets, and each costs its last share more.

A branch is a run of its own: its science is the parent's and `optimiser.cooldown=[start, B]`. Its id follows from
these before anything is trained, and trained from nothing it would be the same weights, bit for bit. It begins with
the parent's newest checkpoint up to `start`; where that is an earlier one, it does the steps in between itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import Any

from fcdm.config.ema_profiles import power_length
from fcdm.config.schema import NEVER, Config, PowerEMAConfig
from fcdm.errors import UserError
from fcdm.runs.checkpoints import checkpoints, newest_step
from fcdm.runs.folder import Run, check_frozen, find_run
from fcdm.runs.identity import cooldown_of, parent_science, run_id
from fcdm.runs.reader import budgets_asked_of


def branches_of(config: Config, said: Collection[str]) -> list[Config]:
    """The configuration's branches, each by its evaluations, and the part of their parent that they need; itself where
    it asks for none.

    said: the keys that the user gave a value. Where the weights to evaluate are none of them, a branch is evaluated by
    its average and by its raw weights: a cooldown and an average do the same work. Raises UserError.
    """
    if config.cooldown is None:
        return [config]
    cooled, starts = [], []
    for end in config.steps:
        start = _start(config, end)
        optimiser = dataclasses.replace(config.optimiser, cooldown=[start, end], cooldown_share=float(config.cooldown))
        branch = dataclasses.replace(
            config, optimiser=optimiser, steps=[end], cooldown=None, power_ema=PowerEMAConfig(sigma_rel=[])
        )
        for weights in _weights(config, said):
            evaluation = dataclasses.replace(config.evaluation, weights=weights)
            cooled.append(deepcopy(dataclasses.replace(branch, evaluation=evaluation)))
        starts.append(start)
    evaluation = dataclasses.replace(config.evaluation, where=NEVER)
    parent = dataclasses.replace(config, steps=sorted(set(starts)), cooldown=None, evaluation=evaluation)
    return [deepcopy(parent), *cooled]


def one_branch(config: Config, said: Collection[str]) -> list[Config]:
    """As `branches_of`, of a command for one run, which trains no parent. Raises UserError for several budgets."""
    if config.cooldown is None:
        return [config]
    if len(config.steps) > 1:
        budgets = ",".join(map(str, config.steps))
        raise UserError(
            f"cooldown={config.cooldown} of steps=[{budgets}] is {len(config.steps)} runs, each with its own end: say "
            "-m, and they share one trajectory"
        )
    if config.power_ema.sigma_rel:
        raise UserError(
            "power_ema.sigma_rel has no effect on one branch (cooldown): its trajectory tracks averages, "
            "and python -m fcdm.train -m ... trains both"
        )
    return branches_of(config, said)[1:]


def _weights(config: Config, said: Collection[str]) -> list[str]:
    asked = config.evaluation.weights
    both = "evaluation.weights" not in said and asked == "ema" and config.ema.decay != 0
    return [asked, "raw"] if both else [asked]


def _start(config: Config, end: int) -> int:
    """The step at which the branch that ends at `end` leaves: end less the nearest whole number of cooldown x end."""
    share = config.cooldown
    if isinstance(share, bool) or not isinstance(share, int | float) or not share > 0:
        raise UserError(f"cooldown={share} is no share of a run: say cooldown=0.1, or cooldown=0.1,0.2 for both")
    if share >= 1:
        raise UserError(
            f"cooldown={share} is longer than the run: it is a share of each budget, such as cooldown=0.1 for the last "
            "tenth of it"
        )
    if power_length(config.evaluation.weights) is not None:
        raise UserError(
            f"evaluation.weights={config.evaluation.weights} is made of snapshots along a whole run, and a branch "
            "(cooldown) has those of its end alone: say evaluation.weights=ema or raw"
        )
    start = end - round(share * end)
    if not 0 < start < end:
        nothing = "no step to cool down in" if start else "no step before it"
        raise UserError(f"cooldown={share} of steps={end} leaves {nothing}: ask for more steps, or for another share")
    if start < config.optimiser.warmup_steps:
        raise UserError(
            f"cooldown={share} of steps={end} begins at step {start}, before the warm-up is over "
            f"(optimiser.warmup_steps={config.optimiser.warmup_steps}): ask for more steps, or for a shorter one"
        )
    return start


def find_parent(runs_dir: Path, science: dict[str, Any]) -> Run | None:
    """The run that a branch leaves, where it is there. Raises UserError where its frozen config was changed by hand."""
    parent = parent_science(science)
    if parent is None:
        return None
    identity = run_id(parent)
    folder = find_run(runs_dir, identity)
    if folder is None:
        return None
    check_frozen(folder, parent)
    return Run(folder, identity)


def begins_at(runs_dir: Path, science: dict[str, Any]) -> int:
    """The step of its parent's checkpoint that a branch would begin with now; 0: there is none, or it is no branch."""
    parent, cooldown = find_parent(runs_dir, science), cooldown_of(science)
    if parent is None or cooldown is None:
        return 0
    return newest_step(parent.checkpoints, cooldown[0])


def can_begin(branch: Run, science: dict[str, Any], parent: Run) -> bool:
    """Whether the branch has a checkpoint, or its parent has come to where it leaves: no step is done twice."""
    cooldown = cooldown_of(science)
    if cooldown is None or checkpoints(branch.checkpoints):
        return True
    return newest_step(parent.checkpoints) >= cooldown[0]


def late_note(branch: Run, science: dict[str, Any]) -> str | None:
    """A line for a branch that begins before it leaves, since its parent has passed that step and keeps none of it."""
    cooldown, parent = cooldown_of(science), find_parent(branch.folder.parent, science)
    if cooldown is None or parent is None or checkpoints(branch.checkpoints) or not can_begin(branch, science, parent):
        return None
    begins = newest_step(parent.checkpoints, cooldown[0])
    if begins == cooldown[0]:
        return None
    return (
        f"{branch.name} begins at step {begins}, and trains to {cooldown[0]} itself: {parent.name} has passed that, "
        "and keeps no later checkpoint before it"
    )


def refuse_early(run: Run, science: dict[str, Any]) -> None:
    """Raise UserError where the branch has nothing yet and its parent, which a study asks to reach its start, has not.

    It would train what the parent is to train. A parent that nobody asked for so much, or that has passed the start
    without a checkpoint there, is not waited for.
    """
    cooldown, parent = cooldown_of(science), find_parent(run.folder.parent, science)
    if cooldown is None or parent is None or can_begin(run, science, parent):
        return
    if cooldown[0] in budgets_asked_of(parent):
        reached = newest_step(parent.checkpoints)
        raise UserError(
            f"{run.name} branches from {parent.name} at step {cooldown[0]}, and that is trained to {reached}: it comes "
            "first; python -m fcdm.train -m ..., with the same words, does both"
        )
