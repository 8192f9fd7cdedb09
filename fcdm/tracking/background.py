"""The one process of a command that forwards records to MLflow. Training never waits for it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.credentials import taken_out
from fcdm.redact import redacted_words
from fcdm.runs.processes import is_first_process

FLUSH_S = 45.0


@contextlib.contextmanager
def forwarding(config: Config, only: str | None = None) -> Iterator[None]:
    """While the block runs, records go to MLflow; at its end the rest is sent, for a bounded time.

    `only`: the name of the one run to forward, where every run has a process of its own.
    """
    if config.mlflow_uri == "off" or not is_first_process():
        yield
        return
    runs_dir = Path(config.runs_dir)
    once = [sys.executable, "-m", "fcdm.sync", f"runs_dir={runs_dir}"]
    if only is not None:
        once += ["--run", only]
    if config.mlflow_uri is not None:
        once += ["--uri", taken_out(config.mlflow_uri)]  # of a job file of a version before, with its password
    log_file = runs_dir / "mlflow.log"
    later = "python -m " + shlex.join(redacted_words(once[2:]))
    try:
        with open(log_file, "ab") as log:
            process = subprocess.Popen(
                [*once, "--follow", "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        print(f"records are not forwarded to MLflow ({log_file}: {error.strerror}); later: {later}")
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        try:
            code = process.wait(FLUSH_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = 1
        if code == -signal.SIGTERM:  # a short command: it was still starting
            code = _forward(once)
        if code != 0:
            print(f"MLflow is not up to date ({log_file} says why); later: {later}")


def _forward(command: list[str]) -> int:
    """One pass of the forwarder; its exit code, 1 where it takes too long."""
    try:
        return subprocess.run(command, capture_output=True, timeout=FLUSH_S).returncode
    except subprocess.TimeoutExpired:
        return 1
