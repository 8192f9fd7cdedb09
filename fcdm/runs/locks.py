"""A lock among processes of one machine, for short read-modify-write of small files."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fcdm.runs.atomic import describe_oserror


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` (made if missing). Released by the kernel however the process ends.

    Who writes in a run's folder is not decided by such a lock, which a network file system may lie about, but by
    `fcdm.runs.holder`. Raises UserError where the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 - an error of the block is not one of the lock
    except OSError as error:
        raise describe_oserror(error, path) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
