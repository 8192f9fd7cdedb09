"""Which code made this: the git revision of the checkout that fcdm runs from, or that its snapshot was taken of."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

REVISION_FILE = "REVISION"
"""In a snapshot of the code: the revision it was taken at."""


@cache
def code_revision() -> str:
    """The short git revision, with + where tracked files were changed; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        try:
            return (root / REVISION_FILE).read_text().strip()
        except OSError:
            return "unknown"
    git = ["git", "-C", str(root)]
    try:
        revision = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return (revision.stdout.strip() or "unknown") + ("+" if changes.stdout.strip() else "")
