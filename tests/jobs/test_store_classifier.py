"""The process that makes a store's classifier ends with the command that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcdm.runs.processes import start_time
from tests.support.commands import environment

COMMAND = "import sys; sys.executable = sys.argv[1]; from fcdm.jobs.store_classifier import _make; _make('store')"
MAKER = "#!/bin/sh\necho $$ > {folder}/new\nmv {folder}/new {folder}/pid\nexec sleep 60\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_command_ends_the_maker(tmp_path: Path, signum: int) -> None:
    maker = tmp_path / "maker"
    maker.write_text(MAKER.format(folder=tmp_path))
    maker.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(maker)], env=environment()) as command:
        while not (tmp_path / "pid").exists():
            assert command.poll() is None
            time.sleep(0.02)
        command.send_signal(signum)
        assert command.wait(60) == 128 + signum
    assert start_time(int((tmp_path / "pid").read_text())) is None
