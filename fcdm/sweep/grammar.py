"""Hydra's grammar of overrides: words parsed by it, and texts put so that it reads them as themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from fcdm.errors import UserError


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def parse(word: str) -> Override:
    """Raises HydraException for what is no override."""
    return _parser().parse_override(word)


def parse_all(words: Iterable[str]) -> list[Override]:
    """Raises UserError for the first that is no override."""
    try:
        return _parser().parse_overrides(list(words))
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from None


@cache
def reads_otherwise(text: str) -> bool:
    """Whether Hydra makes anything but this very text of it: a number, a truth value, a sweep, an error."""
    try:
        override = parse(f"key={text}")
    except HydraException:
        return True
    return override.is_sweep_override() or override.value() != text


def quoted(text: str) -> str:
    """A text in Hydra's quotes, in which a backslash means itself unless quotes follow."""
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + match[2].replace('"', '\\"'), text)
    return f'"{escaped}"'
