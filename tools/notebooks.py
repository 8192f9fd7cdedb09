"""Runs the notebooks of analysis/ in the project's environment: in place, or with --check in copies.

`--check` says where the text that a fresh run shows is not the text that is committed, and changes nothing.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VOLATILE = re.compile(r"0x[0-9a-f]+")
"""Addresses in memory. Nothing else may change from run to run."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as digits; default: all")
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    options = parser.parse_args()
    paths = sorted((ROOT / "analysis").glob("*.ipynb"))
    if unknown := set(options.names) - {path.stem for path in paths}:
        print(f"no notebook {', '.join(sorted(unknown))}; there: {', '.join(p.stem for p in paths)}", file=sys.stderr)
        return 1
    if options.check:
        for name in ("RUNS", "STUDY", "PROTOCOL"):  # what is committed is made of what is committed
            os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        # Nobody's own settings of Jupyter and IPython, and no file of theirs left behind.
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "JUPYTER_DATA_DIR"):
            os.environ[name] = scratch
        failed = [
            path for path in paths if not options.names or path.stem in options.names if not done(path, options.check)
        ]
    return 1 if failed else 0


def done(path: Path, check: bool) -> bool:
    """Runs one notebook; False where a cell fails, or where it shows other text than before."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    notebook: Any = nbformat.read(path, as_version=4)
    before = texts(notebook)
    print(f"{path.name} ...", flush=True)
    sockets = Config({"KernelManager": {"transport": "ipc"}})  # of this user alone: no port that others may read
    where = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources=where, config=sockets)
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{path.name}: {COLOURS.sub('', str(error)).strip()}", file=sys.stderr)
        return False
    notebook.metadata.pop("language_info", None)  # the version of Python that ran it
    if not check:
        nbformat.write(notebook, path)
        return True
    after = texts(notebook)
    if after == before:
        return True
    lines = difflib.unified_diff(before, after, "committed", "a fresh run", lineterm="", n=1)
    print("\n".join([f"{path.name}: run `make notebooks`", *lines]), file=sys.stderr)
    return False


def texts(notebook: Any) -> list[str]:
    """The lines of every text output, in order; pictures count by their words."""
    found = []
    for place, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            for text in (output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")):
                found += [f"[{place}] {VOLATILE.sub('0x', line)}" for line in str(text).splitlines()]
    return found


if __name__ == "__main__":
    sys.exit(main())
