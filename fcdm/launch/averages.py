"""What a sweep asks of power function averages: agreed on by all parts of a run, and within reach, before it starts."""

from __future__ import annotations

from pathlib import Path

from fcdm.config.averages import length_text, power_length
from fcdm.config.check import budgets
from fcdm.config.schema import Config
from fcdm.cost import FLOAT_BYTES
from fcdm.errors import UserError
from fcdm.runs.costs import run_cost
from fcdm.runs.folder import Run, find_run


def agree_on_averages(parts: list[Config]) -> None:
    """One run tracks one set of lengths, from its first step: parts that say none take what another says.

    Raises UserError where two say different things.
    """
    said = [part.power_ema for part in parts if part.power_ema.sigma_rel is not None]
    different = {tuple(sorted(asked.sigma_rel or [])) for asked in said}
    if len(different) > 1:
        lists = " and ".join(f"[{','.join(map(length_text, lengths))}]" for lengths in sorted(different))
        raise UserError(f"power_ema.sigma_rel cannot be swept: {lists} are asked of one run, which tracks one of them")
    for part in parts if said else []:
        part.power_ema = said[0]


def refuse_unreachable(parts: list[Config], identity: str) -> None:
    """Raise UserError for a budget, still to be trained, that `evaluation.weights=power:...` could not judge then."""
    stops = sorted({step for part in parts for step in budgets(part.steps)})
    for part in parts:
        length = power_length(part.evaluation.weights)
        if length is None:
            continue
        # Only now torch: few commands ask for this.
        from fcdm.engine.snapshots import refuse_unreachable as refuse

        found = find_run(Path(part.runs_dir), identity)
        run = Run(found, identity) if found else None
        refuse(run, part.power_ema, stops, budgets(part.steps), length)


def snapshot_bytes(parts: list[Config]) -> int:
    """What the run's snapshots will take on disk to its last budget; its checkpoints are not in it."""
    asked = parts[0].power_ema
    stops = {step for part in parts for step in budgets(part.steps)}
    if asked.every:
        stops |= set(range(asked.every, max(stops) + 1, asked.every))
    return FLOAT_BYTES * run_cost(parts[0]).parameters * len(asked.sigma_rel or []) * len(stops)
