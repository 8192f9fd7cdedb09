"""Power function averages in training, their snapshots on disk, and averages of other lengths made of those.

    ema/step-00000400/          as a checkpoint's folder: checksums, renamed into place whole
        0.05.safetensors   0.1.safetensors     one average of the weights for each length sigma_rel

Snapshots are never pruned. What training tracks is part of its checkpoints, so a resume is bit for bit here too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fcdm.config.averages import length_text
from fcdm.config.schema import PowerEMAConfig
from fcdm.engine.checkpoint import Groups, load_checkpoint, remove_leftovers, save_checkpoint
from fcdm.engine.power_ema import (
    Profile,
    gamma_from_sigma_rel,
    last_update,
    reconstruct,
    solve_weights,
    update_power_ema,
)
from fcdm.errors import UserError
from fcdm.runs.atomic import describe_oserror
from fcdm.runs.checkpoints import CannotJudge, checkpoints, group_names
from fcdm.runs.folder import Run

LARGEST_ERROR = 0.05
"""Of a profile, as a share of itself: what is further off is refused."""

_GROUP = "power-"


@dataclass(frozen=True)
class Synthesised:
    """An average made of snapshots."""

    weights: dict[str, Tensor]
    error: float
    """What is left of its profile, as a share of it (`fcdm.engine.power_ema.Synthesis`)."""
    snapshots: int


class PowerAverages:
    """The averages that a run tracks, by length."""

    def __init__(self, lengths: list[float], model: nn.Module) -> None:
        self._of: dict[str, nn.Module] = {
            length_text(length): copy.deepcopy(model).eval().requires_grad_(False) for length in sorted(lengths)
        }

    def update(self, weights: list[nn.Parameter], step: int) -> None:
        """Take in the weights after training step `step` (counted from 1); not after each (`last_update`)."""
        if last_update(step) == step:
            for length, average in self._of.items():
                gamma, since = gamma_from_sigma_rel(float(length)), step - last_update(step - 1)
                update_power_ema(list(average.parameters()), weights, step, gamma, since)  # type: ignore[arg-type]

    def due(self, step: int, every: int | None) -> bool:
        """Whether a snapshot is wanted of this step, whatever budgets there are."""
        return bool(self._of) and every is not None and step % every == 0

    def save(self, folder: Path, model: nn.Module, step: int) -> None:
        """Write the snapshot of `step`, brought up to it where the last update is earlier. Raises UserError."""
        if not self._of:
            return
        groups = {length: average.state_dict() for length, average in self._of.items()}
        since = step - last_update(step)
        if since:  # on copies: what is tracked must not depend on where snapshots are taken
            for length, average in groups.items():
                groups[length] = {name: tensor.detach().cpu().clone() for name, tensor in average.items()}
                current = [parameter.detach().cpu() for parameter in model.parameters()]
                averages = [groups[length][name] for name, _ in model.named_parameters()]
                update_power_ema(averages, current, step, gamma_from_sigma_rel(float(length)), since)
        save_checkpoint(folder, step, groups, {})
        try:
            remove_leftovers(folder)
        except OSError as error:
            raise describe_oserror(error, folder, "removing what a killed process left") from error

    def groups(self) -> Groups:
        """For a checkpoint: what is tracked, as of the last update."""
        return {f"{_GROUP}{length}": dict(average.state_dict()) for length, average in self._of.items()}

    @classmethod
    def restored(
        cls, asked: PowerEMAConfig, step: int, tensors: Mapping[str, dict[str, Tensor]], model: nn.Module
    ) -> PowerAverages:
        """What the checkpoint of `step` tracks. Raises UserError where other lengths are asked for."""
        tracked = sorted(float(group.removeprefix(_GROUP)) for group in tensors if group.startswith(_GROUP))
        if asked.sigma_rel == []:
            return cls([], model)
        wanted = tracked if asked.sigma_rel is None else sorted(asked.sigma_rel)
        if wanted != tracked:
            raise UserError(
                f"power_ema.sigma_rel={_list(wanted)}: an average must be there from the first step, and this run has "
                f"{'tracked ' + _list(tracked) if tracked else 'tracked none'} in its {step} steps: leave "
                "power_ema.sigma_rel out, or train another run (another seed=)"
            )
        averages = cls(tracked, model)
        for length, average in averages._of.items():
            average.load_state_dict(tensors[f"{_GROUP}{length}"])
        return averages


def synthesised(folder: Path, step: int, sigma_rel: float) -> Synthesised:
    """The average of length `sigma_rel` at `step`, of the run's snapshots up to that step.

    Snapshots are read one after the other. Raises CannotJudge where they are missing, too few or broken.
    """
    kept = [(at, path) for at, path in checkpoints(folder) if at <= step]
    asked = _asked(sigma_rel, step)
    if not kept or kept[-1][0] != step:
        there = ", ".join(str(at) for at, _ in kept[-4:]) or "none"
        raise CannotJudge(f"{asked} needs a snapshot of that step in {folder} (up to it there are: {there}). {_BEGIN}")
    files = [(at, length, path) for at, path in kept for length in group_names(path)]
    weights, error = _fit(step, sigma_rel, [(at, float(length)) for at, length, _ in files])
    if error > LARGEST_ERROR:
        raise CannotJudge(_too_far(step, sigma_rel, error, len(kept)))
    return Synthesised(reconstruct(_read(files), weights), error, len(kept))


def refuse_unreachable(
    run: Run | None, asked: PowerEMAConfig, stops: list[int], targets: list[int], sigma_rel: float
) -> None:
    """Raise UserError for a target that is still to be trained and whose average could not be made then.

    `stops`: all budgets of the run, where snapshots will be kept too.
    """
    there = checkpoints(run.snapshots) if run else []
    trained = max((step for step, _ in checkpoints(run.checkpoints)), default=0) if run else 0
    lengths = asked.sigma_rel
    if lengths is None:  # as the run does
        lengths = [float(length) for length in group_names(there[-1][1])] if there else []
    for target in targets:
        if target <= trained:
            continue
        if not lengths:
            raise UserError(f"{_asked(sigma_rel, target)} is made of snapshots, and there will be none. {_BEGIN}")
        kept = {step for step, _ in there} | {step for step in stops if step > trained}
        if asked.every:
            kept |= set(range((trained // asked.every + 1) * asked.every, target + 1, asked.every))
        kept = {step for step in kept if step <= target}
        _, error = _fit(target, sigma_rel, [(step, length) for step in sorted(kept) for length in lengths])
        if error > LARGEST_ERROR:
            raise UserError(_too_far(target, sigma_rel, error, len(kept)))


_BEGIN = (
    "Snapshots are kept of budgets and every power_ema.every steps, by runs that are begun with "
    "power_ema.sigma_rel=[0.05,0.10]"
)


def _asked(sigma_rel: float, step: int) -> str:
    return f"evaluation.weights=power:{length_text(sigma_rel)} at step {step}"


def _too_far(step: int, sigma_rel: float, error: float, count: int) -> str:
    return (
        f"{_asked(sigma_rel, step)} cannot be made of {count} snapshots: {100 * error:.1f} % of its profile would be "
        f"missed, and {100 * LARGEST_ERROR:g} % is the most. A length nearer to power_ema.sigma_rel, or more snapshots "
        "up to that step (a smaller power_ema.every from the start), makes it less"
    )


def _fit(step: int, sigma_rel: float, snapshots: list[tuple[int, float]]) -> tuple[list[float], float]:
    """Weights of the snapshots, given as (step, length), and what is left of the profile as a share of it."""
    profiles = [Profile(at, gamma_from_sigma_rel(length)) for at, length in snapshots]
    fit = solve_weights([Profile(step, gamma_from_sigma_rel(sigma_rel))], profiles)
    return list(fit.weights[0]), float(fit.errors[0])


def _read(files: list[tuple[int, str, Path]]) -> Iterator[dict[str, Tensor]]:
    for _, length, path in files:
        yield load_checkpoint(path, [length])[0][length]


def _list(lengths: list[float]) -> str:
    return f"[{','.join(length_text(length) for length in lengths)}]"
