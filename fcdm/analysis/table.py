"""One tidy table of a study as CSV: `python -m analysis.table [--runs DIR] [--study NAME]`."""

from __future__ import annotations

import argparse
import sys

from fcdm.analysis.data.tidy_table import INTERNAL, tidy_table
from fcdm.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Print the table as CSV."""
    parser = argparse.ArgumentParser(prog="python -m analysis.table", description="The tidy table of a study, as CSV.")
    parser.add_argument("--runs", default="runs", help="folder of the runs, or MLflow URI (default: runs)")
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    options = parser.parse_args(arguments)
    try:
        table = tidy_table(options.runs, options.study, options.protocol)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    for line in [*table.attrs["left_out"], *table.attrs["missing"]]:
        print(line, file=sys.stderr)
    table.drop(columns=list(INTERNAL)).to_csv(sys.stdout, index=False)
    return 0
