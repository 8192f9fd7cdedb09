"""docs/your_model.md as files: what its readers type is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "your_model.md"
TEXT = PAGE.read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


MODULE, YAML = block("python"), block("yaml")


def write_page(folder: Path) -> None:
    """The page's two files."""
    (folder / "my_unet.py").write_text(MODULE)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "my_unet.yaml").write_text(YAML)
