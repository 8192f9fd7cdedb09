"""Several sweep files in one command: each stands for itself, as if it had been named alone.

Hydra would merge the files of `'+sweeps=[a,b]'` into one, with the grids of the last. Here each file is composed on its
own, and their choices are put one after another; so every study keeps its name, and what several ask of one run is one
job (`fcdm.jobs.make_jobs.make_jobs`). `+sweeps=a,b` means the same, and a file may name others: `studies: [a, b]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fcdm.errors import UserError
from fcdm.sweep.expand import expand


def choices_of(loader: ConfigLoader, master: DictConfig, arguments: list[str]) -> list[list[str]]:
    """The override lists of all distinct choices that a command line and its sweep files ask for, in order.

    `master`: what Hydra composed of `arguments`. Raises UserError, and what Hydra raises for a file that is not there.
    """
    place, names = _named(arguments)
    if len(names) <= 1 and not master.studies:
        return expand(arguments, _grids(master))
    found: list[list[str]] = []
    for one, composed in _files(loader, master, arguments, place, names, set()):
        found += expand(one, _grids(composed))
    return [list(choice) for choice in dict.fromkeys(map(tuple, found))]


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
    try:
        parsed = OverridesParser.create().parse_overrides(arguments)
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from None
    for place, override in enumerate(parsed):
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
