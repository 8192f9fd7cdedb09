"""What all tests share: untimed property tests, and the command line in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.commands import Command, environment

pytest_plugins = [
    "tests.support.mlflow_server",
    "tests.support.guarded_server",
    "tests.support.full_disk",
    "tests.support.gpu",
    "tests.support.nobody",
]

# cuBLAS looks once, at the first product of the process, and `deterministic=true` of a later test needs it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# A shell's background job (`make test &`) has SIGINT ignored, its children would too, and tests send it to commands.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Never a timed test: these machines are shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def fcdm(tmp_path: Path) -> Command:
    """`fcdm("model=N", "steps=4", module="train")` runs `python -m fcdm.train model=N steps=4` in tmp_path."""

    def command(
        *arguments: str, module: str = "fcdm.train", timeout: float = 240, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=environment(**more),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return command
