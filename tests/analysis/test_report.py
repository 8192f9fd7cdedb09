"""The report: by its command, in a real browser, in a real MLflow; its parts against numbers worked by hand."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcdm.analysis import claims, plots, report, scaling
from fcdm.analysis.report import log_report
from fcdm.analysis.reporting import report_figures
from fcdm.analysis.reporting.cell_tables import CellTable, Value, number, over_seeds
from fcdm.analysis.reporting.cost_table import measured_cost
from fcdm.analysis.reporting.html import HTML, element
from fcdm.analysis.reporting.latex import escaped, latex_table
from fcdm.analysis.reporting.page import with_code
from fcdm.analysis.reporting.study_facts import study_facts
from fcdm.runs.reader import list_runs
from fcdm.runs.study_description import for_folder, leading_comment, question_of
from tests.support.browser import Seen, look_at, measure
from tests.support.commands import Command
from tests.support.fake_runs import MODELS, PROTOCOL, START, evaluate, fid_at, make_run, make_study, protocol_id
from tests.support.mlflow_server import Server

OTHER = {**PROTOCOL, "sampling_steps": 10}
BUDGETS = (100, 200, 400, 800)
BLUE, VERMILLION = "#0072B2", "#D55E00"
"""FCDM's and DiT's curves."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of which half is missing: one run evaluated throughout, one in part, one only opened, one not at all."""
    folder = tmp_path_factory.mktemp("runs")
    whole = make_run(folder, "dit/N-2", budgets=BUDGETS)
    half = make_run(folder, "N", budgets=BUDGETS[:2])
    opened = make_run(folder, "M", budgets=BUDGETS)
    for name in ("records.jsonl", "evaluations"):
        path = opened / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    never = make_run(folder, "dit/M-2", budgets=BUDGETS)
    make_study(folder, [whole, half, opened, never], budgets=BUDGETS)
    shutil.rmtree(never)
    study = json.loads((folder / "studies" / "demo.json").read_text())
    study |= {"question": "Which needs <fewer> `steps` & why?", "commands": ["python -m fcdm.train -m +sweeps=demo"]}
    (folder / "studies" / "demo.json").write_text(json.dumps(study))
    return folder


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of it, by the command."""
    out = tmp_path_factory.mktemp("report") / "demo.html"
    words = [sys.executable, "-m", "analysis.report", "demo", "--runs", str(runs), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("demo: 6 done, ")
    assert f"{out}, and" in done.stdout
    return out


class Page(HTMLParser):
    """Tags, texts and images; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.addresses += [str(found[key]) for key in ("src", "href", "action", "data") if key in found]
        self.ids += [str(found["id"])] if "id" in found else []
        if tag == "img":
            self.images.append(found)
        elif tag not in ("meta", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


# --- the page ----------------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_nothing_of_a_network(page: Path) -> None:
    found = Page(page.read_text())
    assert "script" not in found.tags
    assert "link" not in found.tags
    inner = [address for address in found.addresses if address.startswith("#")]
    assert {address[1:] for address in inner} <= set(found.ids)
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert len(found.ids) == len(set(found.ids))
    drawn = {name.split("-")[0] for name in found.ids if "-ddim" in name} - {"evaluated"}
    assert drawn >= {"fid_vs_steps", "fid_vs_training_flops", "fid_vs_forward_gmacs", "samples"}
    assert "The compute frontier: not drawn, for it is the lowest of several models' curves" in found.text
    assert len(found.images) == len(drawn)
    assert all(image["alt"] and len(str(image["alt"])) > 20 for image in found.images)
    assert not re.search(r"url\(|@import", page.read_text().partition("</style>")[0])


def test_half_of_the_runs_are_missing_and_it_is_said(page: Path, runs: Path) -> None:
    text = Page(page.read_text()).text
    assert "Which needs <fewer>" in text
    assert "6 of 16 budgets evaluated in 4 runs" in text
    assert "3 of 4 runs are not evaluated throughout" in text
    for folder in ("N-digits", "M-digits", "dit-N-2-digits", "dit-M-2-digits"):
        assert folder in text  # the one without a folder too
    assert f"{fid_at('dit/N-2', 800):.4g}" in text
    assert "python -m fcdm.train -m +sweeps=demo" in text
    assert "git checkout abc1234" in text
    assert "sampling_steps" in text
    assert "heads: 4" in text  # a frozen configuration
    assert "FCDM-N against DiT-N/2, 8 px: steps to equal FID: " in text


def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    seen = look_at(page, tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert seen.pixels.shape == (4000, 1280, 3)
    assert 0.6 < seen.share("#ffffff", 0) < 0.98  # neither blank nor broken
    assert seen.share(BLUE) > 1e-4  # the curves are drawn: pictures did load
    assert seen.share(VERMILLION) > 1e-4


def test_nothing_stands_out_of_a_telephone_or_of_paper(page: Path, tmp_path: Path) -> None:
    narrow = measure(page, tmp_path, 390)
    assert (narrow.width, narrow.out) == (390, [])
    tables = [words.partition("\n")[0] for words in narrow.scrolled if "\t" in words]
    assert any(words.startswith("Run\tModel") for words in tables)  # the widest ones scroll, so nothing is cut
    paper = measure(page, tmp_path, 688, printed=True)  # A4 without its margins: 182 mm
    assert (paper.width, paper.out, paper.scrolled) == (688, [], [])


def test_a_measure_sees_what_stands_out(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    wide = "<div style='width: 900px'>wide</div>"
    (tmp_path / "bad.html").write_text(
        f"<html><head></head><body><p>a</p>{wide}<section style='overflow-x: auto'>{wide}</section></body></html>"
    )
    found = measure(tmp_path / "bad.html", tmp_path, 390)
    assert found.out == ["DIV "]
    assert found.scrolled == ["wide"]


def test_the_finding_comes_first_and_what_is_long_is_folded(page: Path) -> None:
    text = page.read_text()
    order = ["Found, evaluated by", "<h3>Figures", "<h3>Claims", "<h3>Results", "<h3>Fits", "<h3>Protocol"]
    order += ["<h2>Cost", "<h2>Runs", "<h2>How to repeat it", "<h2>Configurations"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    for table in ("Runs and what became of their budgets: 4 runs", "How it evaluates", "Cost so far, by run"):
        assert re.search(rf"<details[^>]*><summary>{table}</summary>", text)
    outside = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    assert not re.search(r"<t[dh][^>]*>N-digits-8px", outside)  # a thousand runs are a thousand rows
    assert re.search(r"<t[dh][^>]*>N-digits-8px", text)
    assert "3 of 4 runs are not evaluated throughout" in outside


def test_the_look_sees_what_is_wrong(tmp_path: Path) -> None:
    """A page with an error and a picture from elsewhere; else the test above could not fail."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='https://example.org/x.png'><script>console.error('broken')</script>")
    seen: Seen = look_at(bad, tmp_path)
    assert any("broken" in line for line in seen.console)
    assert seen.requests == ["https://example.org/x.png"]
    assert seen.share("#ffffff", 0) > 0.98


def test_protocols_have_parts_of_their_own(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, model, budgets=BUDGETS) for model in ("N", "dit/N-2")]
    make_study(tmp_path, folders, budgets=BUDGETS, protocol=OTHER)
    make_study(tmp_path, folders, budgets=BUDGETS, more=True)
    evaluate(folders[0], "N", 800, START + 1e6, OTHER)
    made = report.make_report(study_facts(tmp_path, "demo"))
    parts = re.split(r"<h2>", made.html)[1:]
    mine = {part.partition("</h2>")[0]: part for part in parts}
    headline = mine[f"Evaluated by {protocol_id(PROTOCOL)} (headline)"]
    other = mine[f"Evaluated by {protocol_id(OTHER)}"]
    assert list(mine).index(f"Evaluated by {protocol_id(PROTOCOL)} (headline)") < list(mine).index(
        f"Evaluated by {protocol_id(OTHER)}"
    )
    ours, theirs = f"{fid_at('N', 800):.4g}", f"{fid_at('N', 800) * 1.5:.4g}"
    assert ours in headline
    assert theirs not in headline
    assert theirs in other
    assert ours not in other
    differ = Page(f"<h2>{mine['Protocols'].partition('</section>')[0]}").text
    assert f"sampling_steps: 25 in {protocol_id(PROTOCOL)}, 10 in {protocol_id(OTHER)}" in differ
    for table in made.tables:  # a file speaks of one protocol
        assert not (protocol_id(PROTOCOL) in latex_table(table) and protocol_id(OTHER) in latex_table(table))


def test_the_ratio_at_other_sampling_steps_is_a_finding_of_the_headline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_run(tmp_path, model, budgets=BUDGETS) for model in ("N", "dit/N-2")]
    for folder, model in zip(folders, ("N", "dit/N-2"), strict=True):
        for steps in BUDGETS:
            evaluate(folder, model, steps, START + 1e6, OTHER)
    make_study(tmp_path, folders, budgets=BUDGETS, protocol=OTHER)
    make_study(tmp_path, folders, budgets=BUDGETS, more=True)
    claim = "FCDM-N against DiT-N/2, 8 px, at 10 sampling steps: steps to equal FID"
    made = report.make_report(study_facts(tmp_path, "demo"))
    lead, headline, *others = re.split(r"<h2>", made.html)
    assert claim in lead
    assert claim in headline
    assert not any(claim in part for part in others if part.startswith("Evaluated by"))
    assert any(claim in line for line in made.told)
    report.main(["demo", "--runs", str(tmp_path), "--out", str(tmp_path / "x.html"), "--pair", "DiT-N/2", "FCDM-N"])
    assert "DiT-N/2 against FCDM-N, 8 px, at 10 sampling steps: steps to equal FID" in capsys.readouterr().out
    page = (tmp_path / "x.html").read_text()
    assert "FCDM-N against DiT-N/2, 8 px" not in page
    words = ["demo", "--runs", tmp_path, "--out", tmp_path / "y.html", "--pair", "N", "nothing"]
    assert "nothing here is 'nothing'" in refused(capsys, *words)


def test_nothing_is_evaluated_yet(tmp_path: Path) -> None:
    folder = make_run(tmp_path, evaluated=False)
    make_study(tmp_path, [folder])
    made = report.make_report(study_facts(tmp_path, "demo"))
    text = Page(made.html).text
    assert "0 of 4 budgets evaluated" in text
    assert f"nothing is evaluated by {protocol_id(PROTOCOL)} yet (4 asked)" in text
    assert [table.name for table in made.tables] == ["cost"]


def test_a_run_that_diverged_is_named_where_it_is_left_out(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, "N", seed=seed) for seed in (0, 1)] + [make_run(tmp_path, "dit/N-2")]
    for path in folders[1].glob("evaluations/step-00000400*.json"):
        content = json.loads(path.read_text())
        content["metrics"]["fid"] = "NaN"
        path.write_text(json.dumps(content))
    make_study(tmp_path, folders)
    text = Page(report.make_report(study_facts(tmp_path, "demo")).html).text
    assert text.count(f"left out: FCDM-N at 400 steps: seed 1 has no FID there (nan; {folders[1].name})") >= 1
    assert "seed 1 not evaluated there" not in text
    assert text.count("Not drawn: ") >= 3


def test_a_run_that_diverged_to_numbers_is_named_by_all_that_hold_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_run(tmp_path, "N", seed=seed) for seed in (0, 1)] + [make_run(tmp_path, "dit/N-2")]
    for path in folders[1].glob("evaluations/step-00000800*.json"):
        content = json.loads(path.read_text())
        content["metrics"] |= {"heldout_loss": 1.0, "fid": 20 * content["metrics"]["fid"]}
        path.write_text(json.dumps(content))
    make_study(tmp_path, folders)
    told = "1 point of 1 run that diverged (N by step 800): means, ratios and laws of one amount hold them"
    made = report.make_report(study_facts(tmp_path, "demo"))
    assert told in Page(made.html).text
    assert told in made.told
    words = ["--runs", str(tmp_path), "--study", "demo"]
    for command in (
        partial(plots.main, [*words, "--out", str(tmp_path / "out")]),
        partial(claims.main, words),
        partial(scaling.main, words),
    ):
        command()
        assert told in capsys.readouterr().out


def test_a_caveat_is_not_said_to_be_not_drawn() -> None:
    lines = [
        "left out: N at 400 steps",
        "left out, published: FCDM-S: no FID",
        "one seed: no interval.",
    ]
    assert report_figures._remarks(lines) == [
        "Not drawn: N at 400 steps; published: FCDM-S: no FID.",
        "One seed: no interval.",
    ]
    assert report_figures._remarks([]) == []


# --- what cannot be ----------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a refusal."""
    assert report.main([str(word) for word in words]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("analysis.report: ")
    return said.err


def test_bad_input_is_one_line_and_no_page(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    line = refused(capsys, "dema", "--runs", runs, "--out", out)
    assert "no study 'dema'" in line
    assert "did you mean 'demo'?" in line
    assert "no such folder" in refused(capsys, "demo", "--runs", tmp_path / "nothing", "--out", out)
    assert "--runs FOLDER" in refused(capsys, "demo", "--runs", "http://127.0.0.1:9", "--out", out)
    assert not out.exists()
    (tmp_path / "file").write_text("")
    assert "choose another folder" in refused(capsys, "demo", "--runs", runs, "--out", tmp_path / "file" / "page.html")


def test_an_empty_study_and_a_damaged_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    make_study(tmp_path, [], "empty")
    assert "asks for nothing yet" in refused(capsys, "empty", "--runs", tmp_path, "--out", tmp_path / "a.html")
    make_study(tmp_path, [folder])
    (folder / "records.jsonl").write_text('{broken\n{"step": 1, "time": 1.0}\n')
    assert "line 1 is damaged" in refused(capsys, "demo", "--runs", tmp_path, "--out", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


# --- MLflow ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
def test_in_mlflow_the_page_is_replaced_not_doubled(server: Server, tmp_path: Path, fcdm: Command) -> None:
    make_study(tmp_path / "runs", [make_run(tmp_path / "runs", budgets=(100,))], budgets=(100,))
    log_report("demo", "<p>first</p>", "nothing yet", tmp_path / "runs", server.uri)
    done = fcdm("demo", "--mlflow", server.uri, "--question", "second", module="analysis.report")
    assert done.returncode == 0, done.stderr
    import mlflow

    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("fcdm").experiment_id
    (run,) = client.search_runs([experiment], "tags.`fcdm.study` = 'demo'")
    assert (run.info.run_name, run.info.status) == ("study demo", "FINISHED")
    assert "1 done" in run.data.tags["mlflow.note.content"]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]
    there = Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))).read_text()
    assert there == (tmp_path / "reports" / "demo.html").read_text()
    assert "second" in there


def test_an_mlflow_that_does_not_answer_is_one_line_and_the_page_stands(tmp_path: Path, fcdm: Command) -> None:
    make_study(tmp_path / "runs", [make_run(tmp_path / "runs", budgets=(100,))], budgets=(100,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = fcdm("demo", "--mlflow", uri, module="analysis.report")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"MLflow at {uri} does not take the report (Connection refused)" in done.stderr
    assert (tmp_path / "reports" / "demo.html").exists()


# --- the parts ---------------------------------------------------------------------------------------


def test_the_interval_over_seeds_is_students() -> None:
    two = over_seeds([1.0, 3.0])  # t(0.975, 1) = 12.7062, s / sqrt(2) = 1
    assert (two.mean, two.half) == (2.0, pytest.approx(12.7062, abs=1e-4))
    assert over_seeds([5.0]) == Value(5.0, None)
    assert str(over_seeds([1.0, float("nan")])) == "not finite"
    random = np.random.default_rng(0)
    covered = 0
    for values in random.normal(3.0, 2.0, (2000, 4)):
        found = over_seeds(list(values))
        assert found.half is not None
        covered += abs(found.mean - 3.0) <= found.half
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(12.3456), "12.35"),
        (Value(12.3456, 0.789), "12.35 ± 0.79"),
        (Value(123.456, 15.2), "123 ± 15"),
        (Value(0.012342, 0.00021), "0.01234 ± 0.00021"),
        (Value(1234567.0), "1,234,567"),
        (Value(float("inf")), "not finite"),
        (Value(5.0, 0.0), "5"),
    ],
)
def test_values_have_as_many_digits_as_are_known(value: Value, text: str) -> None:
    assert str(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_is_itself_to_four_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-4, abs=0)


def test_a_latex_table_of_two_lines() -> None:
    table = CellTable(
        "fid-x_1", "FID & more", ("Model", "100%"), [["DiT-N/2", Value(3.21, 0.12)], ["a_b", "–"]], ("#1",)
    )
    text = latex_table(table)
    assert r"DiT-N/2 & $3.21 \pm 0.12$ \\" in text
    assert r"a\_b & -- \\" in text
    assert r"\caption{FID \& more}" in text
    assert r"\label{tab:fid-x-1}" in text
    assert r"Model & 100\% \\" in text
    assert r"\footnotesize \#1" in text
    assert [line.strip() for line in text.splitlines() if "rule" in line] == ["\\toprule", "\\midrule", "\\bottomrule"]
    assert latex_table(CellTable("a", "b", ("c",), [[Value(1.5e9)]])).count(r"$1.5 \times 10^{9}$") == 1
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        CellTable("a", "b", ("c",), [["d", "e"]])


@given(st.text())
def test_no_text_breaks_a_latex_table(text: str) -> None:
    made = escaped(text)
    assert not re.search(r"[\x00-\x1f]", made)
    bare = re.sub(r"\\[a-zA-Z]+\{\}|\\[{}$&#%_]|\$\\[a-z]+\$", "", made)
    assert not re.search(r"[\\{}$&#%_^~]", bare)


@given(st.text(), st.text())
def test_no_text_breaks_the_page(text: str, attribute: str) -> None:
    made = element("p", text, element("b", HTML("&amp;")), title=attribute)
    found = Page(made)
    assert found.tags == {"p", "b"}
    assert found.open == []


def test_cost_of_a_run(tmp_path: Path) -> None:
    """Two segments of the made-up run with an hour of queueing between them, which costs nothing."""
    make_run(tmp_path, "N", budgets=(100, 200))
    (view,) = list_runs(tmp_path)
    cost = measured_cost(view)
    macs = MODELS["N"][1]
    assert cost.hours == {"CPU core": pytest.approx((200 / 50 * 2 + 2 * 12) / 3600)}
    assert cost.evaluation_hours == pytest.approx(24 / 3600)
    assert cost.train_flops == 6 * macs * 128 * 200
    assert cost.sampling_flops == 2 * macs * 25 * 1000 * 2
    assert cost.disk_bytes == sum(path.stat().st_size for path in view.folder.rglob("*") if path.is_file())


def test_a_recorded_command_has_the_folder_of_its_runs(page: Path, runs: Path) -> None:
    assert f"python -m fcdm.train -m +sweeps=demo runs_dir={runs}\n" in page.read_text()
    command = "python -m fcdm.train -m +sweeps=digits"
    assert [for_folder(command, folder) for folder in ("runs", "./runs/", "/tmp/my runs")] == [
        *(command, command, f"{command} 'runs_dir=/tmp/my runs'")
    ]
    for said in ("runs_dir=elsewhere", "++runs_dir=elsewhere"):
        assert for_folder(f"{command} {said}", "/tmp/runs") == f"{command} {said}"


def test_code_in_a_question_is_code_and_escaped(page: Path) -> None:
    assert "Which needs &lt;fewer&gt; <code>steps</code> &amp; why?" in page.read_text()
    told = with_code("Is `model.x=<3` & `steps` so? One ` alone")
    assert told == "Is <code>model.x=&lt;3</code> &amp; <code>steps</code> so? One ` alone"


def test_a_question_is_the_comment_of_the_sweep_file(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\n# Is it\n#  so?\n\ngrids: []  # no\n# nor this\n"
    )
    command = ["python", "-m", "fcdm.train", "-m", "+sweeps=mine"]
    assert question_of([*command, "--config-dir", str(tmp_path)], "mine") == "Is it so?"
    assert question_of([*command, f"--config-dir={tmp_path}"], "mine") == "Is it so?"
    assert question_of(command, "mine") == ""
    assert question_of(["python", "-m", "fcdm.train", "model=N"], "digits") == ""
    assert "make demo" in question_of(["python", "-m", "fcdm.train", "-m", "+sweeps=digits"], "digits")
    assert "make demo" in question_of(["python", "-m", "fcdm.train", "-m", "+sweeps=digits", "study=own"], "own")
    for several in ("+sweeps=[digits_hyperparameters,digits]", "+sweeps=digits_hyperparameters,digits"):
        assert "make demo" in question_of(["python", "-m", "fcdm.train", "-m", several], "digits")
    assert leading_comment("a: 1\n# late") == ""


def test_the_report_imports_nothing_of_the_engine() -> None:
    code = (
        "import sys, fcdm.analysis.report\n"
        "bad = [m for m in sys.modules if m.startswith(('torch', 'mlflow', 'hydra', 'fcdm.engine', 'fcdm.models'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
