"""Writes the results in pages of docs/ anew from the committed CSVs: `python tools/result_pages.py [digits ...]`.

`--check` says whether the pages are current, and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from fcdm.analysis.notebook import load_results
from fcdm.analysis.reporting.digits_results import digits_result
from fcdm.analysis.reporting.written_part import COMMAND, renewed

DOCS = Path(__file__).resolve().parent.parent / "docs"


def digits() -> str:
    return digits_result(load_results("digits"), load_results("digits_hyperparameters"))


PAGES: dict[str, dict[str, Callable[[], str]]] = {"digits": {"results": digits}}
"""Page -> the parts of it that are written, and what makes each."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PAGES)}; default: all")
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(PAGES):
        print(f"no page {', '.join(sorted(unknown))}; there: {', '.join(PAGES)}", file=sys.stderr)
        return 1
    stale = [name for name in options.names or PAGES if not written(name, options.check)]
    return 1 if stale else 0


def written(name: str, check: bool) -> bool:
    """Writes one page; False where it is stale and only to be checked."""
    page = DOCS / f"{name}.md"
    text = made = page.read_text()
    for part, make in PAGES[name].items():
        made = renewed(made, part, make())
    if made == text:
        print(f"{page.name} is current")
        return True
    if check:
        print(f"{page.name} is not what its results say: run {COMMAND}", file=sys.stderr)
        return False
    page.write_text(made)
    print(f"wrote {page.name}")
    return True


if __name__ == "__main__":
    sys.exit(main())
