"""What a sweep file says: which keys it gives a value, and which groups its `defaults:` choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import GroupDefault
from omegaconf import OmegaConf

from fcdm.config.check import walk

FOLDER = "sweeps"
_OF_THE_SWEEP = ("defaults", "grids", "studies", "study")
"""Keys that ask for runs and name them, and set nothing of a run."""


@dataclass
class SweepFile:
    """What the user says by naming it."""

    keys: set[str] = field(default_factory=set)
    """Dotted; with the presets' own value, too."""
    groups: dict[str, str] = field(default_factory=dict)
    """Config group -> the option that `override /model: N` chooses."""


class SweepFiles:
    """Reads each file once; where Hydra finds it, `hydra.searchpath=` among its own overrides counting."""

    def __init__(self, loader: ConfigLoader, config_name: str | None, hydra_overrides: Sequence[str]) -> None:
        self._loader, self._config_name, self._overrides = loader, config_name, list(hydra_overrides)
        self._repository: Any = None
        self._files: dict[str, SweepFile] = {}

    def read(self, name: str) -> SweepFile:
        """The file `sweeps/NAME.yaml`, with those that it takes in; of one that is not there, nothing."""
        if name not in self._files:
            self._files[name] = said = SweepFile()  # at once: that a file takes itself in is Hydra's to refuse
            found = self._found(name)
            if found is not None:
                self._take(found, said)
        return self._files[name]

    def _found(self, name: str) -> Any:
        if self._repository is None:  # as hydra-core 1.3 does for its own loading
            _, self._repository = self._loader._parse_overrides_and_create_caching_repo(  # type: ignore[attr-defined]
                self._config_name, self._overrides
            )
        return self._repository.load_config(f"{FOLDER}/{name}")

    def _take(self, found: Any, said: SweepFile) -> None:
        for default in found.defaults_list or []:
            group = str(default.group).lstrip("/") if isinstance(default, GroupDefault) else FOLDER
            name = default.value if isinstance(default, GroupDefault) else default.path
            if default.is_self() or not isinstance(name, str) or group.startswith("hydra/"):
                continue
            if group == FOLDER:
                other = self.read(name.removeprefix(f"/{FOLDER}/"))
                said.keys |= other.keys
                said.groups |= other.groups
            else:
                said.groups[group] = name
        values = OmegaConf.to_container(found.config)
        assert isinstance(values, dict)
        plain = {str(key): value for key, value in values.items() if key not in _OF_THE_SWEEP}
        said.keys |= {key for key, _ in walk(plain)}
