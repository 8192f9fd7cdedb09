"""The process that makes a store's classifier ends with the command that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.jobs.store_classifier import _make
from fcdm.runs.processes import start_time
from tests.support.commands import environment, kill_and_await
from tests.support.shape_store import tiny_pixels

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


def test_a_command_that_is_killed_leaves_no_maker(tmp_path: Path) -> None:
    """Of SIGKILL the command itself hears nothing; the real maker watches it."""
    store = tiny_pixels(tmp_path / "store")
    code = f"from fcdm.jobs.store_classifier import _make; _make({str(store)!r})"
    with subprocess.Popen([sys.executable, "-c", code], env=environment()) as command:
        while not (store / "features" / ".classifier").exists():
            assert command.poll() is None
            time.sleep(0.02)
        kill_and_await(command)  # it would train for longer
    assert not (store / "features" / "classifier.json").exists()


def test_what_the_maker_refuses_is_the_commands_own_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = tiny_pixels(tmp_path / "few", aside=30)
    with pytest.raises(UserError, match="the store has 30 images set aside and 60 held out, and a classifier wants"):
        _make(str(store))
    assert "a classifier wants" not in capfd.readouterr().err, "it is told once"
