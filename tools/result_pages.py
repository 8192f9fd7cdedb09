"""Writes the results in pages of docs/ anew, and their pictures, from the committed CSVs: result_pages.py [digits ...].

`--check` says whether the pages are current, and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fcdm.analysis.figures.draw_published_law import hold_out_figure
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.forecast_notebook import joint_results, scored_results
from fcdm.analysis.notebook import load_results
from fcdm.analysis.reporting.digits_results import digits_result
from fcdm.analysis.reporting.law_results import law_result
from fcdm.analysis.reporting.own_forecasts import OwnStudy, own_part
from fcdm.analysis.reporting.published_law_tables import CUTS, published_part
from fcdm.analysis.reporting.written_part import COMMAND, renewed
from fcdm.analysis.stats.metric_laws import MetricLaws
from fcdm.analysis.stats.published_law import fitted_without, sizes_at_one_budget

DOCS = Path(__file__).resolve().parent.parent / "docs"


def digits() -> str:
    return digits_result(load_results("digits"), load_results("digits_hyperparameters"))


LAW_STUDIES = {"fashion": "Fashion-MNIST", "digits_law": "digits"}
"""Studies of laws, each with a page of its name -> what that of forecasts calls it."""
LOSSES = {"fashion": "fashion_losses"}
"""Results with held-out losses at more budgets than a study's own."""


def of_laws(study: str) -> str:
    losses, table, tuning = map(load_results, (LOSSES.get(study, study), study, f"{study}_hyperparameters"))
    return law_result(losses, table, tuning, laws_of(study), scored_results(study))


@cache
def laws_of(study: str) -> list[MetricLaws]:
    return joint_results(study, losses=LOSSES.get(study), tuning=f"{study}_hyperparameters")


def own() -> str:
    return own_part([OwnStudy(name, laws_of(study), scored_results(study)) for study, name in LAW_STUDIES.items()])


def published_picture() -> Figure:
    table = sizes_at_one_budget()
    return hold_out_figure([fitted_without(table, largest) for largest in CUTS])[0]


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "digits": {"results": digits},
    **{study: {"results": partial(of_laws, study)} for study in LAW_STUDIES},
    "forecast": {"own": own, "published": published_part},
}
"""Page -> the parts of it that are written, and what makes each."""
PICTURES: dict[str, dict[str, Callable[[], Figure]]] = {"forecast": {"published_law": published_picture}}
"""Page -> its pictures in docs/images, and what draws each; drawn whenever the page is written."""
DOTS = 200
"""Per inch."""


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
    """Writes one page with its pictures; False where it is stale and only to be checked."""
    page = DOCS / f"{name}.md"
    text = made = page.read_text()
    for part, make in PAGES[name].items():
        made = renewed(made, part, make())
    pictures = {DOCS / "images" / f"{picture}.png": draw for picture, draw in PICTURES.get(name, {}).items()}
    if check and (made != text or not all(path.is_file() for path in pictures)):
        print(f"{page.name} is not what its results say: run {COMMAND}", file=sys.stderr)
        return False
    if not check:
        with plt.style.context(STYLE):
            for path, draw in pictures.items():
                figure = draw()
                figure.savefig(path, dpi=DOTS, metadata={"Software": None})
                plt.close(figure)
    if made == text:
        print(f"{page.name} is current")
        return True
    page.write_text(made)
    print(f"wrote {page.name}")
    return True


if __name__ == "__main__":
    sys.exit(main())
