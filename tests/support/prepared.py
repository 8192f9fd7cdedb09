"""What the tests of `python -m fcdm.prepare` ask of a store, of a message, and of a process that is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

KILLED = """
import os, signal, sys
import fcdm.data.shards as shards
from fcdm.prepare import main

where, count = sys.argv.pop(1), int(sys.argv.pop(1))
left = [count]

def kill_at(name):
    real = getattr(shards, name)
    def dies(*arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    setattr(shards, name, dies)

if where == "fsync":
    class Os:
        def __getattr__(self, name):
            return getattr(os, name)
        def fsync(self, descriptor):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    shards.os = Os()
else:
    kill_at(where)
main(sys.argv[1:])
"""
"""A command that is killed at its so many-th call: where, how often, the words of fcdm.prepare."""


def contents(store: Path) -> dict[str, bytes]:
    """Every file but made.json, which has the time in it."""
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "made.json")
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    return told
