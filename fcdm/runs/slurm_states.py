"""SLURM's job states, in three sets. Here, below `fcdm.slurm`, since who may write in a run is decided by them.

A state that none of them names (of a later SLURM) says nothing: then nobody can tell whether the job lives.
"""

from __future__ import annotations

RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"})
"""The job's process may live."""
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""It will run; whatever process an earlier start of it had is gone."""
HELD = frozenset({"REQUEUE_HOLD", "SPECIAL_EXIT"})
"""Those of WAITING that wait for a person."""
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})
ENDED |= {"BOOT_FAIL", "DEADLINE", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"}


def state_name(text: str) -> str:
    """The state in what squeue and sacct print: `CANCELLED by 1000` -> `CANCELLED`, `CANCELLED+` too."""
    return text.strip().partition(" ")[0].rstrip("+")
