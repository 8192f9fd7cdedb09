"""Signals that ask a job to stop: honoured at the next training step, or at the next network call of sampling."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from fcdm.errors import UserError
from fcdm.runs.peers import peers

WATCHED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Stopped(SystemExit):
    """Raised once everything is on disk, after a signal asked for it; ends the process with 128 + signal.

    A SystemExit, so that no `except Exception` between here and the shell takes it for a failure of one job
    and goes on to the next.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


class Interrupted(Exception):
    """A signal came to this rank in the middle of something long: it is dropped, and all ranks stop where they next
    agree (`fcdm.engine.worker.Worker.stop_together`)."""


class StopSignal:
    """Context manager that notes signals; a second Ctrl-C stops at once."""

    def __init__(self, told: str = "saving and stopping at the next step") -> None:
        """told: what comes of a signal, for a person."""
        self.told = told
        self.signum: int | None = None
        """The last signal: a SIGTERM that follows a user's signal means that nobody wants this job any more."""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in WATCHED:
            self._previous[number] = signal.signal(number, self._note)
        # A job's batch script holds them back until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        print(
            f"{signal.Signals(signum).name}: {self.told}",
            file=sys.stderr,
            flush=True,
        )


def end_process(main: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its code.

    One of several ranks ends at once, without tearing down what torch holds: gloo's threads can abort the process
    then ("terminate called without an active exception", seen with torch 2.13), and a job that has done all would fail.
    """
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    try:
        several = peers().count > 1
    except UserError:  # which the program has told
        several = False
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
