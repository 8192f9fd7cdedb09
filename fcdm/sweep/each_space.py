"""One choice that names several spaces of features as several choices of one space each."""

from __future__ import annotations

from collections.abc import Sequence

from fcdm.config.keys import config_keys
from fcdm.config.spaces import KEY, spaces_of
from fcdm.errors import UserError
from fcdm.sweep.expand import keys_of, override_text
from fcdm.sweep.grammar import parse


def in_each_space(choice: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """The choice once for each of these spaces of features.

    What was said for some of them only (Inception's reference) is left out at the others; what means nothing at any is
    left to the checks, which refuse it.
    """
    keys = {word: keys_of(parse(word)) for word in choice}
    rest = [word for word in choice if keys[word] != {KEY}]
    fits = {name: [word for word in rest if all(_has_effect(key, name) for key in keys[word])] for name in names}
    used = {word for words in fits.values() for word in words}
    kept = {name: [word for word in rest if word in fits[name] or word not in used] for name in names}
    return [[*kept[name], override_text(KEY, name)] for name in names]


def said_spaces(choice: Sequence[str]) -> list[list[str]]:
    """`in_each_space` of the list that the words themselves give; the choice alone where they give none.

    Raises UserError for a wrong list, and what Hydra raises for what it cannot read.
    """
    words = [word for word in choice if word.partition("=")[0] == KEY]
    if words and parse(words[-1]).is_sweep_override():
        listed = words[-1].partition("=")[2]
        raise UserError(f"{words[-1]} is a sweep, and this command does one thing: say '{KEY}=[{listed}]'")
    names = spaces_of(parse(words[-1]).value()) if words else None
    return [list(choice)] if names is None else in_each_space(choice, names)


def _has_effect(key: str, name: str) -> bool:
    if key.startswith(f"{KEY}_options"):
        return "." in name  # of the user's own
    known = config_keys().get(key)
    return known is None or all(needs.holds(name) for needs in known.needs if needs.key == KEY)
