"""Which models a person means by `--pair A B`: by name, by label, or by the settings' keys.

`FCDM-N`, `dit/N-2`, `'FCDM-N lr=0.004'`, `model=N,label_drop.mode=shared`. A pattern that several settings of one
model match means the best of them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from fcdm.analysis.data.seed_curves import SeedCurve
from fcdm.config.check import near
from fcdm.errors import UserError

MOST_TOLD = 12
"""So many names are told where a pattern matches nothing."""

PairOfPatterns = tuple[str, str]


def matching(pattern: str, curves: Sequence[SeedCurve]) -> list[SeedCurve]:
    """The curves that a pattern means, of one data set: all of one model, or none. Raises UserError if of several."""
    exact = [line for line in curves if line.label.lower() == pattern.strip().lower()]
    found = exact or [line for line in curves if all(_holds(word, line) for word in _words(pattern))]
    names = sorted({line.name for line in found})
    if len(names) > 1:
        raise UserError(f"--pair: '{pattern}' means {told(found)}: add model=, to mean one of them")
    return found


def told(curves: Sequence[SeedCurve]) -> str:
    """Their labels, up to MOST_TOLD of them."""
    labels = list(dict.fromkeys(line.label for line in curves))
    more = f" and {len(labels) - MOST_TOLD} more" if len(labels) > MOST_TOLD else ""
    return ", ".join(labels[:MOST_TOLD]) + more


def not_there(pair: PairOfPatterns, curves: Sequence[SeedCurve]) -> UserError:
    """What is wrong with a pair that is nowhere: one of it is not there, or both are, on two scales."""
    for pattern in pair:
        if not any(_holds_all(pattern, line) for line in curves):
            return UserError(
                f"--pair: nothing here is '{pattern}': {_unmatched(pattern, curves)}; there: {told(curves)}"
            )
    return UserError(
        f"--pair: '{pair[0]}' and '{pair[1]}' have no data and resolution in common: distances of two scales"
    )


def _unmatched(pattern: str, curves: Sequence[SeedCurve]) -> str:
    """Which part of a pattern holds for no curve, and what is near to it; or that no one curve has all parts."""
    for word in _words(pattern):
        if any(_holds(word, line) for line in curves):
            continue
        key, equals, value = word.partition("=")
        if not equals or key.lower() == "model":
            return f"no model '{value or key}', {near(value or key, {line.name for line in curves})}"
        known = {name: theirs for line in curves for name, theirs in _known(line).items()}
        if not any(_is_key(name, key) for name in known):
            return f"no run has the key {key}: {near(key, known, MOST_TOLD)}"
        values = {theirs for line in curves for name, theirs in _known(line).items() if _is_key(name, key)}
        return f"no run has {word}: {key} is {', '.join(sorted(values)[:MOST_TOLD])} here"
    return "its parts hold for different settings"


def _holds_all(pattern: str, line: SeedCurve) -> bool:
    return line.label.lower() == pattern.strip().lower() or all(_holds(word, line) for word in _words(pattern))


def _words(pattern: str) -> list[str]:
    """`model=N,lr=1e-3` and `FCDM-N lr=0.001` in their parts; a list in brackets stays whole."""
    words = [word for word in re.split(r"[,\s]+(?![^\[]*\])", pattern.strip()) if word]
    if not words:
        raise UserError("--pair: an empty pattern names no model")
    return words


def _holds(word: str, line: SeedCurve) -> bool:
    key, equals, value = word.partition("=")
    if not equals or key.lower() == "model":
        return (value if equals else word).lower() in (line.name.lower(), line.model.lower())
    return any(_equal(value, theirs) for name, theirs in _known(line).items() if _is_key(name, key))


def _known(line: SeedCurve) -> dict[str, str]:
    """What a pattern may ask of a curve, by key."""
    known = {"family": line.family, "resolution": str(line.resolution), "data": str(line.runs["data"].iloc[0])}
    return known | line.settings


def _is_key(name: str, key: str) -> bool:
    return name.lower() == key.lower() or name.lower().endswith(f".{key.lower()}")


def _equal(asked: str, there: str) -> bool:
    try:
        return float(asked) == float(there)
    except ValueError:
        plain = [re.sub(r"\s", "", text).lower().replace("null", "none") for text in (asked, there)]
        return plain[0] == plain[1]


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """The option `--pair A B`, of any number of times."""
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar=("A", "B"),
        help="compare these two instead of each FCDM with the DiT of its size: names, labels or settings, such as "
        "FCDM-N 'DiT-N/2 lr=0.004', or model=N,label_drop.mode=shared model=N,label_drop.mode=independent; may be "
        "said several times",
    )
