"""`python -m fcdm.sync [runs]`: forward the records below a folder to MLflow, once or while a process lives.

The same again adds nothing. Nothing is ever read back from MLflow into a run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fcdm.credentials import of_command_line
from fcdm.errors import UserError
from fcdm.paths import place
from fcdm.redact import redacted

if TYPE_CHECKING:
    from fcdm.tracking.forward import Forwarder

LAST_PASS_SECONDS = 30.0
"""From the order to stop, or the parent's end, until a follower is gone for certain."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fcdm.sync", description="Forward records to MLflow, one way.")
    parser.add_argument("runs_dir", nargs="?", default="runs", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--uri", type=of_command_line, help="MLflow tracking URI (default: $MLFLOW_TRACKING_URI, else <runs>/mlflow.db)"
    )
    parser.add_argument("--follow", action="store_true", help="go on until --parent ends or SIGTERM comes")
    parser.add_argument("--parent", type=int, metavar="PID", help="with --follow: stop after this process has ended")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="with --follow: interval (default: 10)")
    parser.add_argument("--run", metavar="NAME", help="only the run whose folder has this name")
    options = parser.parse_args(arguments)
    runs_dir = place(options.runs_dir.removeprefix("runs_dir="))
    if options.follow:
        every = 10.0 if options.every is None else options.every
        try:
            return follow(runs_dir, options.uri, options.parent, every, options.run)
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
    if options.parent is not None or options.every is not None:
        print("fcdm.sync: --parent and --every mean nothing without --follow", file=sys.stderr)
        return 1
    return once(runs_dir, options.uri, options.run)


def once(runs_dir: Path, uri: str | None = None, only: str | None = None) -> int:
    """Forward everything that stands now; exit code 1 where something could not be."""
    from fcdm.tracking.forward import Forwarder

    try:
        forwarder = Forwarder(runs_dir, uri, only)
        done = forwarder.forward()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in done.problems:
        print(problem, file=sys.stderr)
    print(f"{done.runs} runs in {forwarder.store.uri}: {done.points} new points")
    return 1 if done.problems else 0


def follow(
    runs_dir: Path, uri: str | None = None, parent: int | None = None, every: float = 10.0, only: str | None = None
) -> int:
    """Forward what is new at intervals until `parent` is gone or SIGTERM or SIGINT comes, then once more.

    Never dies of a store that is down: it says so once, keeps trying, and says when the store is back.
    After the order to stop it takes one last pass and ends within LAST_PASS_SECONDS, finished or not.
    """
    stop = threading.Event()
    forwarder: Forwarder | None = None

    def order_to_stop(number: int | None = None, frame: FrameType | None = None) -> None:
        if stop.is_set():
            return
        stop.set()
        if forwarder is not None:
            forwarder.deadline = time.monotonic() + LAST_PASS_SECONDS / 2  # a call under way takes up to 10 s more
        # A daemon thread, so that a call that hangs cannot keep this process.
        guard = threading.Timer(LAST_PASS_SECONDS, give_up)
        guard.daemon = True
        guard.start()

    def give_up() -> None:
        _say(f"MLflow does not take the last records within {LAST_PASS_SECONDS:g} s")
        os._exit(1)

    # First of all: a command that had nothing to do orders its follower to stop while it still starts.
    signal.signal(signal.SIGTERM, order_to_stop)
    signal.signal(signal.SIGINT, order_to_stop)

    os.nice(10)  # on a laptop it shares the cores with the training

    from fcdm.runs.processes import process_alive, start_time
    from fcdm.tracking.forward import Forwarder
    from fcdm.tracking.mlflow_store import StoreBusy

    born = start_time(parent) if parent is not None else None
    forwarder = Forwarder(runs_dir, uri, only)
    if stop.is_set():
        forwarder.deadline = time.monotonic() + LAST_PASS_SECONDS / 2

    told: set[str] = set()
    down = False
    while True:
        last = stop.is_set()
        behind = False
        problems: list[str] = []
        try:
            wait = LAST_PASS_SECONDS / 3 if last else 0.0
            done = forwarder.forward(changed_only=not last, wait=wait)
            problems, behind = done.problems, done.cut
            if behind and last:
                _say(f"MLflow at {forwarder.store.uri} is too slow: the time for the last records was up")
            if down:
                _say(f"MLflow at {forwarder.store.uri} takes the records again")
            down = False
        except StoreBusy as error:
            behind = True  # the other one forwards the same records; look again later
            if last:
                _say(str(error))
        except Exception as error:  # whatever it is, training goes on and so does the follower
            if not down:
                text = str(error) if isinstance(error, UserError) else redacted(f"{type(error).__name__}: {error}")
                _say(text if last else f"{text} (still trying)")
            down = True
        for problem in problems:
            if problem not in told:
                _say(problem)
                told.add(problem)
        if last:
            return 1 if down or behind else 0
        wake = time.monotonic() + every
        while not stop.is_set() and time.monotonic() < wake:
            if parent is not None and not (born is not None and process_alive(parent, born)):
                order_to_stop()
            stop.wait(min(0.5, every))


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever started this may have closed its end
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
