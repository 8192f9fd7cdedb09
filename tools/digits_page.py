"""Writes the results in docs/digits.md anew from analysis/results/digits.csv and digits_hyperparameters.csv.

`--check` says whether the page is current, and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fcdm.analysis.notebook import load_results
from fcdm.analysis.reporting.digits_results import renewed

PAGE = Path(__file__).resolve().parent.parent / "docs" / "digits.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, change nothing")
    options = parser.parse_args(arguments)
    text = PAGE.read_text()
    made = renewed(text, load_results("digits"), load_results("digits_hyperparameters"))
    if made == text:
        print(f"{PAGE.name} is current")
        return 0
    if options.check:
        print(f"{PAGE.name} is not what its results say: run python tools/digits_page.py", file=sys.stderr)
        return 1
    PAGE.write_text(made)
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
