"""What a sweep asks of power function averages: agreed on by all parts of a run, and within reach, before it starts."""

from __future__ import annotations

import dataclasses

from fcdm.config.ema_profiles import length_text, power_length
from fcdm.config.schema import Config, PowerEMAConfig
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.runs.folder import Run
from fcdm.runs.run_cost import average_bytes
from fcdm.runs.tracked_ema import settled


def agreed_averages(parts: list[Config]) -> list[Config]:
    """One run tracks one set of lengths, from its first step: parts that say none take what another says.

    Raises UserError where two say different things.
    """
    said = {tuple(sorted(part.power_ema.sigma_rel)) for part in parts if part.power_ema.sigma_rel is not None}
    if len(said) > 1:
        lists = " and ".join(f"[{','.join(map(length_text, lengths))}]" for lengths in sorted(said))
        raise UserError(f"power_ema.sigma_rel cannot be swept: {lists} are asked of one run, which tracks one of them")
    every = {part.power_ema.every for part in parts if part.power_ema.every is not None}
    if len(every) > 1:
        numbers = " and ".join(map(str, sorted(every)))
        raise UserError(f"power_ema.every cannot be swept: {numbers} are asked of one run")
    agreed = PowerEMAConfig(list(min(said)) if said else None, min(every, default=None))
    return [dataclasses.replace(part, power_ema=agreed) for part in parts]


def with_snapshots(part: Config, run: Run) -> Config:
    """The part, saying which snapshots make the average where it is evaluated by `evaluation.weights=power:...`.

    They are part of its protocol. Raises UserError for a budget, still to be trained, that could not be evaluated then,
    and for a distance between snapshots where there are none.
    """
    if part.power_ema.every is not None and settled(part.power_ema, run) is None:
        raise UserError(
            f"power_ema.every={part.power_ema.every} has no effect: the run tracks no averages: say "
            "power_ema.sigma_rel=[0.05,0.10] from its first step, or leave it away"
        )
    length = power_length(part.evaluation.weights)
    if length is None:
        return part
    # Only now torch: few commands ask for this.
    from fcdm.engine.ema_snapshots import refuse_unreachable

    kept = settled(part.power_ema, run)
    refuse_unreachable(run, kept, part.steps, length)
    evaluation = dataclasses.replace(part.evaluation, weights_snapshots=kept.text if kept else None)
    return dataclasses.replace(part, evaluation=evaluation)


def snapshot_bytes(job: Job) -> int:
    """What the run's snapshots will take on disk to its last budget; its checkpoints are not in it."""
    asked = job.config.power_ema
    stops = set(job.budgets)
    if asked.every:
        stops |= set(range(asked.every, job.budgets[-1] + 1, asked.every))
    return average_bytes(job.config) * len(stops)
