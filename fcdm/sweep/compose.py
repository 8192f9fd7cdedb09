"""Composing many choices: Hydra once per choice of config groups, plain values put onto copies of that.

Hydra takes some 65 ms for a choice, most of it for reading and merging the groups' files again. A sweep over seeds
and learning rates has few different choices of groups, and to a plain `key=value` Hydra does no more than one
`OmegaConf.update` on what the groups gave; so that is done here, with the same call on a copy. Whatever is not plain
(`+`, `++`, `~`, `@`, hydra's own keys) goes through Hydra, and so does every choice for which the quick way fails: then
Hydra finds the words.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fcdm.config.check import check_asked, typed, walk
from fcdm.config.keys import families_with
from fcdm.config.relevance import idle
from fcdm.config.said import Said
from fcdm.config.schema import FAMILIES, Config
from fcdm.config.spaces import KEY as SPACES
from fcdm.config.spaces import spaces_of
from fcdm.cost.ladder import settle_size
from fcdm.cost.match_macs import settle_width
from fcdm.cost.size_rules import settle_rules
from fcdm.errors import UserError
from fcdm.runs.flop_budgets import settle_budgets
from fcdm.runs.processes import is_first_process
from fcdm.sweep.each_space import in_each_space
from fcdm.sweep.expand import keys_of
from fcdm.sweep.grammar import parse
from fcdm.sweep.store_defaults import store_overrides
from fcdm.sweep.sweep_file import FOLDER, SweepFile, SweepFiles

T = TypeVar("T")

_SHOW_AFTER_S = 1.0


class Composer:
    """Composes choices as `loader.load_sweep_config(master, choice)` does, and checks them."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._used: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}
        self._flat: dict[tuple[str, ...], dict[str, Any]] = {}
        self._files = SweepFiles(loader, master.hydra.job.config_name, master.hydra.overrides.hydra)

    @classmethod
    def here(cls, hydra_overrides: Sequence[str] = ()) -> Composer:
        """Within an initialised Hydra, for command lines that are no sweep; `hydra.searchpath=...` and the like."""
        hydra = {"job": {"config_name": "train"}, "overrides": {"hydra": [*hydra_overrides]}}
        return cls(GlobalHydra.instance().config_loader(), OmegaConf.create({"hydra": hydra}))

    def config(self, choice: Sequence[str], own_store: bool = True, unsaid: Collection[str] = ()) -> Config:
        """The choice as a typed, checked config, with what its store of latents says of itself.

        own_store: also of a store at the preset's own place, which nobody said. unsaid: keys whose words in the choice
        are nobody's saying. Raises UserError, and what Hydra raises for what it refuses.
        """
        return configured(*self._parts(choice, own_store, unsaid))

    def each_space(self, choice: Sequence[str]) -> list[list[str]]:
        """The choice once for each space of features that it names, the headline's first. Raises UserError."""
        try:
            value = OmegaConf.select(self.composed(choice), SPACES)
        except OmegaConfBaseException:
            return [list(choice)]  # what is wrong with it is said where all values are read
        names = spaces_of(OmegaConf.to_container(value) if OmegaConf.is_list(value) else value)
        return [list(choice)] if names is None else in_each_space(choice, names)

    def typed(self, choice: Sequence[str]) -> tuple[Config, Said]:
        """The choice as a `Config` that nothing has looked at, and what it says. Raises UserError."""
        composed, said = self._parts(choice)
        return settled(composed, said), said

    def _parts(
        self, choice: Sequence[str], own_store: bool = True, unsaid: Collection[str] = ()
    ) -> tuple[DictConfig, Said]:
        composed, said = self.composed(choice), self.said(choice)
        said = Said(said.keys.difference(unsaid), said.presets)
        if added := self._of_store(composed, choice, said, own_store):
            whole = [*choice, *added]
            composed, said = self.composed(whole), Said(said.keys, self.said(whole).presets)
        return composed, said

    def _of_store(self, composed: DictConfig, choice: Sequence[str], said: Said, own_store: bool) -> list[str]:
        """The overrides that the store of the choice brings."""
        if not own_store and "data.path" not in said.keys:
            return []
        try:
            path = OmegaConf.select(composed, "data.path")
        except OmegaConfBaseException:
            return []  # what is wrong with it is said where all values are read
        parsed = [self._parse(text) for text in choice]
        typed = {each.key_or_group: each.value() for each in parsed if self._is_choice(each)}
        chosen = {**self._of_files(parsed).groups, **typed}
        return store_overrides(None if path is None else str(path), said, chosen)

    def of_other_families(self, choice: Sequence[str]) -> dict[str, list[str]]:
        """The words of the choice that set an option which its model's family has not -> the families that have it."""
        words = [word for word in choice if word.lstrip("+").startswith("model.")]
        having = {word: families_with(keys_of(self._parse(word))) for word in words}
        if not any(having.values()):
            return {}
        family = (self.said(choice).presets or {}).get("model.family")
        return {word: names for word, names in having.items() if names and family in FAMILIES and family not in names}

    def said(self, choice: Sequence[str]) -> Said:
        """Which keys the choice and its sweep file give a value. Raises UserError for what cannot be parsed."""
        parsed = [self._parse(text) for text in choice]
        choices = {text: each.key_or_group for text, each in zip(choice, parsed, strict=True) if self._is_choice(each)}
        keys = {
            key
            for text, override in zip(choice, parsed, strict=True)
            if text not in choices and not override.is_delete() and override.key_or_group.partition(".")[0] != "hydra"
            for key in keys_of(override)
        }
        files = self._of_files(parsed)
        # What a file sets is the user's saying; the groups that it chooses are presets as those of a command line are.
        presets = [text for text, group in choices.items() if group != FOLDER]
        presets += [f"{group}={name}" for group, name in files.groups.items() if group not in choices.values()]
        return Said(frozenset(keys | files.keys), self._values(tuple(presets)))

    def _of_files(self, parsed: Sequence[Override]) -> SweepFile:
        """What the sweep file of a choice says."""
        named = [override.value() for override in parsed if override.key_or_group == FOLDER]
        return self._files.read(str(named[-1])) if named else SweepFile()

    def _is_choice(self, override: Override) -> bool:
        """Whether it chooses a group's file, rather than giving a key a value."""
        return self._is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def _values(self, groups: tuple[str, ...]) -> dict[str, Any]:
        """Dotted key -> value that these choices of groups give, before interpolation."""
        if groups not in self._flat:
            values = OmegaConf.to_container(self._base(groups))
            assert isinstance(values, dict)
            self._flat[groups] = dict(walk({str(key): value for key, value in values.items()}))
        return self._flat[groups]

    def composed(self, choice: Sequence[str]) -> DictConfig:
        """The choice as Hydra composes it; where quick, without Hydra's own node and until the next call."""
        try:
            return self._quickly(list(choice))
        except Exception:
            # Hydra says what is wrong in its own words (or finds nothing wrong: then the quick way was too narrow).
            return self.loader.load_sweep_config(self.master, list(choice))

    def _quickly(self, choice: list[str]) -> DictConfig:
        parsed = [self._parse(text) for text in choice]
        plain = [self._is_plain(override) for override in parsed]
        # Values are applied in order. What stands before one that is not plain must be there when Hydra comes to it.
        first = next((at for at in reversed(range(len(choice))) if self._must_follow(parsed[at], plain[at])), -1) + 1
        quick = [at for at in range(first, len(choice)) if plain[at]]
        base = tuple(text for at, text in enumerate(choice) if at < first or not plain[at])
        values = [(parsed[at].key_or_group, parsed[at].value()) for at in quick]
        # Copying is the slowest part. The last copy will do where the same keys are set again, all of them: a value
        # that is not merged leaves nothing behind.
        used = (base, tuple(key for key, _ in values))
        config = self._used.pop(used, None)
        merged = any(isinstance(value, dict) for _, value in values)
        if config is None or merged:
            config = copy.deepcopy(self._base(base))
        for key, value in values:
            OmegaConf.update(config, key, value, merge=True)
        if not merged:
            self._used[used] = config  # not before: where a value is refused, the copy is half changed
        return config

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = parse(text)
        return self._parsed[text]

    def _is_plain(self, override: Override) -> bool:
        """Whether Hydra would take this for a value of a key that is there, and set it."""
        key = override.key_or_group
        return (
            override.type == OverrideType.CHANGE
            and override.package is None
            and not override.is_sweep_override()
            and "/" not in key
            and key.partition(".")[0] != "hydra"
            and (isinstance(override.value(), dict) or not self._is_group(key))
        )

    def _must_follow(self, override: Override, plain: bool) -> bool:
        """Whether it changes values itself, so that its place among them counts; a choice of a group does not."""
        return not plain and not self._is_choice(override)

    def _is_group(self, key: str) -> bool:
        if "." in key:  # of a key; folders of configs have no such names
            return False
        if key not in self._groups:
            self._groups[key] = self._has_options(key)
        return self._groups[key]

    def _has_options(self, group: str) -> bool:
        hydra = self.master.hydra
        overrides = list(hydra.overrides.hydra)
        if any(text.lstrip("+").startswith("hydra.searchpath") for text in overrides):
            # More places than the loader's own: it reads the primary config anew, at each question, to know them.
            return bool(self.loader.get_group_options(group, None, hydra.job.config_name, overrides))
        sources = self.loader.get_sources()
        return any(source.is_group(group) and source.list(group, results_filter=None) for source in sources)

    def _base(self, choice: tuple[str, ...]) -> DictConfig:
        """What Hydra composes of the groups, and of all that goes with them; without Hydra's own node."""
        if choice not in self._bases:
            base = self.loader.load_sweep_config(self.master, list(choice))
            with open_dict(base):
                base.pop("hydra")  # not masked_copy: that forgets the root's type, and takes a list for a number
            self._bases[choice] = base
        return self._bases[choice]


def configured(composed: DictConfig, said: Said) -> Config:
    """What Hydra composed as a typed, checked configuration, for every command. Raises UserError with one line.

    What was said and means nothing in it is refused.
    """
    config = settled(composed, said)
    check_asked(config)
    refuse_idle(config, said)
    return config


def settled(composed: DictConfig, said: Said) -> Config:
    """What Hydra composed as a typed configuration, with what is asked by its cost: a size, a width, budgets
    of steps.

    What was found is noted on stderr, once for each. Raises UserError.
    """
    config = typed(composed, said)
    rung, match = settle_size(config, said), settle_width(config, said)
    notes = [*([rung] if rung else []), *([str(match)] if match else []), *settle_rules(config)]
    for text in [*notes, *settle_budgets(config, said)]:
        if is_first_process():
            _note(text)
    return config


@cache
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def refuse_idle(config: Config, said: Said) -> None:
    """Raise UserError for the first setting that was said and has no effect."""
    for setting in idle(config, said).values():
        raise UserError(str(setting))


def one_choice(command: str, noun: str) -> tuple[Composer, list[str]]:
    """Hydra's command line without -m, as a choice and what composes it. Raises UserError for what needs -m.

    command: `fcdm.train`; noun: what it does one of.
    """
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.RUN and not hydra_config.launcher["_target_"].endswith(".BasicLauncher"):
        # Hydra would ignore it, and do it here: on a cluster's login node, say.
        name = hydra_config.runtime.choices["hydra/launcher"]
        raise UserError(f"hydra/launcher={name} needs -m, for one {noun} too: python -m {command} -m ...")
    composer, choice = Composer.here(hydra_config.overrides.hydra), list(hydra_config.overrides.task)
    composed = composer.composed(choice)
    if composed.grids or composed.studies:
        raise UserError(f"a sweep file is for a sweep: python -m {command} -m +sweeps=...")
    return composer, choice


def one_config(command: str, noun: str) -> Config:
    """What `one_choice` composes, checked: one configuration. Raises UserError."""
    composer, choice = one_choice(command, noun)
    first, *others = composer.each_space(choice)
    if others:
        raise UserError(f"{SPACES} names several spaces, and {command} takes one at a time: say {SPACES}=NAME")
    return composer.config(first)


def with_progress(items: Sequence[T], doing: str) -> Iterator[T]:
    """The items, with a bar on a terminal's stderr while they take more than a second."""
    if not sys.stderr.isatty():
        yield from items
        return
    began = time.monotonic()
    at = 0
    while at < len(items) and time.monotonic() - began < _SHOW_AFTER_S:
        yield items[at]
        at += 1
    if at == len(items):
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(doing), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(doing, total=len(items), completed=at)
        for item in items[at:]:
            yield item
            bars.advance(task)
