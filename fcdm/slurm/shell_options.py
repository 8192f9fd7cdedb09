"""Options of sbatch that a user's shell sets (`export SBATCH_ACCOUNT=lab`).

sbatch would have them override what a batch script says. So they are taken for options, where nothing of ours says one,
and never handed on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fcdm.slurm.options import PARAMETERS, SlurmOptions

PASSED_ON = ("account", "partition", "qos", "constraint", "reservation")
"""Where jobs go and who pays: what people set for all that they submit."""


def with_shell(options: SlurmOptions, environment: Mapping[str, str]) -> tuple[SlurmOptions, list[str]]:
    """The options with what the shell says of PASSED_ON, outside of a job, and notes on what is taken and what is not.

    A job's own `resources.partition` and the like come before both.
    """
    said = {key: value for key, value in sorted(environment.items()) if key.startswith("SBATCH_") and value}
    inside = "SLURM_JOB_ID" in environment  # such variables may be those of the job that this shell is in
    taken: dict[str, str] = {}
    replaced = []
    changes: dict[str, Any] = {}
    for name in () if inside else PASSED_ON:
        key = f"SBATCH_{name.upper()}"
        if key not in said:
            continue
        additional = options.additional_parameters
        if (additional.get(name) if name not in PARAMETERS else getattr(options, name)) is not None:
            replaced.append(key)
            continue
        taken[key] = said[key]
        changes |= (
            {name: said[key]} if name in PARAMETERS else {"additional_parameters": {**additional, name: said[key]}}
        )
    notes = [
        f"{key}={value} of this shell is asked for, where resources says nothing else" for key, value in taken.items()
    ]
    left = [key for key in said if key not in taken and key not in replaced]
    left += [key for key in ("SLURM_CLUSTERS",) if environment.get(key) and not inside]
    for keys, why in (
        (replaced, "hydra.launcher says otherwise"),
        (left, "inside a SLURM job" if inside else "say hydra.launcher.* instead"),
    ):
        if keys:
            notes.append(f"{', '.join(keys)} of this shell {'has' if len(keys) == 1 else 'have'} no effect: {why}")
    return dataclasses.replace(options, **changes), notes
