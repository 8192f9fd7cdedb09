"""Makes the typed schema known to Hydra, so that wrong keys and types are errors when a config is composed."""

from __future__ import annotations

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from fcdm.config.schema import FAMILIES, Config

PLUGINS = "hydra_plugins.fcdm_plugins.plugins"


@dataclass
class SweeperConfig:
    """`hydra/sweeper=fcdm`."""

    _target_: str = f"{PLUGINS}.FcdmSweeper"


@dataclass
class BenchmarkSweeperConfig:
    """`hydra/sweeper=fcdm_benchmark`: of `python -m fcdm.benchmark`."""

    _target_: str = f"{PLUGINS}.FcdmBenchmarkSweeper"
    seconds: float = 180.0
    """For each model, at most about so many."""
    profile: bool = False
    """Keep the profiler's trace."""


@dataclass
class LocalConfig:
    """`hydra/launcher=local`."""

    _target_: str = f"{PLUGINS}.LocalLauncher"
    jobs: int | None = None
    """Jobs at a time; null: as many as there are cores."""


def register_schema() -> None:
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for family, node in FAMILIES.items():
        store.store(group="schema", name=family, node=node)
    store.store(group="hydra/sweeper", name="fcdm", node=SweeperConfig)
    store.store(group="hydra/sweeper", name="fcdm_benchmark", node=BenchmarkSweeperConfig)
    store.store(group="hydra/launcher", name="local", node=LocalConfig)
    # Stands in for the stock launcher of that name: after Hydra's scan of the plugins (which happens once), since it
    # loads them in the order of their paths and the stock node could come last (hydra-core 1.3.8).
    Plugins.instance()
    from fcdm.slurm.options import PlanOptions, SlurmOptions

    store.store(group="hydra/launcher", name="submitit_slurm", node=SlurmOptions(_target_=f"{PLUGINS}.SlurmLauncher"))
    store.store(group="hydra/launcher", name="plan", node=PlanOptions(_target_=f"{PLUGINS}.PlanLauncher"))
