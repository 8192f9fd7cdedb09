"""The points of a sweep as configurations: a setting that has an effect at some of them only is one value elsewhere.

The spaces of features that one choice names are points too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fcdm.config.check import check_asked, check_values
from fcdm.config.relevance import Idle, differing, idle, value_at
from fcdm.config.said import Said
from fcdm.config.schema import Config
from fcdm.config.setting import Needs
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.runs.branches import branches_of
from fcdm.sweep.compose import Composer, with_progress
from fcdm.sweep.expand import keys_said, override_text


@dataclass
class _Point:
    choice: list[str]
    said: Said
    config: Config
    idle: dict[str, Idle] = field(default_factory=dict)
    """What has no effect here."""


def configs_of(composer: Composer, choices: Sequence[list[str]]) -> list[Config]:
    """Every choice composed and checked; those that are one configuration once.

    Where a setting has no effect, though it has one at another point, it has the presets' value, and a note says so.
    Raises UserError for what no choice may say, and for a setting without effect at any point.
    """
    points = [point for choice in with_progress(choices, "composing") for point in _points(composer, choice)]
    used = {key for point in points for key in differing(point.config, point.said) if key not in point.idle}
    used |= {key for point in points for key in point.said.keys - point.idle.keys() if key.startswith("model.")}
    for point in points:
        with _naming(point.choice):
            for setting in point.idle.values():
                if setting.key not in used:
                    raise UserError(_refusal(setting, point))
            if point.idle:
                presets = point.said.presets or {}
                plain = [override_text(key, presets[key]) for key in point.idle if key in presets]
                point.config = composer.config([*point.choice, *plain], unsaid=point.idle)
            else:
                check_asked(point.config)
    distinct = {repr(config): config for point in points for config in _with_branches(point)}
    for note in _notes(points):
        print(f"note: {note}", file=sys.stderr)
    return list(distinct.values())


def _with_branches(point: _Point) -> list[Config]:
    with _naming(point.choice):
        return branches_of(point.config, point.said.keys)


def _points(composer: Composer, choice: list[str]) -> list[_Point]:
    """One for each space of features that the choice names."""
    with _naming(choice):
        others = composer.of_other_families(choice)
        spaces = composer.each_space([word for word in choice if word not in others])
    return [_point(composer, rest, others) for rest in spaces]


def _point(composer: Composer, rest: list[str], others: Mapping[str, list[str]]) -> _Point:
    """others: words of the choice that mean something to models of other families alone."""
    with _naming([*rest, *others]):
        config, said = composer.typed(rest)
        check_values(config)  # first: what a mistyped word makes of other settings helps nobody
        found = idle(config, said)
        for word, families in others.items():
            key, _, value = word.lstrip("+").partition("=")
            needs = Needs("model.family", families.__contains__, f"it is an option of {' and '.join(families)} alone")
            found[key] = Idle(key, value, needs, config.model.family)
    return _Point(rest, Said(said.keys | found.keys(), said.presets), config, found)


@contextmanager
def _naming(choice: list[str]) -> Iterator[None]:
    """What goes wrong names the choice."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}  [{' '.join(choice)}]") from None


def _refusal(setting: Idle, point: _Point) -> str:
    presets = point.said.presets or {}
    if setting.key in keys_said(point.choice) or setting.key not in presets:
        return str(setting)
    return f"{setting}; it stands in a sweep file, and {override_text(setting.key, presets[setting.key])} takes it back"


def _notes(points: list[_Point]) -> Iterator[str]:
    """One for each value that makes settings mean nothing: which settings, and what became of the points."""
    groups: dict[str, list[Idle]] = {}
    for setting in (setting for point in points for setting in point.idle.values()):
        groups.setdefault(setting.where, []).append(setting)
    for where, settings in groups.items():
        keys = sorted({setting.key for setting in settings})
        there = [point for point in points if not point.said.keys.isdisjoint(keys) and _is_at(point, settings[0])]
        distinct = len({repr(point.config) for point in there})
        became = f"{plural(len(there), 'point')} {'does' if len(there) == 1 else 'do'} without"
        if distinct < len(there):
            became = f"{len(there)} points are {'one' if distinct == 1 else distinct}"
        yield f"{', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect {where}: {became}"


def _is_at(point: _Point, setting: Idle) -> bool:
    """Whether the key that decides has that value here too."""
    key = setting.needs.key
    return key is None or value_at(point.config, key) == setting.found
