"""The page: sections of a report as HTML, one function each."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import yaml

from fcdm.analysis.reporting.cell_tables import CellTable, Value
from fcdm.analysis.reporting.cost_table import MeasuredCost, devices_text
from fcdm.analysis.reporting.html import HTML, Content, element, joined
from fcdm.analysis.reporting.study_facts import ProtocolResults, StudyFacts, asked_text, state_text
from fcdm.features.distance_names import distance_name
from fcdm.formatting import plural
from fcdm.jobstatus.rows import DONE
from fcdm.jobstatus.status_table import summary
from fcdm.redact import redacted
from fcdm.runs.protocol import TRAINED_ONLY

SHORT = 32
"""Letters of a word or name that a table does not break."""
STYLE_SHEET = Path(__file__).with_name("report.css")


def page(title: str, sections: list[tuple[str, HTML]], lead: Content) -> str:
    """A whole document that asks nothing of a network. `sections`: (heading, content)."""
    contents = [element("li", element("a", name, href=f"#{anchor(name)}")) for name, _ in sections]
    body = [
        element("header", element("h1", title), lead, element("nav", element("ol", contents), aria_label="Contents")),
        element(
            "main",
            [element("section", element("h2", name), content, id=anchor(name)) for name, content in sections],
        ),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("title", title),
        element("style", HTML(STYLE_SHEET.read_text())),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def html_table(table: CellTable, *, caption: bool = True) -> HTML:
    """A table with its notes below; wide ones scroll inside themselves."""

    def cell(at: int, content: str | Value, tag: str = "td") -> HTML:
        scope = "col" if tag == "th" else None
        text = str(content)
        kind = "number" if at not in table.texts else "short" if len(text) <= SHORT else None
        return element(tag, text, class_=kind, scope=scope)

    head = element("thead", element("tr", [cell(at, name, "th") for at, name in enumerate(table.columns)]))
    rows = [element("tr", [cell(at, content) for at, content in enumerate(row)]) for row in table.rows]
    named = element("caption", table.caption) if caption else None
    whole = element("div", element("table", named, head, element("tbody", rows)), class_="wide", tabindex="0")
    return joined([whole, [element("p", note, class_="note") for note in table.notes]])


def bullets(lines: list[str] | tuple[str, ...], class_: str | None = None) -> HTML:
    return element("ul", [element("li", line) for line in lines], class_=class_)


def details(name: Content, *content: Content, class_: str | None = None) -> HTML:
    """Folded under a name; on paper left away, but with the class `printed` unfolded."""
    return element("details", element("summary", name), content, class_=class_)


def code(text: str) -> HTML:
    return element("pre", element("code", text))


def with_code(text: str) -> HTML:
    """A text whose `spans` are code, all of it escaped."""
    return joined([element("code", part) if at % 2 else part for at, part in enumerate(re.split("`([^`]+)`", text))])


def lead(facts: StudyFacts, findings: list[str], revision: str, now: float) -> HTML:
    """What is under the title: what it is about, the `findings`, how much of it is there."""
    to_evaluate = [row for row in facts.rows if row.protocol != TRAINED_ONLY]
    done = sum(row.state == DONE for row in to_evaluate)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    parts = [
        element("p", with_code(facts.question or "No question was written down for this study."), class_="question")
    ]
    if findings:
        name = facts.by_protocol[0].id
        parts.append(
            element(
                "div",
                element("p", element("strong", f"Found, evaluated by {name}:")),
                bullets(findings),
                class_="found",
            )
        )
    parts.append(
        element(
            "p",
            element("strong", f"{done} of {plural(len(to_evaluate), 'budget')} evaluated"),
            f" in {plural(len(facts.runs), 'run')}: {summary(facts.rows)}. Written {when} by revision {revision}.",
        )
    )
    if any(row.state != DONE for row in facts.rows):
        text = "This report is of a part of the study: see "
        parts.append(element("p", text, element("a", "what is missing", href="#runs"), ".", class_="warning"))
    if facts.problem:
        parts.append(element("p", f"States are only what the files say: {facts.problem}", class_="warning"))
    return joined(parts)


def runs_section(facts: StudyFacts) -> HTML:
    """What is missing, then folded a row for each run with the state of every budget."""
    several = len(facts.by_protocol) > 1
    differing = any(facts.differing.values())
    columns = ("Run", "Model", "Seed", *(("What differs",) if differing else ()), "Done", "Not done")
    rows = []
    for run in facts.runs:
        view = facts.views.get(run)
        mine = [row for row in facts.rows if row.run == run]
        settings = ", ".join(f"{key} {value}" for key, value in facts.differing.get(run, {}).items())
        done = ", ".join(asked_text(row, several) for row in mine if row.state == DONE)
        left = "; ".join(state_text(row, several) for row in mine if row.state != DONE)
        cells = [run, facts.model(run), str(view.seed) if view else "–", *((settings,) if differing else ())]
        rows.append([*cells, done or "none", left])
    table = CellTable("runs", "Runs and what became of their budgets", columns, rows, texts=frozenset(range(9)))
    unfinished = {row.run for row in facts.rows if row.state != DONE}
    told = "Nothing is missing: every budget is evaluated."
    if unfinished:
        verb = "is" if len(unfinished) == 1 else "are"
        told = (
            f"{len(unfinished)} of {plural(len(facts.runs), 'run')} {verb} not evaluated throughout: what stands under "
            "'not done' is in no number above."
        )
    named = f"{table.caption}: {plural(len(rows), 'run')}"
    return joined([element("p", told), details(named, html_table(table, caption=False))])


def cost_section(table: CellTable, total: MeasuredCost) -> HTML:
    """The sums, then folded a row for each run. `table`: of `fcdm.analysis.reporting.cost_table`."""
    spent = (
        f"{devices_text(total)}. {total.train_flops / 1e15:.3g} PFLOPs of training, "
        f"{total.sampling_flops / 1e15:.3g} of sampling, {total.disk_bytes / 1e6:.3g} MB on disk."
    )
    return joined([element("p", spent), details(table.caption, html_table(table, caption=False))])


def protocol_section(results: ProtocolResults, rows: list[tuple[str, str, str]]) -> HTML:
    """How images were drawn and compared: everything that a FID depends on."""
    if not rows:
        return element("p", "Nothing has been evaluated by this protocol yet, so what it says is not recorded here.")
    body = [
        element("tr", element("th", name, scope="row"), element("td", value), element("td", element("code", key)))
        for name, value, key in rows
    ]
    head = element("tr", [element("th", name, scope="col") for name in ("Protocol", "Value", "Key")])
    table = element("table", element("thead", head), element("tbody", body), class_="plain")
    whole = element("div", table, class_="wide", tabindex="0")
    features = str(results.settings.get("features", ""))
    floor = [
        f"Real images against the reference score {name} {results.floor[key]:.3g}"
        + (
            f" ± {results.floor[f'{key}_sd']:.2g} (standard deviation over draws)"
            if f"{key}_sd" in results.floor
            else ""
        )
        for key, name in (("fid", distance_name("fid", features)), ("fid_pixels", "on raw pixels"))
        if key in results.floor
    ]
    return joined([whole, element("p", ". ".join(floor) + ": the floor under every number here.") if floor else None])


def configurations(facts: StudyFacts) -> HTML:
    """What all runs share, once, and each run's whole frozen configuration."""
    configs = {run: view.config for run, view in facts.views.items()}
    if not configs:
        return element("p", "No run has been opened yet, so there is no configuration.")
    shared = _shared(list(configs.values()))
    each = [details(run, code(_yaml(config))) for run, config in configs.items()]
    if len(each) == 1:
        return joined(each)
    return joined(
        [
            details("What all runs have in common", code(_yaml(shared))),
            details(f"The whole configuration of each of {plural(len(each), 'run')}", each),
        ]
    )


def _shared(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys and values that all have, nested as they are."""
    found = {}
    for key, value in configs[0].items():
        others = [config.get(key) for config in configs[1:]]
        if isinstance(value, dict) and all(isinstance(other, dict) for other in others):
            inner = _shared([value, *(other for other in others if isinstance(other, dict))])
            if inner:
                found[key] = inner
        elif all(key in config and config[key] == value for config in configs[1:]):
            found[key] = value
    return found


def _yaml(config: dict[str, Any]) -> str:
    return redacted(str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True)))
