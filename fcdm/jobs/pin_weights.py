"""Weights that a configuration names: found, pinned by their identity, and compared as far as their configurations go.

A file does not say what it was trained as: its tensors are held to the model when they are read, at the job's start.

What the user typed is no identity: `init_from` and `evaluation.guidance_weak` become `<run's id>@<step>` or
`sha256:<of the file>`, and where that was found goes into a runtime key beside it, for the node that reads it.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fcdm.config.ema_profiles import power_length
from fcdm.config.schema import Config, CustomConfig
from fcdm.config.user_code import MODEL, UserCode, code_of, codes_of
from fcdm.errors import UserError
from fcdm.paths import home_expanded
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.find_weights import Weights, find_weights
from fcdm.runs.folder import Run, find_run, frozen_science
from fcdm.runs.identity import INTRODUCED, flatten, run_id, science
from fcdm.runs.kept_source import check_source, with_source
from fcdm.runs.protocol import Part
from fcdm.runs.reader import budgets_asked_of
from fcdm.runs.run_paths import folders_of_runs, run_facts, step_of
from fcdm.runs.tracked_ema import tracked

SAME_MODEL = ("data.channels", "data.classes", "diffusion.learn_sigma")
"""What besides `model` gives weights their shapes. Neither model's weights depend on the resolution."""

SAME_PROBLEM = (
    "data.checksum",
    "data.channels",
    "data.classes",
    "data.normalisation",
    "resolution",
    "diffusion.objective",
    "diffusion.timesteps",
    "diffusion.beta_start",
    "diffusion.beta_end",
)
"""What a weaker model must share to guide another; and OBJECTIVE_OF_OWN."""
OBJECTIVE_OF_OWN = ("diffusion.target", "diffusion.options", "diffusion.source")


def resolved_sources(config: Config, data_here: bool = True) -> Config:
    """The configuration with its sources pinned; itself where it names none. Raises UserError.

    data_here: its data has been seen, so that its checksum tells whether a weaker model had the same.
    """
    if config.init_from is not None:
        weights = _pinned("init_from", config.init_from, config)
        _check_same_model(config, weights)
        # A safetensors file holds one set of weights, whatever it is called: one id.
        which = "ema" if weights.run is None and weights.path.suffix == ".safetensors" else config.init_from_weights
        place = str(weights.path.absolute())
        config = dataclasses.replace(config, init_from=weights.id, init_from_weights=which, init_path=place)
    asked = config.evaluation
    if asked.guidance_weak is not None and asked.guidance_scale != 1.0:
        weights = _pinned("evaluation.guidance_weak", asked.guidance_weak, config)
        _check_same_problem(config, weights, data_here)
        _check_code(weights)
        pinned = dataclasses.replace(
            asked,
            guidance_weak=weights.id,
            guidance_weak_path=str(weights.path.absolute()),
            guidance_weak_snapshots=_snapshots(asked.guidance_weak_weights, weights),
        )
        config = dataclasses.replace(config, evaluation=pinned)
    elif asked.guidance_weak is not None:  # nothing to guide: one protocol
        plain = dataclasses.replace(asked, guidance_weak=None, guidance_weak_weights="ema")
        config = dataclasses.replace(config, evaluation=plain)
    return config


def codes_needed(parts: Sequence[Part]) -> list[UserCode]:
    """The users' code that these parts of one run need: what they name, and models of weaker runs that guide."""
    codes = [code for part in parts for code in codes_of(part.config)]
    for evaluation in (part.config.evaluation for part in parts):
        path = Path(evaluation.guidance_weak_path or "")
        if evaluation.guidance_weak is not None and path.parent.name == "checkpoints":
            codes += _frozen_model(path.parent.parent)
    return codes


def _frozen_model(run: Path) -> list[UserCode]:
    """The user's own model that a run was trained with; none where it is one of ours."""
    frozen = frozen_science(run)["model"]
    return [UserCode(MODEL, frozen["target"], frozen["options"], frozen["source"])] if "target" in frozen else []


def _snapshots(name: str, weights: Weights) -> str | None:
    """Which snapshots make the weak model's average. Raises UserError where they do not."""
    length = power_length(name, "evaluation.guidance_weak_weights")
    if length is None:
        return None
    if weights.run is None or weights.step is None:
        raise UserError(f"evaluation.guidance_weak: {weights.path} is a file: {name} is made of a run's snapshots")
    from fcdm.engine.ema_snapshots import refuse_unmade  # only now torch: few commands ask for this

    kept = tracked(weights.run, weights.step)
    try:
        refuse_unmade(weights.run, kept, weights.step, length)
    except UserError as error:
        raise UserError(f"evaluation.guidance_weak: {error}") from None
    return kept.text if kept else None


def _pinned(key: str, text: str, config: Config) -> Weights:
    """The weights that `text` names, of a step that it says."""
    try:
        weights = find_weights(text, config.runs_dir)
    except UserError as error:
        if key == "init_from" and (known := _known(text, config)):
            return known
        raise UserError(f"{key}: {error}") from None
    if weights.run is not None and not re.search(r"@\d+$", text) and step_of(Path(text).name) is None:
        instead = f"{key}={weights.name}"
        raise UserError(f"{key}={text} says no step, and its newest changes as it is trained: write {instead}")
    if weights.run is not None and weights.step is not None:
        _refuse_passing(key, weights.run, weights.step)
    return weights


def _refuse_passing(key: str, run: Run, step: int) -> None:
    """Raise UserError for a checkpoint that training, which goes on, will remove: of no budget that is asked for."""
    asked = budgets_asked_of(run)
    newest = max(at for at, _ in checkpoints(run.checkpoints))
    if step not in asked and newest < max(asked, default=0):
        raise UserError(
            f"{key}={run.name}@{step}: that run trains on, and removes this checkpoint as it does: name one of its "
            f"budgets ({', '.join(map(str, sorted(asked)))}) once it is there, or ask for steps={step} of it first"
        )


def _known(text: str, config: Config) -> Weights | None:
    """What this very run began from under this name: once it has a checkpoint, the source may be gone.

    A file is known by its path or checksum only, never by its bare name.
    """
    wanted = {text, str(Path(home_expanded(text)).absolute())}
    for folder in folders_of_runs(Path(config.runs_dir)):
        try:
            begun = run_facts(folder).get("init_from") or {}
            source, place = str(begun["source"]), Path(begun["path"])
            names = {source, str(place)}
            if "@" in source:
                names |= {str(begun["name"]), str(place.parent.parent.parent / begun["name"])}
        except (KeyError, TypeError, AttributeError):
            continue
        if not wanted & names:
            continue
        identity = run_id(science(dataclasses.replace(config, init_from=source)))
        run = find_run(folder.parent, identity)
        if run == folder and checkpoints(run / "checkpoints"):
            _tell(f"init_from={text} is not there any more; {run.name}, which began from it, goes on")
            return Weights(source, place)
    return None


@cache
def _tell(text: str) -> None:
    """Once a command."""
    print(f"note: {text}", file=sys.stderr)


def _check_same_model(config: Config, weights: Weights) -> None:
    """Raise UserError where the run's weights have other shapes than this configuration's model."""
    if weights.run is None:
        return  # of a file nothing is known until it is read
    theirs, ours = _flat(frozen_science(weights.run.folder)), _flat(science(config))
    if isinstance(config.model, CustomConfig):  # its options may be anything: the reader compares the tensors, by name
        own = code_of(config, MODEL)
        assert own is not None
        if theirs.get("model.source") not in (None, with_source(own).source):
            note = f"note: init_from={weights.name} was trained with other code of {own.target}"
            print(note, file=sys.stderr)
        return
    keys = [key for key in ours | theirs if key.startswith("model.") and key != "model.name"] + list(SAME_MODEL)
    _refuse_differences(f"init_from={weights.name} is of another model", theirs, ours, keys)


def _check_same_problem(config: Config, weights: Weights, data_here: bool) -> None:
    if weights.run is None:
        return
    theirs, ours = _flat(frozen_science(weights.run.folder)), _flat(science(config))
    keys = [key for key in SAME_PROBLEM if data_here or key != "data.checksum"]
    keys += sorted(key for key in theirs | ours if key.startswith(OBJECTIVE_OF_OWN))
    _refuse_differences(f"evaluation.guidance_weak={weights.name} cannot guide this run", theirs, ours, keys)


def _check_code(weights: Weights) -> None:
    """Raise UserError where the weaker model is a user's own and its code is not what it was trained with."""
    if weights.run:
        check_source(_frozen_model(weights.run.folder), weights.run.folder)


def _flat(science_config: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, with the keys that a later version added."""
    return {**INTRODUCED, **flatten(science_config)}


def _refuse_differences(what: str, theirs: dict[str, Any], ours: dict[str, Any], keys: list[str]) -> None:
    different = [
        f"{key} is {_text(theirs.get(key))} there and {_text(ours.get(key))} here"
        for key in keys
        if theirs.get(key) != ours.get(key)
    ]
    if different:
        raise UserError(f"{what}: {'; '.join(different[:4])}")


def _text(value: Any) -> str:
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)
