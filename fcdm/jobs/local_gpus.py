"""The GPUs of this machine, by the names that CUDA_VISIBLE_DEVICES takes, found without torch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

ASK_SECONDS = 60


def local_gpus(machine: Callable[[], list[str]] | None = None) -> list[str]:
    """A name for each GPU that a process started here may use; none where torch would see none.

    An inherited CUDA_VISIBLE_DEVICES is kept to, its names as they are: numbers, `GPU-...`, `MIG-...`. `machine`: the
    names of all there are (None: this machine's).
    """
    names = (machine or machine_gpus)()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not names or given is None:
        return names
    visible: list[str] = []
    for name in (part.strip() for part in given.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name):
            break  # as CUDA does: what follows such a name (-1, NoDevFiles, nothing) is not seen
        visible.append(name)
    return list(dict.fromkeys(visible))


def machine_gpus() -> list[str]:
    """All NVIDIA GPUs, or their MIG instances, if this torch is not one for CPUs only."""
    if metadata.version("torch").endswith("+cpu"):
        return []
    return _listed() or [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _listed() -> list[str]:
    """What `nvidia-smi -L` names; a GPU that is cut up is its instances. Empty where there is no answer.

    By UUID: its numbers are in the order of the bus, CUDA's are the fastest first.
    """
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found: list[list[str]] = []
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        if gpu := re.match(r"GPU \d+:.*\(UUID: (GPU-[^)]+)\)", line):
            found.append([gpu[1]])
        elif (instance := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line)) and found:
            found[-1].append(instance[1])
    return [name for gpu, *instances in found for name in instances or [gpu]]
