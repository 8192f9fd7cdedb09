"""What differs between the two sides of a comparison besides the architecture: keys of the configuration.

Two families differ in the model's keys by nature, two models of one family in those of size; all else is said.
A key counts only where it has an effect (`applies` in the schema): the noise schedule of a flow has none.
"""

from __future__ import annotations

import ast
from typing import Any

import pandas as pd

from fcdm.analysis.data.labels import COOLDOWN, SIZE, shortened
from fcdm.analysis.data.seed_curves import SeedCurve
from fcdm.config import when
from fcdm.config.keys import config_keys
from fcdm.config.schema import LabelDropConfig
from fcdm.runs.identity import INTRODUCED, NOT_IDENTITY

LABEL_MASKS = "label_drop.mode"
ONE_MASK = "shared"
"""What a DiT does, whatever its configuration says: one embedder draws one mask."""
NOT_KNOWN = "not known"
_ELSEWHERE = ("model.family", "seed", "resolution", "data.checksum", COOLDOWN, *NOT_IDENTITY)
"""What is no difference: seeds and names; and what `other_data` and `cooled_words` speak of."""


def differing(a: SeedCurve, b: SeedCurve) -> tuple[str, ...]:
    """Sentences such as `batch_size 512 against 128`, a's first; what cannot be compared is said last."""
    ours, theirs = ({"model.family": line.family, **line.settings} for line in (a, b))
    told = []
    whole = a.tells_differences and b.tells_differences
    for key in sorted(ours.keys() | theirs.keys()):
        if key in _ELSEWHERE or (key.startswith("model.") and (a.family != b.family or key in SIZE)):
            continue
        values = _value(ours, key, whole), _value(theirs, key, whole)
        if None not in values and not _same(*values):
            told.append(f"{key} {shortened(key, str(values[0]))} against {shortened(key, str(values[1]))}")
    if a.cooldown != b.cooldown:
        told.append(f"{cooled_words(a.cooldown)} against {cooled_words(b.cooldown)}")
    if not whole:
        told.append("of other settings the table says nothing")
    return tuple(told)


def cooled_words(share: float) -> str:
    """Of the share of the steps in which a rate falls to 0; 0: it goes on."""
    return f"a rate cooled down over the last {100 * share:.3g} %" if share else "a rate that goes on"


OF_PUBLISHED = ("samples", "sampler", "labels", "decoder", "framework", "train_precision")
"""Columns of the published points that tell how they were made."""


def differing_as_published(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, ...]:
    """The same of the points of two published models; what a source does not tell of both may differ too."""
    told = []
    for column in OF_PUBLISHED:
        ours, theirs = (" and ".join(sorted(set(points[column].map(str)))) for points in (a, b))
        if ours == theirs == "unknown":
            told.append(f"{column} unknown of both")
        elif ours != theirs:
            told.append(f"{column} {ours} against {theirs}")
    return tuple(told)


def other_data(a: SeedCurve, b: SeedCurve) -> str | None:
    """Why the FIDs of the two are of two scales, as far as is known; None: they are of one."""
    for key in ("data", "resolution"):
        ours, theirs = a.runs[key].iloc[0], b.runs[key].iloc[0]
        if ours != theirs:
            return f"{key} {ours} against {theirs}: distances of two scales"
    ours, theirs = a.settings.get("data.checksum"), b.settings.get("data.checksum")
    if ours and theirs and ours != theirs:
        return f"trained on other data (checksum {ours[:8]} against {theirs[:8]})"
    return None


def _value(config: dict[str, str], key: str, whole: bool) -> str | None:
    """What the key does on this side; None: nothing."""
    if whole and not has_effect(config, key):
        one_mask = key == LABEL_MASKS and not when.SEVERAL_EMBEDDERS.holds(config["model.family"])
        drops = when.DROPS.holds(_parsed(config.get("label_drop.probability", str(LabelDropConfig.probability))))
        return ONE_MASK if one_mask and drops else None
    default = str(INTRODUCED[key]) if key in INTRODUCED else NOT_KNOWN
    return config.get(key, default)


def has_effect(config: dict[str, str], key: str) -> bool:
    """Whether the schema gives `key` an effect, by what is known of a flat configuration."""
    known = config_keys().get(key)
    for needs in known.needs if known else ():
        if needs.key is None or (needs.key in config and not needs.holds(_parsed(config[needs.key]))):
            return False
    return True


def _parsed(text: str) -> Any:
    """`0.1` -> 0.1, `None` -> None, `dit` as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _same(one: str | None, other: str | None) -> bool:
    return one == other or _parsed(str(one)) == _parsed(str(other))
