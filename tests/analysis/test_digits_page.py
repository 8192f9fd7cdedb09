"""`docs/digits.md`: what it says of results is made of the committed tables, and its trends follow the numbers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.notebook import load_results
from fcdm.analysis.reporting.digits_results import _differs, digits_result
from fcdm.analysis.reporting.written_part import marks, renewed
from fcdm.analysis.stats.model_pairs import comparisons
from fcdm.errors import UserError
from tests.support.commands import ROOT
from tools import result_pages
from tools.result_pages import main

PAGE = ROOT / "docs" / "digits.md"
STEPS = np.array([100, 200, 400, 800])


def test_the_committed_page_is_current() -> None:
    assert main(["digits", "--check"]) == 0


def test_a_stale_page_is_found_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(result_pages, "DOCS", tmp_path)
    monkeypatch.setattr(result_pages, "PAGES", {"mine": {"a": lambda: "1", "b": lambda: "2"}})
    page = tmp_path / "mine.md"
    page.write_text("\n".join(["# Mine", *marks("a"), "between", *marks("b"), ""]))
    before = page.read_text()
    assert main(["mine", "--check"]) == 1
    assert page.read_text() == before
    assert "mine.md is not what its results say: run python tools/result_pages.py" in capsys.readouterr().err
    assert main([]) == 0
    assert page.read_text().replace("\n\n", "\n") == (
        "\n".join(["# Mine", marks("a")[0], "1", marks("a")[1], "between", marks("b")[0], "2", marks("b")[1], ""])
    )
    assert main(["mine", "--check"]) == 0
    assert main(["yours"]) == 1
    assert "no page yours; there: mine" in capsys.readouterr().err


def test_no_number_of_the_result_stands_outside_of_what_is_written_by_the_command() -> None:
    begin, end = marks("results")
    before, _, rest = PAGE.read_text().partition(begin)
    outside = before + rest.partition(end)[2]
    assert not re.search(r"\d[x×](?!\d)|FID \d|mean FID", outside)


def results(power: float) -> pd.DataFrame:
    """The committed table with FIDs of b that fall with another power than those of a, of 1."""
    table = load_results("digits")
    random = np.random.default_rng(3)
    luck = pd.Series(np.exp(0.03 * random.standard_normal(len(set(table["run"])))), index=sorted(set(table["run"])))
    of_a = table["family"] == "fcdm"
    fid = (4000 / table["steps"]).where(of_a, 30 * (table["steps"] / 300.0) ** -power)
    fid = fid * table["run"].map(luck) * np.exp(0.005 * random.standard_normal(len(table)))
    distances = ("fid", "fid_heldout", "fid_pixels", "fid_pixels_heldout")
    changed = table.assign(**dict.fromkeys(distances, fid))
    changed.attrs = table.attrs
    return changed


@pytest.mark.parametrize(
    ("power", "says"),
    [
        (1.5, "The ratio falls towards lower values, by all distances"),
        (0.7, "The ratio rises towards lower values, by all distances"),
        (1.0, "No trend of the ratio is told by any distance"),
    ],
)
def test_the_sentence_about_the_trend_follows_the_numbers(power: float, says: str) -> None:
    """b / a at FID f is proportional to f^(1 - 1 / power) turned round: it falls with f for powers above 1."""
    made = digits_result(results(power), load_results("digits_hyperparameters"))
    assert says in made
    for line in made.splitlines():
        for high, low in re.findall(r"x at (?:FID |distance )?([\d.]+) to [\d.]+x at (?:FID )?([\d.]+)", line):
            assert float(high) > float(low)


@pytest.mark.parametrize("page", ["README.md", "docs/experiments.md"])
def test_other_pages_say_the_same_headline(page: str) -> None:
    row = r"\| FID, CNN features, training digits \| ([\d.]+)x at [\d.]+ \| ([\d.]+)x to ([\d.]+)x \|"
    found = re.search(row, PAGE.read_text())
    assert found is not None
    ratio, low, high = found.groups()
    assert re.search(rf"{ratio}(×| times) \({low} to {high}\)", (ROOT / page).read_text())


def test_at_unequal_batch_the_table_is_of_images_and_hours_keep_their_own_unit() -> None:
    table = results(1.0)
    batch = table["family"].map({"fcdm": 128, "dit": 64})
    at_one = digits_result(table, load_results("digits_hyperparameters"))
    assert re.search(r"needs fewer steps \|", at_one)
    assert re.search(r"whatever else that machine did: \d\.\dx (fewer|more) device-hours at FID [\d.]+ \(", at_one)
    other = table.assign(batch_size=batch)
    other.attrs = table.attrs
    at_two = digits_result(other, load_results("digits_hyperparameters"))
    assert re.search(r"needs fewer images \|", at_two)
    assert "fewer steps" not in at_two


def test_two_settings_of_one_model_are_told_apart_by_their_labels() -> None:
    table = results(1.0)
    one = comparisons(table)[0]
    same = dataclasses.replace(one.a, label=f"{one.a.name} lr=0.1")
    assert _differs(dataclasses.replace(one, b=same)).startswith(f"{one.a.label} against {one.a.name} lr=0.1: ")
    assert _differs(one).startswith(f"{one.a.name} against {one.b.name}: ")


def test_a_page_without_marks_is_one_line() -> None:
    with pytest.raises(UserError, match="lacks its marks"):
        renewed("# A page", "results", "")
