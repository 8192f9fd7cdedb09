"""Stores as `fcdm.prepare` leaves them, and a `fcdm.prepare` that dies on the way."""

from __future__ import annotations

from pathlib import Path

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
"""`python -c KILLED <fsync, or a function of fcdm.data.shards> <n> <words>`: dies by SIGKILL at the n-th call."""


def contents(store: Path) -> dict[str, bytes]:
    """Every file but made.json, which has the time in it."""
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "made.json")
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}
