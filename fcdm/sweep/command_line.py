"""A command line as people type it, made into what Hydra's grammar reads as that.

Hydra has a grammar for values in which `~`, `=`, brackets and letters beyond ASCII are errors and 1e3 is a number. What
only a text can mean is put into quotes here, before Hydra sees it, for every command: of a key whose field is a text
the value is that text. `,` still separates the values of a sweep, unless a path with a comma is there.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from fcdm import credentials
from fcdm.config.check import known_keys, unknown_key
from fcdm.config.keys import Key, config_keys, keys_of
from fcdm.config.user_code import OPTIONS
from fcdm.errors import UserError
from fcdm.paths import home_expanded, place
from fcdm.runs.processes import is_first_process
from fcdm.sweep.grammar import parse, quoted, reads_otherwise

FOLDERS = ("--config-dir", "-cd")
"""Hydra's own options that take a folder."""
_OVERRIDE = re.compile(r"(?P<plus>\+{0,2})(?P<key>[A-Za-z_][\w./@:-]*)=(?P<value>.*)", re.DOTALL)
_FREE = re.compile("|".join(map(re.escape, (*OPTIONS, "hydra.", "grids"))))
_LAUNCHER = "hydra.launcher."


def readable(words: Sequence[str]) -> list[str]:
    """The words of a command line as Hydra reads what they say.

    A user and password of `mlflow_uri` are put into the environment and left out, which a note tells. Raises UserError
    for a value that cannot be one of its key, and for a word that gives no key a value.
    """
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if before in FOLDERS:
            found.append(home_expanded(word))
        elif word.startswith("-"):
            found.append(f"{option}={home_expanded(value)}" if equals and option in FOLDERS else word)
        elif before.startswith("-") and before not in ("-m", "--multirun") and not equals:
            found.append(word)  # what an option of Hydra's takes
        else:
            found.append(_override(word))
    return found


def text_of(word: str) -> str | None:
    """The value of `key=value`, as `readable` gives it, as a text; None: null."""
    value = parse(word).value()
    return None if value is None else str(value)


def _override(word: str) -> str:
    match = _OVERRIDE.fullmatch(word)
    if match is None:
        if word.startswith("~") and not word.startswith("~hydra"):
            raise UserError(f"{word} takes a key away, and every key has a value: write key=null where that fits")
        if "=" not in word or word.startswith("="):
            raise UserError(f"{word} gives no key a value: write key=value (--help lists the keys)")
        return word
    key, value = match["key"], match["value"]
    if key == "mlflow_uri":
        value = _without_user(value)
    if not value or value[0] in "\"'":
        return f"{match['plus']}{key}={value}"
    return f"{match['plus']}{key}={_value(key, value, swept=True)}"


def _value(key: str, value: str, swept: bool) -> str:
    """The value in quotes where Hydra would read something else. Raises UserError where no text can be right."""
    known = _key(key)
    if known is not None and known.is_path and reads_otherwise(value) and _is_there(value):
        return quoted(value)
    if known is not None and known.is_text and key.startswith(_LAUNCHER) and "," in value:
        return quoted(value)  # a list as SLURM takes it: a launcher is not swept over
    parts = value.split(",")
    if swept and len(parts) > 1 and (known is None or known.takes_text) and _are_texts(key, value):
        return ",".join(_value(key, part, swept=False) for part in parts)
    try:
        override = parse(f"{key}={value}")
    except HydraException:
        if known is not None and not known.takes_text:
            raise UserError(f"{key}={value} cannot be read: {key} is {_wanted(known)}") from None
        if known is None and key not in known_keys() and not _FREE.match(key):
            raise UserError(unknown_key(key, known_keys())) from None
        return quoted(value)
    if known is not None and known.is_text and not override.is_sweep_override() and _differs(override, value):
        return quoted(value)
    return value


def _wanted(key: Key) -> str:
    kinds = {int: "a whole number", float: "a number", bool: "true or false"}
    named = [text for kind, text in kinds.items() if key.kind in (kind, kind | None)]
    if named:
        return named[0]
    return "a list such as " + ('\'["one text","another=1"]\'' if str in typing.get_args(key.elements) else "[1,2]")


def _key(key: str) -> Key | None:
    return config_keys().get(key) or _launcher_keys().get(key)


@cache
def _launcher_keys() -> dict[str, Key]:
    from fcdm.slurm.options import PlanOptions

    return keys_of(PlanOptions, _LAUNCHER)


def _are_texts(key: str, value: str) -> bool:
    """Whether commas separate plain values of a sweep: no list, no function, nothing in quotes."""
    try:
        override = parse(f"{key}={value}")
    except HydraException:
        return value[0] not in "[{"
    return override.is_sweep_override() and not re.search(r"[\\\"'\[\](){}]", value)


def _differs(override: Override, value: str) -> bool:
    """Whether Hydra reads another text than what was typed: a number's, a truth value's."""
    read = override.value()
    if read is None or isinstance(read, list | dict) or "\\" in value or "${" in value:
        return False
    return not isinstance(read, str) or read != value


def _is_there(value: str) -> bool:
    try:
        return place(value).exists()
    except (OSError, ValueError):  # too long for a name, or no name at all
        return False


def _without_user(value: str) -> str:
    quote = value[0] if len(value) > 1 and value[0] in "'\"" and value[0] == value[-1] else ""
    uri = value[1:-1] if quote else value
    clean = credentials.of_command_line(uri, tell=is_first_process())
    return value if clean == uri else quoted(clean)
