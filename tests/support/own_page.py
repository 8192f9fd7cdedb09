"""docs/bring_your_own.md as files and commands: what its readers type is what the tests run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fcdm.runs.kept_source import source_of
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "bring_your_own.md"
TEXT = PAGE.read_text()
FILES = dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
"""Path -> contents, of all that the page has its reader write."""
MODULE = FILES["my_unet.py"]


def commands(section: str) -> list[list[str]]:
    """The words of each command below a heading, up to the next of its kind."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def write_page(folder: Path) -> None:
    """The page's files."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@contextmanager
def imports_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory to import users' code from, and nothing of what others imported or counted."""
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source_of.cache_clear()
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
