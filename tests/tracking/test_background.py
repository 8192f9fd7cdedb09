"""The forwarder beside a job, as a real process: killed hard, stopped, before a server that never answers."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fcdm.config.schema import Config
from fcdm.tracking import background
from fcdm.tracking.background import SILENT_S, forwarding
from fcdm.tracking.forward import Forwarder
from fcdm.tracking.mlflow_store import BOUNDS, store_lock, store_uri
from tests.support.commands import composed
from tests.support.fake_runs import make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves its connections to the collector
]


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def config(runs: Path, uri: str | None = None) -> Config:
    made = composed("model=N")
    made.runs_dir, made.mlflow_uri = str(runs), uri
    return made


def wait_for(condition: Callable[[], object], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def forwarders(runs: Path) -> list[int]:
    """The pids of this process's followers of the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"runs_dir={runs}" in words and "--follow" in words and str(os.getpid()) in words:
            found.append(int(path.name))
    return found


def test_one_that_is_killed_is_started_again(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that is killed as the work ends is made up for."""
    monkeypatch.setattr(background, "SILENT_S", 1e6)  # however slow the machine is
    monkeypatch.setattr(background, "FLUSH_S", 1e6)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    make_run(tmp_path)
    with forwarding(config(tmp_path)):
        wait_for(lambda: forwarders(tmp_path))
        (first,) = forwarders(tmp_path)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: set(forwarders(tmp_path)) - {first})
        said = f"pid {first}, was killed by SIGKILL: it is started again"
        wait_for(lambda: said in (tmp_path / "mlflow.log").read_text())
        (second,) = set(forwarders(tmp_path)) - {first}
        os.kill(second, signal.SIGKILL)
    assert capsys.readouterr().out == ""
    again = Forwarder(tmp_path).forward()
    assert (again.runs, again.points) == (1, 0), "all of it is there"


def test_one_that_cannot_be_started_again_is_not_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LOOK_S", 0.01)
    monkeypatch.setattr(background, "MOST_LOOK_S", 0.01)
    forwarder = background._Forwarder([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    tries: list[object] = []

    def fails(command: object) -> None:
        tries.append(command)
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(forwarder, "_start", fails)
    forwarder.process.kill()
    wait_for(lambda: len(tries) > 1)
    assert forwarder.finish() == f"{tmp_path}/log: no more processes"
    assert (tmp_path / "log").read_text() == ""


def test_a_call_and_its_repetition_are_no_silence() -> None:
    assert (
        float(BOUNDS["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * (1 + int(BOUNDS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])) < SILENT_S
    )


def test_one_that_ends_by_itself_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would end again; and the log is said to tell why because it does."""
    make_run(tmp_path)
    with forwarding(config(tmp_path, "nonsense://nowhere")):
        wait_for(lambda: not forwarders(tmp_path) or "nonsense" in (tmp_path / "mlflow.log").read_text())
    assert f"MLflow is not up to date ({tmp_path}/mlflow.log says why); later:" in capsys.readouterr().out
    assert "nonsense" in (tmp_path / "mlflow.log").read_text()
    assert "started again" not in (tmp_path / "mlflow.log").read_text()


@pytest.mark.parametrize("hangs", ["server", "stopped"])
def test_one_that_hangs_holds_nobody_up(
    hangs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that accepts and never answers; and a forwarder that does not even run. The log is not said to tell."""
    make_run(tmp_path)
    monkeypatch.setattr(background, "SILENT_S", 2.0)
    monkeypatch.setattr(background, "FLUSH_S", 1e6)  # so that only its silence can end it
    with contextlib.ExitStack() as kept:
        silent = kept.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        with forwarding(config(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")):
            wait_for(lambda: forwarders(tmp_path))
            (pid,) = forwarders(tmp_path)
            if hangs == "server":
                kept.enter_context(silent.accept()[0])  # its first call: no answer follows, and no end
            else:
                os.kill(pid, signal.SIGSTOP)
    said = capsys.readouterr().out
    assert "MLflow is not up to date (its forwarder got no answer and did no work for 2 s)" in said
    assert "says why" not in said
    wait_for(lambda: not forwarders(tmp_path))


def test_a_follower_that_could_not_send_all_says_why(tmp_path: Path, empty_database: Path) -> None:
    """Here another holds the store."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    make_run(tmp_path)
    with store_lock(tmp_path, store_uri(tmp_path), 1):
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        words = [sys.executable, "-m", "fcdm.sync", str(tmp_path), "--follow", "--parent", str(gone.pid)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert done.stderr.count("another process is forwarding to") == 1
