"""One self-contained page about a study: `python -m analysis.report STUDY [--runs DIR] [--out FILE] [--mlflow [URI]]`.

The question and what was found come first. Each protocol has a part of its own: figures, claims, FIDs, fits, and folded
how it evaluates. Then come cost, runs with their states (folded too: they may be a thousand) and all that is needed to
repeat it. Numbers of different protocols never share a figure or a claim, and a table only where it compares them by
name (ratios at other sampling steps, at the best guidance). Beside the page stand the tables as LaTeX.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from fcdm.atomic import file_errors

mpl.use("Agg")

from fcdm.analysis.data.diverged_runs import diverged_lines
from fcdm.analysis.data.one_protocol import protocol_differences
from fcdm.analysis.data.other_protocols import spaces_beside
from fcdm.analysis.law_options import add_law_options, law_settings
from fcdm.analysis.reporting.cell_tables import CellTable
from fcdm.analysis.reporting.claim_tables import Split, findings
from fcdm.analysis.reporting.cooldown_table import cooldown_tables
from fcdm.analysis.reporting.cost_table import cost_table, devices_text
from fcdm.analysis.reporting.forecast_section import forecast_section
from fcdm.analysis.reporting.html import HTML, element, joined
from fcdm.analysis.reporting.latex import latex_table
from fcdm.analysis.reporting.page import (
    anchor,
    bullets,
    code,
    configurations,
    cost_section,
    details,
    html_table,
    lead,
    page,
    protocol_section,
    runs_section,
)
from fcdm.analysis.reporting.report_figures import figures, guidance
from fcdm.analysis.reporting.reproduce import repeat_section
from fcdm.analysis.reporting.result_tables import fit_tables, measured, protocol_rows, protocol_sentence, results_table
from fcdm.analysis.reporting.study_facts import ProtocolResults, StudyFacts, study_facts
from fcdm.analysis.stats.metric_laws import LawSettings
from fcdm.analysis.stats.pair_patterns import PairOfPatterns, add_pairs
from fcdm.atomic import write_atomic
from fcdm.credentials import of_command_line
from fcdm.errors import in_one_line
from fcdm.jobstatus.status_table import summary
from fcdm.paths import home_expanded, place
from fcdm.runs.revision import code_revision
from fcdm.tracking.mlflow_store import Store, store_lock

STUDY = "fcdm.study"
PAGE = "report.html"


@dataclasses.dataclass(frozen=True)
class Report:
    """A page and the tables that stand beside it."""

    study: str
    html: str
    tables: tuple[CellTable, ...]
    told: tuple[str, ...]
    """What a terminal shows of it."""


def make_report(
    facts: StudyFacts,
    now: float | None = None,
    pairs: Sequence[PairOfPatterns] | None = None,
    laws: LawSettings | None = None,
) -> Report:
    """The report of a study as it stands; what is missing is said in it.

    `pairs`: what the claims compare, as of `comparisons`. Raises UserError where one of them means none or several.
    `laws`: how the joint laws are fitted, where the study may have some.
    """
    tables: list[CellTable] = []
    sections: list[tuple[str, HTML]] = []
    told = [f"{facts.study.name}: {summary(facts.rows)}"]
    headline: list[str] = []
    for results in facts.by_protocol:
        section, found, lines = _evaluated(results, pairs)
        headline = headline or lines
        sections.append((_name(facts, results), section))
        if results is facts.by_protocol[0] and len(facts.by_protocol) > 1:
            sections.append(("Protocols", _differences(facts)))
        tables += found
        told += lines
    traded = guidance(facts.guidance)
    if traded is not None:
        sections.append(("Guidance", traded))
    cooled = cooldown_tables(facts.views, facts.by_protocol)
    if cooled:
        sections.append(("Cooldown", joined(html_table(table) for table in cooled)))
    tables += cooled
    foretold = forecast_section(facts, laws)
    if foretold is not None:
        sections.append(("Forecasts", foretold[0]))
        tables += foretold[1]
        told += foretold[2]
    models = {run: facts.model(run) for run in facts.runs}
    costs, total = cost_table(facts.views.values(), models)
    tables.append(costs)
    sections.append(("Cost", cost_section(costs, total)))
    sections.append(("Runs", runs_section(facts)))
    sections.append(("How to repeat it", repeat_section(facts)))
    sections.append(("Configurations", configurations(facts)))
    latex = [details(table.caption, code(latex_table(table))) for table in tables]
    sections.append(("Tables as LaTeX", joined([element("p", "For \\usepackage{booktabs}."), latex])))
    told.append(f"cost so far: {devices_text(total)}, {total.train_flops / 1e15:.3g} PFLOPs of training")
    moment = time.time() if now is None else now
    html = page(f"Study {facts.study.name}", sections, lead(facts, headline, code_revision(), moment))
    return Report(facts.study.name, html, tuple(tables), tuple(told))


def _differences(facts: StudyFacts) -> HTML:
    known = {results.id: results.settings for results in facts.by_protocol if results.settings}
    parts = [
        element(
            "p",
            f"The study has {len(facts.by_protocol)} protocols, whose numbers cannot be compared. Each has a part "
            "of its own: the headline above, the others below.",
        )
    ]
    if len(known) > 1:
        parts.append(element("p", f"What differs: {protocol_differences(known)}."))
    links = [element("li", element("a", one.id, href=f"#{anchor(_name(facts, one))}")) for one in facts.by_protocol]
    return joined([*parts, element("ul", links)])


def _name(facts: StudyFacts, results: ProtocolResults) -> str:
    headline = " (headline)" if results is facts.by_protocol[0] and len(facts.by_protocol) > 1 else ""
    return f"Evaluated by {results.id}{headline}"


def _evaluated(
    results: ProtocolResults, pairs: Sequence[PairOfPatterns] | None
) -> tuple[HTML, list[CellTable], list[str]]:
    """(the part of one protocol, its tables, what a terminal shows of it)."""
    how = details("How it evaluates", protocol_section(results, protocol_rows(results.settings)), class_="printed")
    if results.table is None:
        line = f"nothing is evaluated by {results.id} yet ({results.asked} asked)"
        return joined([element("p", f"So far {line}.", class_="warning"), how]), [], [line]
    note = protocol_sentence(results.id, results.settings)
    tables = []
    for metric in measured(results.table):
        found = results_table(results.table, metric, results.id)
        tables.append(dataclasses.replace(found, notes=(*found.notes, note)))
    said = Split.of(results.table, results.others, pairs)
    claimed = said.tables(results.id)
    first, *rest = [dataclasses.replace(table, notes=table.notes[:-1]) for table in tables]
    parts = [
        element("h3", "Figures"),
        element("div", figures(results.table, pairs, spaces_beside(results.others)), class_="figures"),
    ]
    parts += [element("h3", "Claims"), html_table(claimed[0])]
    at = 2 if said.elsewhere else 1  # what the study may be about is not folded
    parts += [html_table(found) for found in claimed[1:at]]
    parts += [details(found.caption, html_table(found, caption=False)) for found in claimed[at:]]
    parts += [element("h3", "Results"), html_table(first)]
    parts += [details("Other measures", [html_table(table) for table in rest])] if rest else []
    if results.left_out:
        parts += [element("p", "In the table and nowhere else:", class_="warning"), bullets(results.left_out)]
    lost = diverged_lines(results.table)
    parts += [element("p", line, class_="warning") for line in lost]
    tables += [dataclasses.replace(found, notes=(*found.notes, note)) for found in claimed]
    laws = fit_tables(results.table, results.id)
    tables += laws
    parts += [element("h3", "Fits"), *(details(law.caption, html_table(law), class_="printed") for law in laws)]
    parts += [element("h3", "Protocol"), how]
    elsewhere = [f"{one.claim}: {one.runs.text}" for one in said.elsewhere]
    return joined(parts), tables, [*findings(said.ours), *elsewhere, *results.left_out, *lost]


def write_report(report: Report, out: Path) -> list[Path]:
    """Writes the page, and its LaTeX tables beside it (PAGE-TABLE.tex); returns them. Raises UserError."""
    with file_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    written = {out: report.html}
    written |= {out.with_name(f"{out.stem}-{table.name}.tex"): latex_table(table) for table in report.tables}
    for path, text in written.items():
        write_atomic(path, text)
    return list(written)


def log_report(study: str, html: str, summary: str, runs_dir: Path, uri: str | None = None) -> str:
    """Puts the page into MLflow in place of the last one; returns a line for people.

    A study has one MLflow run of its own beside those of its trainings, in the same experiment, found by the tag
    `fcdm.study`. Its artifact is the page (the LaTeX tables are in it), its description what a terminal shows.

    Raises UserError where the store does not answer, StoreBusy where another process forwards to it for ten minutes.
    """
    store = Store(runs_dir, uri)
    again = "The page on disk is whole; say --mlflow again when it answers"
    with store_lock(runs_dir, store.uri, 600.0), store.reaching("the report", again):
        run = store.find(STUDY, [study]).get(study)
        if run is None or run.info.lifecycle_stage == "deleted":
            run = store.create(f"study {study}", time.time(), {STUDY: study, "studies": study})
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / PAGE
            write_atomic(page, html)
            store.send_file(run.info.run_id, page)
        store.describe(run.info.run_id, tags={"mlflow.note.content": summary})
        store.set_status(run, "FINISHED", time.time())
    return f"in MLflow at {store.uri}: run 'study {study}', artifact {PAGE}"


@in_one_line("analysis.report")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="One page about a study.")
    parser.add_argument("study", help="its name: a file of runs/studies/")
    parser.add_argument(
        "--runs", type=home_expanded, default="runs", metavar="FOLDER", help="folder of the runs (default: runs)"
    )
    parser.add_argument("--out", type=place, metavar="FILE", help="the page (default: reports/STUDY.html)")
    parser.add_argument("--question", metavar="TEXT", help="what the study asks (default: its sweep file's comment)")
    parser.add_argument(
        "--mlflow",
        nargs="?",
        const="",
        type=of_command_line,
        metavar="URI",
        help="put the page into MLflow too, in place of the last one (default URI: as in fcdm.sync)",
    )
    add_pairs(parser)
    add_law_options(parser)
    options = parser.parse_args(arguments)
    out = options.out or Path("reports") / f"{options.study}.html"
    facts = study_facts(options.runs, options.study, options.question)
    report = make_report(facts, pairs=options.pair, laws=law_settings(options, options.runs))
    written = write_report(report, out)
    for line in report.told:
        print(line)
    print(f"\n{written[0]}" + (f", and {len(written) - 1} tables as {out.stem}-*.tex beside it" if written[1:] else ""))
    if options.mlflow is not None:
        said = "\n\n".join(report.told)
        print(log_report(report.study, report.html, said, Path(options.runs), options.mlflow or None))
