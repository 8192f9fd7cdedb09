"""What another user, who is not root and may not read everything, meets."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def in_public() -> Iterator[Path]:
    """A folder that other users may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(run: Callable[[], None]) -> None:
    """Root may read everything: not as root, then."""
    if os.geteuid():
        run()
        return
    os.seteuid(65534)
    try:
        run()
    finally:
        os.seteuid(0)
