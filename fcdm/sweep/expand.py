"""From a command line and its sweep files to the distinct choices they ask for.

A sweep file says `grids:`, a list of mappings from key to value or list of values; each is a full product, and
together they are one study (FCDM to 1M steps beside DiT to 7M: a plain product cannot say that). `steps` and `flops`
are never multiplied out: several numbers are budgets of one trajectory. What the command line says of a key replaces
what the grids say of it, its budgets those of the grids in either unit, and of a key that it says twice the last word
counts.

Each of several files stands for itself, as if it had been named alone. Hydra would merge the files of
`'+sweeps=[a,b]'` into one, with the grids of the last. Here each is composed on its own, and their choices are put one
after another; so every study keeps its name, and what several ask of one run is one job
(`fcdm.jobs.make_jobs.make_jobs`). `+sweeps=a,b` means the same, and a file may name others: `studies: [a, b]`.
"""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fcdm.config.check import known_keys, walk
from fcdm.config.keys import config_keys
from fcdm.errors import UserError
from fcdm.sweep.grammar import parse, parse_all, quoted, reads_otherwise


def choices_of(loader: ConfigLoader, master: DictConfig, arguments: list[str]) -> list[list[str]]:
    """The override lists of all distinct choices that a command line and its sweep files ask for, in order.

    `master`: what Hydra composed of `arguments`. Raises UserError, and what Hydra raises for a file that is not there.
    """
    arguments = last_of_each(arguments)
    place, names = _named(arguments)
    if len(names) <= 1 and not master.studies:
        return expand(arguments, _grids(master))
    choices: list[list[str]] = []
    for one, composed in _files(loader, master, arguments, place, names, set()):
        choices += expand(one, _grids(composed))
    return [list(choice) for choice in dict.fromkeys(map(tuple, choices))]


def _files(
    loader: ConfigLoader, master: DictConfig, arguments: list[str], place: int, names: list[str], seen: set[str]
) -> Iterator[tuple[list[str], DictConfig]]:
    """For each file, the command line that names it alone and what Hydra composes of that; each file once."""
    hydra = list(master.hydra.overrides.hydra)
    for name in names:
        if name in seen:
            continue
        seen.add(name)
        one = [*arguments[:place], f"+sweeps={name}", *arguments[place + 1 :]]
        composed = loader.load_configuration(master.hydra.job.config_name, [*hydra, *one], run_mode=RunMode.MULTIRUN)
        if composed.studies and composed.grids:
            raise UserError(f"sweeps/{name}.yaml says grids: and studies:, but it is either a study or a list of some")
        if composed.studies:
            yield from _files(loader, master, arguments, place, list(composed.studies), seen)
        else:
            yield one, composed


def _named(arguments: list[str]) -> tuple[int, list[str]]:
    """Where on the command line the sweep files are named, and which. Raises UserError."""
    for place, override in enumerate(parse_all(arguments)):
        if override.key_or_group == "sweeps" and not override.is_delete():
            values: list[Any] = [override.value()]
            if override.is_sweep_override():
                values = list(override.sweep_string_iterator())
            names = [name for value in values for name in (value if isinstance(value, list) else [value])]
            return place, list(dict.fromkeys(map(str, names)))
    return 0, []


def _grids(composed: DictConfig) -> list[Any]:
    grids = OmegaConf.to_container(composed.grids)
    assert isinstance(grids, list)
    return grids


BUDGETS = ("steps", "flops")
"""Keys of budgets: several numbers are one trajectory's."""


def expand(arguments: Iterable[str], grids: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The override lists of all distinct choices, in order; budgets joined as a list in each.

    `arguments` are Hydra overrides, some of them sweeps (`model=N,M`). They come after what the grids say, in their own
    order, for Hydra too lets the last one win. Raises UserError.
    """
    words, said = _command_line(list(arguments))
    choices: list[list[str]] = []
    for grid in list(grids) or [{}]:
        dimensions = {key: values for key, values in _grid(grid).items() if key not in said}
        of_grid = {key: dimensions.pop(key) for key in BUDGETS if key in dimensions}
        budgets = {key: words[key] for key in BUDGETS if key in words} or of_grid
        columns = [[override_text(key, value) for value in values] for key, values in dimensions.items()]
        columns += [texts for key, texts in words.items() if key not in BUDGETS]
        ends = [override_text(key, None if values == [None] else values) for key, values in budgets.items()]
        choices += [[*values, *ends] for values in itertools.product(*columns)]
    return [list(choice) for choice in dict.fromkeys(map(tuple, choices))]


def _command_line(arguments: list[str]) -> tuple[dict[str, list[Any]], set[str]]:
    """For each word of a command line what it may be, in their order; and the keys that they give values.

    A word that is no sweep may be itself only. Budgets have their numbers instead of words.
    """
    words: dict[str, list[Any]] = {}
    said: set[str] = set()
    for override in parse_all(last_of_each(arguments)):
        key, line = override.key_or_group, override.input_line or ""
        if key in BUDGETS and not override.is_delete():
            values = [override.value()]
            if override.is_sweep_override():
                values = [parse(f"{key}={text}").value() for text in override.sweep_string_iterator()]
            words[key] = list(itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in values))
        elif override.is_sweep_override():
            sweep = override.get_key_element()
            words[line] = [f"{sweep}={text}" for text in override.sweep_string_iterator()]
        else:
            words[line] = [line]
        said |= keys_of(override)
    return words, said


def last_of_each(words: Sequence[str]) -> list[str]:
    """A command line without what a later word replaces: of a key or group that is given twice, the last word stands.

    Whatever is no override (`-m`), or cannot be parsed, stays: Hydra has the words for it. So do removals (`~key`) and
    mappings (`optimiser={lr: 1}`), which Hydra does in their order, one on top of the other.
    """
    stands: dict[Any, str] = {}
    for place, word in enumerate(words):
        key, _, _ = word.partition("=")
        name = key.lstrip("+")
        if key == word or key.startswith(("-", "~")) or _is_mapping(word):
            stands[place] = word
            continue
        before = stands.pop(name, "")
        added = before[: len(before) - len(before.lstrip("+"))]
        stands[name] = word if word.startswith("+") else added + word
    return list(stands.values())


def refuse_unused(words: Sequence[str], uses: Collection[str], what: str) -> None:
    """Raise UserError for the first override of a key or group that a command has no use for.

    uses: those that it has one for, with `model.*` for all below; what: it, to name it (`a benchmark`). A key that is
    not known is Hydra's to name, and its own are its own.
    """
    plain = [word for word in words if "=" in word and not word.startswith("-")]
    for word, override in zip(plain, parse_all(plain), strict=True):
        for key in sorted(keys_of(override) & known_keys()):
            if not any(key == own or (own.endswith(".*") and key.startswith(own[:-1])) for own in uses):
                raise UserError(f"{key} has no effect on {what}: leave {word} away")


def _is_mapping(word: str) -> bool:
    if "{" not in word:
        return False
    try:
        override = parse(word)
    except HydraException:
        return False
    return not override.is_sweep_override() and isinstance(override.value(), dict)


def keys_of(override: Override) -> set[str]:
    """The keys that a word gives a value: `optimiser={lr: 1}` says optimiser.lr; of a group, the group."""
    value = None if override.is_sweep_override() else override.value()
    if isinstance(value, dict) and value:
        plain = {str(name): inner for name, inner in value.items()}
        return {key for key, _ in walk(plain, f"{override.key_or_group}.")}
    return {override.key_or_group}


def keys_said(words: Iterable[str]) -> set[str]:
    """The keys and groups that overrides give a value. Raises UserError for what cannot be parsed."""
    return {key for override in parse_all(words) for key in keys_of(override)}


def _grid(grid: Any) -> dict[str, list[Any]]:
    """A grid of a sweep file with every value as a list."""
    if not isinstance(grid, Mapping):
        raise UserError(f"grids: {grid!r} is no grid; each entry is a mapping such as 'model: [N, M]'")
    dimensions = {}
    for key, value in grid.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values:
            raise UserError(f"grids: {key} is an empty list, so the grid asks for nothing")
        if str(key).startswith("hydra"):
            raise UserError(f"grids: {key} is for a whole command: give it there{_of_one_run(str(key))}")
        dimensions[str(key)] = values
    return dimensions


def _of_one_run(key: str) -> str:
    """What says the same of single runs, if anything does."""
    name = key.removeprefix("hydra.launcher.")
    name = {"timeout_min": "hours", "cpus_per_task": "cpus"}.get(name, name)
    return f"; resources.{name} says it of single runs" if f"resources.{name}" in config_keys() else ""


def override_text(key: str, value: Any) -> str:
    """`key=value` as a command line would say it, in quotes where Hydra's grammar needs that.

    A text stays that text, be it 007 or true, unless the key's field can only be something else.
    """
    known = config_keys().get(key)
    as_text = known is None or known.is_text or known.is_group or str in typing.get_args(known.elements)
    return f"{key}={_literal(value, as_text)}"


def _literal(value: Any, as_text: bool) -> str:
    """A value in Hydra's override grammar; as_text: a text is meant to be one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_literal(item, as_text) for item in value)}]"
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./@:-]+", text) and not (as_text and reads_otherwise(text)):
        return text
    return quoted(text)
