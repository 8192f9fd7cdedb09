"""`SOURCE key=value ...`: the weights that a command line names, and the configuration that samples or evaluates them.

Of a run, model, data and objective are those of its frozen config.yaml and everything else is the recipe of its data;
of a file, the user says which model it is. Keys and checks are those of `fcdm.train`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from fcdm.config.check import check, config_from, unknown_key
from fcdm.config.conditions import settle
from fcdm.config.ema_profiles import power_length
from fcdm.config.presets import preset_names
from fcdm.config.said import Said
from fcdm.config.schema import Config, EvaluationConfig
from fcdm.config.user_code import FEATURES, OPTIONS
from fcdm.data.dataset import data_checksum
from fcdm.data.store_normalisation import check_decoder, with_channels
from fcdm.errors import UserError
from fcdm.jobs.pin_weights import resolved_sources
from fcdm.paths import home_expanded, place
from fcdm.runs.find_weights import SUFFIXES, Weights
from fcdm.runs.folder import Run, frozen_science
from fcdm.runs.identity import run_id, science
from fcdm.runs.kept_source import with_sources
from fcdm.runs.run_paths import RUN_FILE
from fcdm.runs.tracked_ema import settled
from fcdm.sweep.command_line import readable, text_of
from fcdm.sweep.compose import Composer, refuse_idle
from fcdm.sweep.each_space import said_spaces
from fcdm.sweep.grammar import quoted
from fcdm.sweep.hydra_errors import is_users, one_line
from fcdm.sweep.hydra_schema import register_schema

T = TypeVar("T")

RUNTIME = ("device", "threads", "compile", "runs_dir", "mlflow_uri", "data.path")
"""Keys of `fcdm.train` that mean the same here."""
ON_A_MACHINE = ("device", "threads")
ALL = ("all",)
"""Of `take_apart`: no key but `ON_A_MACHINE` has an effect."""
OF_A_FILE = ("model", "resolution", "objective", "data")
"""What a file does not say of itself; also `model.kernel_size=5` and the like."""
_NOT_HERE = ("where", "resources")
DRAWING = (
    *("evaluation.features", "evaluation.features_options", "evaluation.dinov2", "evaluation.reference"),
    *("evaluation.headline", "evaluation.loss_images", "mlflow_uri"),
)
"""Keys without an effect on samples that are drawn and not evaluated."""


@dataclass
class Words:
    """A command line, taken apart."""

    source: str | None = None
    own: dict[str, str] = field(default_factory=dict)
    """What only this command knows, by name."""
    overrides: list[str] = field(default_factory=list)
    """For the configuration: `evaluation.samples=100`."""
    flags: set[str] = field(default_factory=set)


def take_apart(
    words: list[str], own: tuple[str, ...], flags: tuple[str, ...], what: str, unused: tuple[str, ...] = ()
) -> Words:
    """One source and `key=value`s; evaluation's keys may be said without `evaluation.`. Raises UserError.

    unused: keys of `fcdm.train` that have no effect on what the command makes (`what`: samples), with all below them.
    """
    short = [item.name for item in dataclasses.fields(EvaluationConfig) if item.name not in _NOT_HERE]
    known = {*own, *short, *RUNTIME, *OF_A_FILE}
    found = Words()
    words, searched = own_configs(words)
    found.overrides += searched
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("-") and key in flags and not equals:
            found.flags.add(key)
        elif equals and _names_weights(word):  # a file that is there is one, whatever its name looks like
            found.source = _only(found.source, word)
        elif not re.fullmatch(r"[a-z][\w.]*", key) or not equals:
            if word.startswith("-"):
                raise UserError(f"{word} is not known: say key=value; --help lists the keys")
            found.source = _only(found.source, word)
        elif key in own:
            found.own[key] = value
        elif key in known or key.startswith(("evaluation.", "model.", "diffusion.", "data.", "features_options.")):
            whole = f"evaluation.{key}" if key.partition(".")[0] in short else key
            if _has_no_effect(whole, unused) and word != "mlflow_uri=off":
                raise UserError(f"{key} has no effect on {what}: leave {word} away")
            added = "++" if whole.startswith(OPTIONS) else ""  # an option that no yaml names
            found.overrides.append(f"{added}{whole}={value}")
        elif Path(value).suffix in SUFFIXES:
            raise UserError(f"{word}: there is no such file, nor a key {key}")
        else:
            raise UserError(unknown_key(key, known).replace("python -m fcdm.train --help", "--help"))
    found.overrides = readable(found.overrides)
    return found


def _names_weights(word: str) -> bool:
    """Whether a file of weights, or a run's folder, is called so."""
    path = place(word)
    return (path.suffix in SUFFIXES and path.is_file()) or (path / RUN_FILE).is_file()


def _only(before: str | None, source: str) -> str:
    if before is not None:
        raise UserError(f"{before} and {source}: one source at a time; everything else is key=value")
    return source


def _has_no_effect(key: str, unused: tuple[str, ...]) -> bool:
    if unused == ALL and key not in ON_A_MACHINE:
        return True
    without = (*unused, *(f"evaluation.{name}" for name in _NOT_HERE))
    return any(key == name or key.startswith(f"{name}.") for name in without)


def own_configs(words: list[str]) -> tuple[list[str], list[str]]:
    """The words without `--config-dir DIR`, and what says the same to Hydra. Raises UserError."""
    option = "--config-dir"
    places = [number for number, word in enumerate(words) if word.split("=")[0] in (option, "-cd")]
    if not places:
        return words, []
    at = places[-1]
    if len(places) > 1 or (words[at:] == [words[at]] and "=" not in words[at]):
        raise UserError(f"{option} takes one folder: the one that holds model/ with presets of yours")
    _, equals, inline = words[at].partition("=")
    folder, rest = (inline, words[at + 1 :]) if equals else (words[at + 1], words[at + 2 :])
    if not place(folder).is_dir():
        raise UserError(f"{option} {folder}: there is no such folder")
    return [*words[:at], *rest], [f"hydra.searchpath=[{quoted(f'file://{place(folder).absolute()}')}]"]


def value_of(overrides: list[str], key: str) -> str | None:
    """The last value that the command line gives to `key`; of a path with the home folder in place of `~`."""
    values = [text_of(word) for word in overrides if word.partition("=")[0] == key]
    return home_expanded(values[-1]) if values and values[-1] is not None else None


def spaces_said(overrides: list[str]) -> list[list[str]]:
    """The overrides once for each space of features that they name (`evaluation.features=[a,b]`). Raises UserError."""
    try:
        return said_spaces(overrides)
    except Exception as error:
        raise _told(error) from None


def source_config(weights: Weights, overrides: list[str]) -> Config:
    """The configuration under which these weights are sampled. Raises UserError."""
    return run_config(weights.run, overrides) if weights.run else _file_config(weights, overrides)


def run_config(run: Run, overrides: list[str]) -> Config:
    """A run's frozen science, with the protocol of its data's recipe and of the overrides. Raises UserError."""
    for word in overrides:
        key = word.partition("=")[0]
        if key in OF_A_FILE or (key.startswith(("model.", "diffusion.", "data.")) and key not in RUNTIME):
            raise UserError(f"{key}: {run.name} is a run, which says that itself: leave {word} away")
    frozen = frozen_science(run.folder)
    if frozen["data"]["name"] == "digits":
        frozen["data"]["path"] = None  # earlier versions took one, and trained on the digits

    def made(composer: Composer, choice: list[str]) -> tuple[DictConfig, Said]:
        words = [*_choices(frozen, composer), *choice]
        return composer.composed(words), composer.said(words)

    composed, said = _composing(overrides, made)
    with open_dict(composed):  # what other values are made of, such as evaluation.decoder
        for key in ("data", "resolution"):
            OmegaConf.update(composed, key, frozen[key], merge=True)
    path = value_of(overrides, "data.path")
    try:
        values = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(values, dict)
        plain: dict[str, Any] = {str(key): value for key, value in values.items() if key != "hydra"} | frozen
        config = settle(config_from(plain), said)
    except Exception as error:
        raise _told(error) from None
    if run_id(science(config)) != run.id:
        raise UserError(f"{run.folder / 'config.yaml'} was changed by hand: it is not the run {run.id[:8]} any more")
    if path is not None:
        config.data.path = path
    check(config)
    refuse_idle(config, said)
    check_decoder(config)
    return _with_weak(_with_snapshots(with_sources(config, (FEATURES,)), run))


def _choices(frozen: dict[str, Any], composer: Composer) -> list[str]:
    """The presets that a run's frozen science is meant by: its model's, its objective's, its data's recipe."""
    data, name = frozen["data"], frozen["model"]["name"]
    model = [f"model={name}"] if name in preset_names() else []
    if data["name"] == "digits":
        recipe = ["data=digits"]
    elif data["downsample"] == 1:
        means_digits = not model or (composer.said(model).presets or {}).get("data.path") is None
        of_store = "pixels" if means_digits else "pixels_paper"
        recipe = ["data=pixels", f"recipe={of_store if data.get('target') is None else 'pixels_own'}"]
    else:
        recipe = ["data=imagenet"]
    return [*model, *recipe, f"objective={frozen['diffusion'].get('objective', 'ddpm')}"]


def _file_config(weights: Weights, overrides: list[str]) -> Config:
    for key in ("model", "resolution"):
        if value_of(overrides, key) is None:
            known = f": {', '.join(preset_names())}" if key == "model" else " in pixels: resolution=256"
            raise UserError(f"{weights.path} does not say which model it is: say {key}=...{known}")
    # A public file knows nothing of a store that happens to be where ours would be.
    config = _composing(overrides, lambda composer, words: composer.config(words, own_store=False))
    config = with_sources(config)
    if power_length(config.evaluation.weights) is not None:
        raise UserError(f"{weights.path} is a file: {config.evaluation.weights} is made of a run's snapshots")
    config.data = with_channels(config.data)
    check_decoder(config)
    if config.data.path is None:  # bundled: part of the protocol, as the reference
        config.data.checksum = data_checksum(config.data, config.resolution)
    return _with_weak(config)


def _with_snapshots(config: Config, run: Run) -> Config:
    """Which snapshots make the average that is asked for. Raises UserError where the run has none."""
    asked = config.evaluation
    if power_length(asked.weights) is None:
        return config
    kept = settled(config.power_ema, run)
    if kept is None:
        raise UserError(f"{run.name} has tracked no power function averages: {asked.weights} is made of its snapshots")
    return dataclasses.replace(config, evaluation=dataclasses.replace(asked, weights_snapshots=kept.text))


def _with_weak(config: Config) -> Config:
    """`evaluation.guidance_weak` pinned, as at a training's submission. Raises UserError."""
    asked = dataclasses.replace(config, init_from=None)  # what the weights began as is of no matter here
    pinned = resolved_sources(asked, data_here=config.data.checksum is not None)
    return dataclasses.replace(config, evaluation=pinned.evaluation)


def _composing(overrides: list[str], made: Callable[[Composer, list[str]], T]) -> T:
    """What `made` makes of the words that are not Hydra's own. Raises UserError."""
    register_schema()
    GlobalHydra.instance().clear()
    hydra_overrides = [word for word in overrides if word.startswith("hydra.")]
    choice = [word for word in overrides if not word.startswith("hydra.")]
    try:
        with initialize_config_module("fcdm.conf", version_base="1.3"):
            return made(Composer.here(hydra_overrides), choice)
    except Exception as error:
        raise _told(error) from None


def _told(error: Exception) -> Exception:
    return UserError(one_line(error)) if is_users(error) else error
