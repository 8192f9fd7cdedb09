"""One tidy table of a study as CSV: `python -m analysis.table [--runs DIR] [--study NAME]`."""

from __future__ import annotations

import argparse
import sys

from fcdm.analysis.data.tidy_table import INTERNAL, tidy_table
from fcdm.credentials import of_command_line
from fcdm.errors import in_one_line


@in_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.table", description="The tidy table of a study, as CSV.")
    parser.add_argument(
        "--runs", type=of_command_line, default="runs", help="folder of the runs, or MLflow URI (default: runs)"
    )
    parser.add_argument("--study", help="only this study's runs and budgets")
    parser.add_argument("--protocol", metavar="ID", help="the protocol, where runs were evaluated by several")
    options = parser.parse_args(arguments)
    table = tidy_table(options.runs, options.study, options.protocol)
    for line in [*table.attrs["left_out"], *table.attrs["missing"]]:
        print(line, file=sys.stderr)
    table.drop(columns=list(INTERNAL)).to_csv(sys.stdout, index=False)
