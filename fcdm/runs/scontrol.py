"""What `scontrol show` says of one job or node, of this machine's cluster."""

from __future__ import annotations

import subprocess
from typing import Literal

from fcdm.errors import UserError


def describe(kind: Literal["job", "node"], name: str) -> dict[str, str]:
    """Its fields. Raises UserError with the reason where SLURM does not say."""
    words = ["scontrol", "-o", "show", kind, name]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(str(error)) from None
    if not (facts := fields_of(done.stdout)):
        raise UserError(" ".join(done.stderr.split()) or f"scontrol ended with {done.returncode}")
    return facts


def shown(kind: Literal["job", "node"], name: str, key: str) -> str:
    """One of these fields; "" where SLURM does not say."""
    try:
        return describe(kind, name).get(key, "")
    except UserError:
        return ""


def fields_of(line: str) -> dict[str, str]:
    """`A=1 B=x` -> {A: 1, B: x}."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
