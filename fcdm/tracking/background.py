"""The one process of a command that forwards records to MLflow. Training never waits for it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.credentials import taken_out
from fcdm.redact import redacted_words
from fcdm.runs.processes import cpu_time, is_first_process

FLUSH_S = 45.0
"""For the last records, while they go out."""
SILENT_S = 15.0
"""So long without any work it waits for something that hangs. Longer than one call to a server and its repetition take
(`BOUNDS` in mlflow_store.py): a busy one, as where many jobs end together, has its time, and the forwarder its say."""
LOOK_S, MOST_LOOK_S = 1.0, 60.0
"""Between two looks whether it lives; each time that it was killed, twice as long."""


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
        forwarder = _Forwarder(once, log_file)
    except OSError as error:
        print(f"records are not forwarded to MLflow ({log_file}: {error.strerror}); later: {later}")
        yield
        return
    try:
        yield
    finally:
        if why := forwarder.finish():
            print(f"MLflow is not up to date ({why}); later: {later}")


class _Forwarder:
    """A `fcdm.sync --follow` that is started again when something kills it."""

    def __init__(self, once: list[str], log_file: Path) -> None:
        """`once`: the command of a single pass. Raises OSError where the log cannot be written."""
        self.once, self.log_file = once, log_file
        self.follow = [*once, "--follow", "--parent", str(os.getpid())]
        self.process = self._start(self.follow)
        self._before = log_file.stat().st_size
        self._finishing = threading.Event()
        self._guard = threading.Thread(target=self._keep, name="forwarder", daemon=True)
        self._guard.start()

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.log_file, "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _keep(self) -> None:
        pause = LOOK_S
        while not self._finishing.wait(pause):
            code = self.process.poll()
            if code is None or code >= 0:  # one that ended by itself said why, and would again
                continue
            with contextlib.suppress(OSError):
                line = f"the forwarder, pid {self.process.pid}, was {_killed(code)}: it is started again\n"
                before = self.log_file.stat().st_size
                self.process = self._start(self.follow)
                with open(self.log_file, "a") as log:
                    log.write(line)
                self._before = before + len(line)
            pause = min(2 * pause, MOST_LOOK_S)

    def finish(self) -> str:
        """Send the rest; why MLflow is not up to date, "" where it is."""
        self._finishing.set()
        self._guard.join()
        self.process.terminate()
        code, why = _wait(self.process)
        if code is not None and code < 0:  # killed; or a short command's, which was still starting
            try:
                self.process = self._start(self.once)
            except OSError as error:
                return f"{self.log_file}: {error.strerror}"
            code, why = _wait(self.process)
        if code is None:
            return why
        if code < 0:
            return f"its forwarder was {_killed(code)}"
        return "" if code == 0 else f"{self.log_file} says why" if self._said() else f"its forwarder ended with {code}"

    def _said(self) -> bool:
        try:
            return self.log_file.stat().st_size > self._before
        except OSError:
            return False


def _wait(process: subprocess.Popen[bytes]) -> tuple[int | None, str]:
    """Its exit code; or None and why it was not waited for any longer.

    While it works it has its time. Where nothing runs for it, and it does not even ask to run, it hangs: on a server
    that takes a call and never answers, on a file system that is away, or because it was stopped.
    """
    began = moved = time.monotonic()
    seen: object = None
    while (code := process.poll()) is None:
        now, work = time.monotonic(), cpu_time(process.pid)
        if work is None or work.runnable or work != seen:
            seen, moved = work, now
        if now - moved > SILENT_S or now - began > FLUSH_S:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)  # not for long: in a file system that is away it cannot even die
            silent = f"its forwarder got no answer and did no work for {SILENT_S:g} s"
            return None, silent if now - began <= FLUSH_S else f"not done within {FLUSH_S:g} s"
        time.sleep(0.05)
    return code, ""


def _killed(code: int) -> str:
    number = -code
    return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"
