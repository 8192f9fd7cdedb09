"""Which models a person means by `--pair A B`: by name, by label, or by the settings' keys.

`FCDM-N`, `dit/N-2`, `'FCDM-N lr=0.004'`, `model=N,label_drop.mode=shared`. A pattern that several settings of one
model match means the best of them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from fcdm.analysis.data.seed_curves import SeedCurve
from fcdm.errors import UserError

MOST_TOLD = 12
"""So many names are told where a pattern matches nothing."""

PairOfPatterns = tuple[str, str]


def matching(pattern: str, curves: Sequence[SeedCurve]) -> list[SeedCurve]:
    """The curves that a pattern means, of one data set: all of one model, or none. Raises UserError if of several."""
    exact = [line for line in curves if line.label == pattern.strip()]
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
            return UserError(f"--pair: nothing here is '{pattern}'; there: {told(curves)}")
    return UserError(f"--pair: '{pair[0]}' and '{pair[1]}' have no data and resolution in common: FIDs of two scales")


def _holds_all(pattern: str, line: SeedCurve) -> bool:
    return line.label == pattern.strip() or all(_holds(word, line) for word in _words(pattern))


def _words(pattern: str) -> list[str]:
    """`model=N,lr=1e-3` and `FCDM-N lr=0.001` in their parts; a list in brackets stays whole."""
    words = [word for word in re.split(r"[,\s]+(?![^\[]*\])", pattern.strip()) if word]
    if not words:
        raise UserError("--pair: an empty pattern names no model")
    return words


def _holds(word: str, line: SeedCurve) -> bool:
    key, equals, value = word.partition("=")
    if not equals:
        return word in (line.name, line.model)
    if key == "model":
        return value in (line.name, line.model)
    known = {"family": line.family, "resolution": str(line.resolution), "data": str(line.runs["data"].iloc[0])}
    known |= line.settings
    of_key = {theirs for name, theirs in known.items() if name == key or name.endswith(f".{key}")}
    return any(_equal(value, theirs) for theirs in of_key)


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
