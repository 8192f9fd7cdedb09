"""The sha256 of files: the one reader behind every id and every check of what was written."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fcdm.atomic import file_errors


def cache_folder() -> Path:
    """~/.cache/fcdm: what was fetched, or takes long to make again."""
    return Path.home() / ".cache" / "fcdm"


def file_sha256(path: Path) -> str:
    """Of the file's bytes, read now: 64 hex digits. Raises OSError, for callers with words of their own."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """The same, remembered in this process until the file's size or time changes. Raises UserError."""
    with file_errors(path, "reading"):
        status = path.stat()
        return _remembered(path, status.st_size, status.st_mtime_ns)


def has_sha256(path: Path, expected: str) -> bool:
    """Whether the file is there, can be read, and holds what is expected."""
    try:
        return file_sha256(path) == expected
    except OSError:
        return False


@cache
def _remembered(path: Path, size: int, modified: int) -> str:
    return file_sha256(path)
