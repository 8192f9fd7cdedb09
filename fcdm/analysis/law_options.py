"""The options of commands that fit joint laws: what is cut, and which study tuned the models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.paths import place

if TYPE_CHECKING:
    from fcdm.analysis.stats.metric_laws import LawSettings

OF_THE_FIT = ("tuning", "least_steps", "least_warmups")
"""What they are called in the parsed options."""


def add_law_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tuning",
        metavar="STUDY",
        help="the study that tuned these models, or the .csv of its table: no law of runs that are not as tuned",
    )
    parser.add_argument("--least-steps", type=int, metavar="N", help="points below stay out of the law (default: 1000)")
    parser.add_argument("--least-warmups", type=float, metavar="X", help="so do points below X warm-ups (default: 10)")


def law_settings(options: argparse.Namespace, source: Path | str) -> LawSettings:
    """As asked. `source`: where the runs are, of the tuning study too. Raises UserError: no such study, or table."""
    from fcdm.analysis.data.table_csv import table_in_csv
    from fcdm.analysis.data.tidy_table import tidy_table
    from fcdm.analysis.stats.metric_laws import LawSettings
    from fcdm.laws.cuts import Cuts

    asked = {"least_steps": options.least_steps, "least_warmups": options.least_warmups}
    cuts = Cuts(**{name: value for name, value in asked.items() if value is not None})
    if options.tuning is None:
        return LawSettings(cuts)
    if options.tuning.endswith(".csv"):
        path = place(options.tuning)
        return LawSettings.tuned_by(table_in_csv(path), path.stem, cuts)
    return LawSettings.tuned_by(tidy_table(source, options.tuning), options.tuning, cuts)
