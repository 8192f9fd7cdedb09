"""The part "Forecasts" of a report: joint laws, what was held out of them, the scored ledger and the checklist."""

from __future__ import annotations

from collections.abc import Sequence

from fcdm.analysis.reporting.cell_tables import CellTable
from fcdm.analysis.reporting.forecast_tables import checklist, coverage_cells, held_out_cells, ledger_cells
from fcdm.analysis.reporting.html import HTML, element, joined
from fcdm.analysis.reporting.page import bullets, details, html_table
from fcdm.analysis.reporting.report_figures import law_figures
from fcdm.analysis.reporting.study_facts import StudyFacts
from fcdm.analysis.stats.metric_laws import LawSettings, MetricLaws, laws_by_metric, through_loss_lines
from fcdm.forecasts.ledger_table import summary_words


def forecast_section(
    facts: StudyFacts, settings: LawSettings | None = None
) -> tuple[HTML, list[CellTable], list[str]] | None:
    """(the part, its tables, what a terminal shows of it) of the headline's protocol; None where there is nothing to
    say: no family of two sizes, and no forecast."""
    headline = facts.by_protocol[0].table if facts.by_protocol else None
    found = [] if headline is None else laws_by_metric(headline, facts.losses, settings)
    laws = [one for one in found if one.told]
    reasons = [line for one in found for line in one.reasons]
    if not (laws or reasons or facts.forecasts or facts.forecasts_problem):
        return None
    parts: list[HTML] = []
    tables: list[CellTable] = []
    told = [line for one in laws for line in one.lines(held_out=False)]
    through = through_loss_lines(found)
    if laws:
        parts += [element("h3", "Joint laws of size and data"), bullets([*told, *through])]
    if reasons:
        parts.append(details("Where there is no joint law", bullets(reasons)))
    for one in laws:
        tables += _of_law(one)
    parts += [html_table(table) for table in tables if table.name.startswith("held-out")]
    pictures = law_figures(found, facts.forecasts)
    if pictures:
        parts += [element("h3", "Figures of laws and forecasts"), element("div", pictures, class_="figures")]
    lines: list[str] = []
    if facts.forecasts:
        of_ledger = (coverage_cells(facts.forecasts), ledger_cells(facts.forecasts))
        tables += of_ledger
        came_out, each = of_ledger
        parts += [element("h3", "The ledger"), html_table(came_out)]
        parts.append(details(each.caption, html_table(each, caption=False)))  # wider than paper
        lines = summary_words(facts.forecasts)
    if facts.forecasts_problem:
        parts.append(element("p", f"The ledger of forecasts: {facts.forecasts_problem}.", class_="warning"))
    lists = [table for table in tables if table.name.startswith("checklist")]
    parts += [element("h3", "Checklist"), *map(html_table, lists)] if lists else []
    return joined(parts), tables, [*told, *through, *lines]


def _of_law(laws: MetricLaws) -> Sequence[CellTable]:
    held = [held_out_cells(laws)] if any(made.validation.held_out for made in laws.told.values()) else []
    return [*held, checklist(laws)]
