"""The ranks of a job under `srun`: torchrun's variables from SLURM's."""

from __future__ import annotations

import os
import socket
import zlib

from fcdm.errors import UserError
from fcdm.slurm.client import shown

PORTS = range(12_000, 32_000)
"""Below Linux's ephemeral ports (32768 up), one of which could be in use for anything."""


def export_ranks() -> None:
    """Where this is one of several tasks of a step, set RANK, WORLD_SIZE, LOCAL_RANK, GROUP_WORLD_SIZE (the number of
    nodes), MASTER_ADDR and MASTER_PORT."""
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or int(os.environ.get("SLURM_NTASKS") or 1) == 1:
        return
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"  # else submitit takes this for a job of another kind
    try:
        import submitit
    except ImportError:
        raise UserError("several processes under srun need submitit: pip install submitit") from None
    job = submitit.JobEnvironment()
    # A job that starts again gets another port: the old one may still be in TIME_WAIT.
    start = f"{job.job_id} {os.environ.get('SLURM_RESTART_COUNT', 0)}"
    os.environ.update(
        RANK=str(job.global_rank),
        WORLD_SIZE=str(job.num_tasks),
        LOCAL_RANK=str(job.local_rank),
        GROUP_WORLD_SIZE=str(job.num_nodes),
        MASTER_ADDR=address_of(job.hostnames[0]),
        MASTER_PORT=str(PORTS[zlib.crc32(start.encode()) % len(PORTS)]),
    )


def address_of(node: str) -> str:
    """Where the others reach this node: its name if that resolves, else the address that SLURM has of it.

    A node's name in SLURM need not be known to DNS; then submitit's MASTER_ADDR, the first node's name, fails.
    """
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    return shown("node", node, "NodeAddr") or node
