"""`evaluation.features=classifier` of a store that has none yet: made before anything starts, by a process of its own.

Launchers need no torch so, and what was made is there for all jobs. Several processes of one command each start one, of
which the first makes it and the others wait.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.features.classifier_files import find_classifier
from fcdm.runs.processes import is_first_process, own_session

OF_PEERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE")
"""What makes a process one of several (`fcdm.runs.peers`): this one is alone."""


def make_classifiers(configs: Iterable[Config]) -> None:
    """Make those that the configurations (checksums filled in) name and that are not there. Raises UserError."""
    asked = {
        (config.data.path, config.data.checksum)
        for config in configs
        if config.evaluation.features == "classifier"
        and config.evaluation.samples
        and config.data.path
        and config.data.checksum
    }
    for path, checksum in sorted(asked):
        if find_classifier(Path(path), checksum) is None:
            _make(path)


def _make(path: str) -> None:
    """By `python -m fcdm.prepare features`, which writes a refusal to a file. Raises UserError."""
    if is_first_process():
        print(
            f"evaluation.features=classifier: {path} has none yet, so that it is made now, once "
            f"(python -m fcdm.prepare features data.path={path}) ...",
            file=sys.stderr,
            flush=True,
        )
    environment = {key: value for key, value in os.environ.items() if key not in OF_PEERS}
    environment = {key: value for key, value in environment.items() if not key.startswith("SLURM_")}
    safe_path = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *safe_path, "-m", "fcdm.prepare", "features", f"data.path={path}"]
    shown = None if is_first_process() else subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="fcdm-") as folder:
        refusal = Path(folder) / "refusal"
        command.append(f"refusal={refusal}")
        with own_session(command, signal.SIGTERM, environment, stdout=shown, stderr=shown) as process:
            code = process.wait()
        if code:
            why = refusal.read_text() if refusal.exists() else f"making its classifier ended with code {code}"
            raise UserError(why if refusal.exists() else f"{path}: {why}")
