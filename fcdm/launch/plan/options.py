"""The options of `hydra/launcher=plan`."""

from __future__ import annotations

from dataclasses import dataclass

from fcdm.launch.slurm.options import SlurmOptions

ROWS = ("auto", "all", "groups")


@dataclass
class PlanOptions(SlurmOptions):
    """Every option of `submitit_slurm`, so that cluster profiles fit (`+slurm=h100x4`), and how to print."""

    json: bool = False
    """Print JSON for programs instead of tables."""
    rows: str = "auto"
    """`all`: a row for each run; `groups`: one for each model and resolution; `auto`: groups beyond 60 runs."""
