"""Power function averages in training, their snapshots on disk, and averages of other lengths made of those.

    ema/step-00000400/          as a checkpoint's folder: checksums, renamed into place whole
        0.05.safetensors   0.1.safetensors     one average of the weights for each length sigma_rel

Snapshots are never pruned. What training tracks is part of its checkpoints, so a resume is bit for bit here too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fcdm.atomic import file_errors
from fcdm.config.ema_profiles import Kept, length_text
from fcdm.config.schema import PowerEMAConfig
from fcdm.engine.checkpoint import load_checkpoint, mapped_group, remove_leftovers, save_checkpoint
from fcdm.engine.host_copy import Groups, HostCopy
from fcdm.engine.post_hoc_ema import (
    Profile,
    gamma_from_sigma_rel,
    last_update,
    reconstruct,
    solve_weights,
    update_power_ema,
)
from fcdm.errors import UserError
from fcdm.runs.checkpoints import CannotEvaluate, checkpoints, group_names, newest_step
from fcdm.runs.folder import Run
from fcdm.runs.run_paths import step_of
from fcdm.runs.tracked_ema import EVERY, GROUP

LARGEST_ERROR = 0.05
"""Of a profile, as a share of itself: what is further off is refused."""

_MODEL = "model"
"""The group of the weights themselves, beside lengths."""


@dataclass(frozen=True)
class Synthesised:
    """An average made of snapshots."""

    weights: dict[str, Tensor]
    error: float
    """What is left of its profile, as a share of it (`fcdm.engine.post_hoc_ema.Synthesis`)."""
    snapshots: int


class PowerAverages:
    """The averages that a run tracks, by length, and how often they are kept."""

    def __init__(self, lengths: Iterable[float], model: nn.Module, every: int | None = None) -> None:
        self.every = every
        self._of: dict[str, nn.Module] = {
            length_text(length): copy.deepcopy(model).eval().requires_grad_(False) for length in sorted(lengths)
        }

    def update(self, weights: list[nn.Parameter], step: int) -> None:
        """Take in the weights after training step `step` (counted from 1); not after each (`last_update`)."""
        if last_update(step) == step:
            for length, average in self._of.items():
                gamma, since = gamma_from_sigma_rel(float(length)), step - last_update(step - 1)
                update_power_ema(list(average.parameters()), weights, step, gamma, since)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._of)

    def due(self, step: int) -> bool:
        """Whether a snapshot is wanted of this step, whatever budgets there are."""
        return bool(self._of) and self.every is not None and step % self.every == 0

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights, and what else of the model is saved with them, instead of what was drawn."""
        for average in self._of.values():
            average.load_state_dict(dict(weights))

    def snapshot(self, model: nn.Module, step: int, host: HostCopy) -> Callable[[Path, Callable[[], None]], None]:
        """Copy what the snapshot of `step` is made of. Call what is returned once: it writes that into a folder.

        It calls its second argument, and raises, as `save_checkpoint` does; `host` must not be used before it is done.
        """
        since = step - last_update(step)
        groups: Groups = {length: dict(average.state_dict()) for length, average in self._of.items()}
        copies = host.of(groups | ({_MODEL: dict(model.state_dict())} if since else {}))
        weights = copies.pop(_MODEL, {})
        trained = [name for name, _ in model.named_parameters()]  # of tied weights the first name: copies are tied too

        def write(folder: Path, go_on: Callable[[], None]) -> None:
            host.wait()
            if since:  # on copies: what is tracked must not depend on where snapshots are taken
                current = [weights[name] for name in trained]
                for length, average in copies.items():
                    gamma = gamma_from_sigma_rel(float(length))
                    update_power_ema([average[name] for name in trained], current, step, gamma, since)
            save_checkpoint(folder, step, copies, {}, go_on)
            with file_errors(folder, "removing what a killed process left"):
                remove_leftovers(folder)

        return write

    def groups(self) -> Groups:
        """For a checkpoint: what is tracked, as of the last update."""
        return {f"{GROUP}{length}": dict(average.state_dict()) for length, average in self._of.items()}

    @classmethod
    def restored(
        cls,
        asked: PowerEMAConfig,
        path: Path,
        extra: Mapping[str, Any],
        model: nn.Module,
    ) -> PowerAverages:
        """What the checkpoint `path` tracks. Raises UserError where other lengths are asked for."""
        groups = group_names(path)
        tracked = sorted(float(group.removeprefix(GROUP)) for group in groups if group.startswith(GROUP))
        if asked.sigma_rel == []:
            return cls([], model)
        wanted = tracked if asked.sigma_rel is None else sorted(asked.sigma_rel)
        if wanted != tracked:
            raise UserError(
                f"power_ema.sigma_rel={_list(wanted)}: an average must be there from the first step, and this run has "
                f"{'tracked ' + _list(tracked) if tracked else 'tracked none'} in its {step_of(path.name)} steps: "
                "leave power_ema.sigma_rel out, or train another run (another seed=)"
            )
        averages = cls(tracked, model, extra.get(EVERY) if asked.every is None else asked.every)
        for length, average in averages._of.items():
            average.load_state_dict(mapped_group(path, f"{GROUP}{length}"))
        return averages


def synthesised(folder: Path, step: int, sigma_rel: float, kept: Kept) -> Synthesised:
    """The average of length `sigma_rel` at `step`, of those of the run's snapshots in `folder` that `kept` names.

    Snapshots are read one after the other. Raises CannotEvaluate where they are missing, too few or broken.
    """
    there, weights, error = _made_of(folder, step, sigma_rel, kept)
    files = [(length_text(length), there[at]) for at in kept.steps(step) for length in kept.lengths]
    return Synthesised(reconstruct(_read(files), weights), error, len(kept.steps(step)))


def refuse_unmade(run: Run, kept: Kept | None, step: int, sigma_rel: float) -> None:
    """Raise UserError where the average at `step` of a run that is trained to it cannot be made."""
    if kept is None:
        raise UserError(f"{run.name} has tracked no power function averages: {_BEGIN}")
    _made_of(run.snapshots, step, sigma_rel, kept)


def refuse_unreachable(run: Run | None, kept: Kept | None, targets: list[int], sigma_rel: float) -> None:
    """Raise UserError for a target whose average cannot be made, or could not when it will be trained.

    `kept`: what the run's snapshots are; None: it has none. Targets that are trained are left to the evaluation.
    """
    there = {step for step, _ in checkpoints(run.snapshots)} if run else set()
    trained = newest_step(run.checkpoints) if run else 0
    for target in targets:
        if target <= trained:
            continue
        if kept is None:
            raise UserError(f"{_asked(sigma_rel, target)} is made of snapshots, and there will be none. {_BEGIN}")
        if run and (missing := [at for at in kept.steps(target) if at <= trained and at not in there]):
            raise UserError(_missing(target, sigma_rel, missing, run.snapshots))
        _, error = _fit(target, sigma_rel, kept)
        if error > LARGEST_ERROR:
            raise UserError(_too_far(target, sigma_rel, error, len(kept.steps(target))))


def _made_of(folder: Path, step: int, sigma_rel: float, kept: Kept) -> tuple[dict[int, Path], list[float], float]:
    """The folder's snapshots, what each of those that `kept` names weighs, what is missed. Raises CannotEvaluate."""
    there = dict(checkpoints(folder))
    if missing := [at for at in kept.steps(step) if at not in there]:
        raise CannotEvaluate(_missing(step, sigma_rel, missing, folder))
    weights, error = _fit(step, sigma_rel, kept)
    if error > LARGEST_ERROR:
        raise CannotEvaluate(_too_far(step, sigma_rel, error, len(kept.steps(step))))
    return there, weights, error


_BEGIN = (
    "Snapshots are kept of budgets and every power_ema.every steps, by runs that are begun with "
    "power_ema.sigma_rel=[0.05,0.10]"
)


def _asked(sigma_rel: float, step: int) -> str:
    return f"power:{length_text(sigma_rel)} at step {step}"


def _missing(step: int, sigma_rel: float, missing: list[int], folder: Path) -> str:
    some = ", ".join(map(str, missing[:4])) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    return (
        f"{_asked(sigma_rel, step)} needs snapshots that are not in {folder}: of step {some}. {_BEGIN}; "
        "power_ema.every= says which of them to take where a run had more than one"
    )


def _too_far(step: int, sigma_rel: float, error: float, count: int) -> str:
    return (
        f"{_asked(sigma_rel, step)} cannot be made of {count} snapshots: {100 * error:.1f} % of its profile would be "
        f"missed, and {100 * LARGEST_ERROR:g} % is the most. A length nearer to power_ema.sigma_rel, or more snapshots "
        "up to that step (a smaller power_ema.every from the start), makes it less"
    )


def _fit(step: int, sigma_rel: float, kept: Kept) -> tuple[list[float], float]:
    """Weights of the snapshots, by step and then by length, and what is left of the profile as a share of it."""
    gammas = [gamma_from_sigma_rel(length) for length in kept.lengths]
    profiles = [Profile(at, gamma) for at in kept.steps(step) for gamma in gammas]
    fit = solve_weights([Profile(step, gamma_from_sigma_rel(sigma_rel))], profiles)
    return list(fit.weights[0]), float(fit.errors[0])


def _read(files: list[tuple[str, Path]]) -> Iterator[dict[str, Tensor]]:
    for length, path in files:
        if length not in (there := group_names(path)):
            raise CannotEvaluate(f"{path} has no average of length {length}, only {', '.join(there)}")
        yield load_checkpoint(path, [length])[0][length]


def _list(lengths: list[float]) -> str:
    return f"[{','.join(length_text(length) for length in lengths)}]"
