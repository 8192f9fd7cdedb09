"""Install the browser in which the tests look at the report: Chromium, from the packages of Debian."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.apt import install


def missing() -> list[str]:
    return [] if shutil.which("chromium") else ["chromium"]


if __name__ == "__main__":
    sys.exit(install("chromium", missing, "about 110 MB to fetch, 350 MB on disk", "the tests look at reports with it"))
