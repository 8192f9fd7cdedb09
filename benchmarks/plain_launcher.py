"""A Hydra program whose jobs do nothing, on the stock submitit launcher: what `launcher.py` measures against.

Same configuration tree as fcdm.train, so that composing a job costs the same.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import DictConfig, OmegaConf

from fcdm.sweep.hydra_schema import register_schema

register_schema()
ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=SlurmQueueConf)


@hydra.main(config_path="pkg://fcdm.conf", config_name="train", version_base="1.3")
def nothing(config: DictConfig) -> None:
    """Read the configuration, as any job would, and find nothing to do."""
    OmegaConf.to_container(config, resolve=True)


if __name__ == "__main__":
    sys.exit(nothing())
