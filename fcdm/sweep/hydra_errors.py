"""Hydra's and OmegaConf's errors in one line each, in the words of what the user typed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Set

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from fcdm.config.check import first_line, known_keys, near, unknown_key
from fcdm.config.keys import families_with
from fcdm.config.user_code import OPTIONS
from fcdm.cost.ladder import FORMS
from fcdm.errors import UserError
from fcdm.redact import redacted
from fcdm.sweep.expand import BUDGETS
from fcdm.sweep.ladder_source import size_of_option

FREE = ("hydra.launcher.additional_parameters.", *OPTIONS)


def is_users(error: BaseException) -> bool:
    """Whether this is a mistake in what the user asked for, and no fault of the program."""
    if isinstance(error, ValueError) and str(error).startswith("Only one of --run"):  # `--cfg job -m` (1.3.8)
        return True
    return isinstance(error, UserError | HydraException | OmegaConfBaseException | MarkedYAMLError)


def one_line(error: BaseException) -> str:
    """What is wrong, where, and what to write instead; without secrets."""
    return redacted(_one_line(error))


def _one_line(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error)
    if isinstance(error, MarkedYAMLError):
        return _yaml(error)
    text = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    if found := re.search(r"In '(sweeps/[^']+)': ConfigKeyError.*Key 'sweeps' not in 'Config'", text):
        return f"{found[1]}.yaml: its first line must be `# @package _global_`, or its keys are none of ours"
    if found := re.search(
        r"In '(sweeps/[^']+)': ValidationError.*: str is not a subclass of (\w+)\. value: (\S+)", text
    ):
        group = found[2].removesuffix("Config").lower()
        return (
            f"{found[1]}.yaml says {group}: {found[3]} beside its grids: a group is chosen in one of them, or as "
            f"{group}={found[3]}"
        )
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: it is no key=value, or what it says is no value"
    if found := re.search(r"(?:Could not override|Error merging override) '?\+*([^'=]+)", text):
        if "not in struct" in str(error) or "Could not override" in text:
            for free in FREE:
                if found[1].startswith(free):
                    return f"a new entry needs a +: say '+{free}NAME=VALUE', once for each"
            return _not_in(found[1], known_keys() | _launcher_keys())
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            return first_line(cause)
    if isinstance(error, OmegaConfBaseException):
        return first_line(error)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\.", text):
        budgets = f"; or, budgets of one run, '{found[1]}=[{found[2]}]'" if found[1] in BUDGETS else ""
        return f"{found[1]}={found[2]} is a sweep: add -m (python -m fcdm.train -m ...){budgets}"
    if not is_users(error):
        return f"{type(error).__name__}: {text}"
    return text


def _not_in(key: str, known: Set[str]) -> str:
    """Of a key that this configuration has not: because nothing has it, or because it is of another family's models."""
    if families := families_with({key}):
        return (
            f"{key} is an option of model.family={' or '.join(families)} alone, and this model has none: leave it away"
        )
    return unknown_key(key, known)


def _yaml(error: MarkedYAMLError) -> str:
    """The file, the line and what is wrong there."""
    mark = error.problem_mark or error.context_mark
    place = f"{mark.name}, line {mark.line + 1}: " if mark else ""
    return f"{place}{' '.join((error.problem or 'this is no YAML').split())}"


def _launcher_keys() -> set[str]:
    from fcdm.slurm.options import SlurmOptions
    from fcdm.sweep.hydra_schema import LocalConfig

    fields = [field.name for node in (LocalConfig, SlurmOptions) for field in dataclasses.fields(node)]
    return {f"hydra.launcher.{name}" for name in fields if not name.startswith("_")}


def _size_meant(choice: str) -> str | None:
    """`fcdm/64M` of `fcdm/64m`: units have their letters as they are."""
    family, _, size = choice.rpartition("/")
    spellings = (size.upper(), size.lower(), size.upper().replace("MACS", "MACs"))
    return next((f"{family}/{text}" for text in spellings if size_of_option(f"model/{family}/{text}")), None)


def _missing(error: MissingConfigException) -> str:
    """`model=Q is not known: did you mean ...`"""
    path = str(error.missing_cfg_file)
    if path.startswith("hydra/"):
        group, _, choice = path.rpartition("/")
    else:
        group, _, choice = path.partition("/")
    if not choice:
        return f"there is no configuration {path}"
    options = sorted({*_options(group), *(error.options or [])})  # of other folders (--config-dir) too
    if group == "model" and (spelt := _size_meant(choice)):
        return f"{group}={choice} is not known: did you mean {spelt}?"
    sizes = f", or a size of a ladder: fcdm/{FORMS}" if group == "model" else ""
    return f"{group}={choice} is not known: {near(choice, options, shown=40)}{sizes}"


def _options(group: str) -> list[str]:
    """All choices of a group of ours, nested ones as they are typed (`dit/S-2`)."""
    from pathlib import Path

    import fcdm

    root = Path(fcdm.__file__).parent / "conf" / group
    return [str(path.relative_to(root).with_suffix("")) for path in sorted(root.rglob("*.yaml"))]
