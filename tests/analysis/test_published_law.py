"""Forms of FID over size against published tables: the fits, what they say of sizes held out, and the page about it."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import linregress, t

from fcdm.analysis.figures.axes import NOTE
from fcdm.analysis.figures.draw_published_law import hold_out_figure, lines_figure
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.published import published
from fcdm.analysis.reporting.cell_tables import CellTable
from fcdm.analysis.reporting.markdown import markdown_table
from fcdm.analysis.reporting.published_law_tables import (
    CUTS,
    findings,
    form_table,
    hold_out_table,
    line_table,
    percent,
    published_part,
    signed,
)
from fcdm.analysis.reporting.written_part import marks
from fcdm.analysis.stats.published_law import (
    ONE_DATA_SIZE,
    a_line_each,
    fitted_without,
    hold_outs,
    last_value,
    measured_again,
    on_macs_alone,
    product,
    sizes_at_one_budget,
    sum_of_powers,
    through_last_two,
)
from fcdm.errors import UserError
from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "forecast.md").read_text()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sizes_at_one_budget()


@pytest.fixture(scope="module")
def outs(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [hold_outs(table, largest) for largest in CUTS]


def error(found: pd.DataFrame, model: str, form: str) -> float:
    (value,) = found.loc[(found["model"] == model) & (found["form"] == form), "error"]
    return float(value)


def crossed(values: object, sizes: int = 4) -> pd.DataFrame:
    """A table like DiT's with these FIDs, a function of parameters and tokens."""
    rows = [
        {"parameters": parameters, "tokens": tokens, "size": size, "rank": sizes - 1 - place}
        for tokens in (256.0, 64.0, 16.0)
        for place, (size, parameters) in enumerate(list(zip("SBLX", (33e6, 130e6, 458e6, 675e6), strict=True))[:sizes])
    ]
    made = pd.DataFrame(rows)
    made["line"] = "DiT /" + (32 / made["tokens"] ** 0.5).astype(int).astype(str)
    made["model"] = "DiT-" + made["size"] + made["line"].str[3:].str.strip()
    made["forward_gmacs"] = made["parameters"] * made["tokens"] / 1e9 * 0.7
    return made.assign(family="dit", fid=values(made["parameters"] / 1e8, made["tokens"] / 100))  # type: ignore[operator]


def test_what_is_taken_of_the_published_points(table: pd.DataFrame) -> None:
    """One budget, no guidance, one source a line, three sizes at least: DiT's twelve, and three lines of others."""
    sizes = table.groupby("line")["size"].agg(list).to_dict()
    assert sizes == {
        **{f"DiT /{patch}": ["S", "B", "L", "XL"] for patch in (2, 4, 8)},
        **{"DiCo": ["S", "B", "L", "XL"], "DiC": ["S", "B", "XL", "H"], "SiT /2": ["B", "L", "XL"]},
    }
    assert table["line"].iloc[0] == "DiT /2"
    assert table["model"].is_unique
    assert (table.groupby("line")["series"].nunique() == 1).all()
    one = table.set_index("model").loc["DiT-XL/4"]
    assert (one["fid"], one["tokens"], one["rank"]) == (43.01, 64, 0)
    assert table.set_index("model").loc["DiT-XL/2", "fid"] == 19.47  # not 18.1, the re-run
    assert np.isnan(table.set_index("model").loc["DiCo-L", "tokens"])
    fewer = published()
    fewer = fewer[fewer["model"] != "SiT-L/2"]
    assert "SiT /2" not in set(sizes_at_one_budget(fewer)["line"])


def test_the_page_s_own_code_says_the_same(outs: list[pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of numpy and scipy in docs/forecast.md, from the CSVs alone."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(ROOT)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(code, names := {})  # the page's own code
    assert told.getvalue().count("DiT-XL/") == 3
    for form, name in (("a line each", "line"), ("product", "product"), ("sum of powers", "sum of powers")):
        by_model = dict(zip(names["table"]["model"], names["error"][name], strict=True))
        for model in ("DiT-XL/2", "DiT-XL/4", "DiT-XL/8"):
            assert error(outs[0], model, form) == pytest.approx(by_model[model], abs=2e-4)


def test_the_baselines_by_hand(outs: list[pd.DataFrame]) -> None:
    """The straight line in log-log through two points, with the counted GMACs of the two models and of the third."""

    def further(a: tuple[float, float], b: tuple[float, float], macs: float) -> float:
        slope = np.log(b[1] / a[1]) / np.log(b[0] / a[0])
        return float(b[1] * (macs / b[0]) ** slope)

    small, base, large = (6.05567, 68.40), (23.0051, 43.47), (80.69762, 23.33)
    assert error(outs[0], "DiT-XL/2", "last two") == pytest.approx(further(base, large, 118.62142) / 19.47 - 1)
    assert error(outs[1], "DiT-XL/2", "last two") == pytest.approx(further(small, base, 118.62142) / 19.47 - 1)
    assert error(outs[1], "DiT-L/2", "last two") == pytest.approx(further(small, base, 80.69762) / 23.33 - 1)
    assert error(outs[0], "DiT-XL/2", "last value") == pytest.approx(23.33 / 19.47 - 1)
    told = {signed(error(outs[cut], "DiT-XL/2", "last two")) for cut in (0, 1)}
    assert told == {"−1.0 %", "+28 %"}
    assert signed(error(outs[1], "DiT-L/2", "last two")) == "+22 %"
    assert measured_again() == {"DiT-B/4": [68.9, 68.38, 68.3], "DiT-XL/2": [19.47, 18.1]}


def test_a_line_and_its_intervals_are_those_of_a_straight_regression(table: pd.DataFrame) -> None:
    """Against scipy's slope and error, and the textbook's interval of one new observation."""
    (line,) = [rows for name, rows in table.groupby("line") if name == "DiCo"]
    kept, out = line[line["rank"] > 0], line[line["rank"] == 0]
    law = a_line_each(kept)
    x, y = np.log(kept["forward_gmacs"].to_numpy()), np.log(kept["fid"].to_numpy())
    known = linregress(x, y)
    assert law.freedom == 1
    assert law.numbers["alpha, DiCo"] == pytest.approx(-known.slope)
    assert law.halves()["alpha, DiCo"] == pytest.approx(t.ppf(0.975, 1) * known.stderr)
    new = float(np.log(out["forward_gmacs"].iloc[0]))
    rest = y - known.intercept - known.slope * x
    spread = np.sqrt((rest @ rest) * (1 + 1 / 3 + (new - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    said = law.forecast(out).iloc[0]
    assert np.log(said["fid"]) == pytest.approx(known.intercept + known.slope * new)
    assert np.log(said["high"] / said["fid"]) == pytest.approx(t.ppf(0.975, 1) * spread)
    assert said["low"] * said["high"] == pytest.approx(said["fid"] ** 2)


def test_an_interval_holds_as_many_new_models_as_it_says() -> None:
    """Three true lines with 6 % scatter, fitted without the largest sizes: 95 % of these lie inside."""
    random, inside = np.random.default_rng(1), []
    true = crossed(lambda n, tokens: 60 * n**-0.3 * tokens**-0.4)
    for _ in range(300):
        seen = true.assign(fid=true["fid"] * np.exp(0.06 * random.standard_normal(len(true))))
        said = a_line_each(seen[seen["rank"] > 0]).forecast(seen[seen["rank"] == 0])
        inside += list(seen.loc[said.index, "fid"].between(said["low"], said["high"]))
    assert 0.92 < np.mean(inside) < 0.98


def test_a_sum_of_powers_is_found_again() -> None:
    """With an E, without, and from two sizes, which cannot tell one."""
    law = sum_of_powers(crossed(lambda n, tokens: 6 + 30 * n**-0.6 + 25 * tokens**-0.8))
    assert law.numbers == pytest.approx({"E": 6, "A": 30, "a": 0.6, "B": 25, "b": 0.8}, rel=1e-3)
    assert law.freedom == 12 - 5
    law = sum_of_powers(crossed(lambda n, tokens: 30 * n**-0.6 + 25 * tokens**-0.8))
    assert law.numbers == pytest.approx({"E": 0, "A": 30, "a": 0.6, "B": 25, "b": 0.8}, rel=1e-3)
    assert law.freedom == 12 - 4
    law = sum_of_powers(crossed(lambda n, tokens: 6 + 30 * n**-0.6 + 25 * tokens**-0.8, sizes=2))
    assert law.numbers["E"] == 0
    assert law.freedom == 6 - 4


def test_the_other_forms_are_found_again() -> None:
    def fid(n: pd.Series, tokens: pd.Series) -> pd.Series:
        return 50 * n**-0.4 * tokens**-0.4

    made = crossed(fid)
    found = product(made)
    assert (found.numbers["a"], found.numbers["b"]) == pytest.approx((0.4, 0.4))
    assert on_macs_alone(made).numbers["alpha"] == pytest.approx(0.4)
    assert last_value(made).numbers == pytest.approx({f"log A, {line}": v for line, v in _last_logs(made).items()})
    out = hold_outs(made, 1)
    np.testing.assert_allclose(out.loc[out["form"].isin(["MACs alone", "product", "last two"]), "error"], 0, atol=1e-9)


def _last_logs(made: pd.DataFrame) -> dict[str, float]:
    return {str(line): float(np.log(rows["fid"].iloc[-1])) for line, rows in made.groupby("line", sort=False)}


def test_every_form_is_fitted_without_what_is_held_out(table: pd.DataFrame) -> None:
    """Other FIDs of the sizes that are held out change no prediction."""
    for largest in CUTS:
        found = fitted_without(table, largest)
        other = table.assign(fid=table["fid"].where(table["rank"] >= largest, 1.0))
        np.testing.assert_allclose(fitted_without(other, largest)["fid"], found["fid"])
        long_enough = table.groupby("line")["model"].transform("size") >= largest + 2
        out = table.loc[(table["rank"] < largest) & long_enough, "model"]
        assert set(found.loc[found["held_out"], "model"]) == set(out)
        without_freedom = found["form"].isin(["last two", "last value"]) | (found["fitted"] == 2)
        assert found.loc[without_freedom, "low"].isna().all()  # nothing is left to tell an interval from


def test_fewer_models_than_numbers_are_refused(table: pd.DataFrame) -> None:
    one_each = table[(table["family"] == "dit") & (table["rank"] == 0)]
    with pytest.raises(UserError, match=r"3 models cannot tell 6 numbers: hold out fewer, or fit less"):
        through_last_two(one_each)


def test_tables_and_sentences_follow_the_numbers(table: pd.DataFrame, outs: list[pd.DataFrame]) -> None:
    rows = {str(row[0]): list(map(str, row[1:])) for row in hold_out_table(outs[0]).rows}
    assert rows["DiT-XL/2"] == ["19.47", "1.5×", "+5.7 %", "+16 %", "+31 %", "+27 %", "−1.0 %", "+20 %"]
    assert rows["DiCo-XL"][3:6] == ["–", "–", "–"]
    assert rows["DiT's: inside the 95 % interval"][-2:] == ["none", "none"]
    assert "4 points leave 1 to contradict its 3 numbers" in line_table(table).notes[1]
    told = {str(row[0]): str(row[-1]) for row in form_table(table).rows}
    assert told["MACs alone"] == "no law: more than 10 %"  # and so no number of it
    said = findings(table, outs)
    assert "one exponent does not fit all patch sizes" in said[1]
    assert said[0].endswith("against 18.1 the line's error of DiT-XL/2 is +14 % instead of +5.7 %.")
    assert said[3].endswith("The line is the one through the last two points; it is too high for 8 of 10.")
    assert said[-1] == ONE_DATA_SIZE
    alike = crossed(lambda n, tokens: 50 * n**-0.4 * tokens**-0.4 * (1 + 0.02 * np.sin(100 * n)))
    said = findings(alike, [hold_outs(alike, largest) for largest in CUTS])
    assert "intervals have a value in common" in said[1]
    assert [percent(share) for share in (0.0699, 0.0994, 0.0996, 0.25, np.nan)] == [
        *("7.0 %", "9.9 %", "10 %", "25 %", "none"),
    ]


def test_the_page_is_current_and_says_that_there_is_one_d() -> None:
    begin, end = marks("published")
    before, _, rest = PAGE.partition(begin)
    made, _, after = rest.partition(end)
    assert made.strip() == published_part()
    assert ONE_DATA_SIZE in made
    outside = before + after
    assert not re.search(r"[+−]\d[\d.]* %", outside)  # no error by hand
    assert "one D, so no joint law of size and data can be tested on them" in before.replace("\n", " ")
    notebook = json.loads((ROOT / "analysis" / "forecast.ipynb").read_text())
    assert "one D, so no joint law of size and data can be tested on them" in "".join(notebook["cells"][0]["source"])


def test_a_table_in_markdown() -> None:
    made = markdown_table(CellTable("x", "Caption", ("a", "b"), [["1|2", "3"]], ("A note.",)))
    assert made == "Caption:\n\n| a | b |\n|---|---:|\n| 1\\|2 | 3 |\n\nA note."


@pytest.fixture(scope="module")
def drawn(table: pd.DataFrame) -> Iterator[dict[str, tuple[Figure, str]]]:
    with plt.style.context(STYLE):
        made = {"lines": lines_figure(table)}
        made["held out"] = hold_out_figure([fitted_without(table, largest) for largest in CUTS])
        for figure, _ in made.values():
            figure.canvas.draw()
    yield made
    for figure, _ in made.values():
        plt.close(figure)


def test_crosses_are_the_hold_outs(drawn: dict[str, tuple[Figure, str]], outs: list[pd.DataFrame]) -> None:
    figure, _ = drawn["held out"]
    titles = [axes.get_title() for axes in figure.axes[:4]]
    for row, found in enumerate(outs):
        for axes, form in zip(figure.axes[4 * row : 4 * row + 4], titles, strict=True):
            of_form = found[found["form"] == form]
            crosses = [line for line in axes.lines if line.get_marker() == "x"]
            at = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in crosses])
            np.testing.assert_allclose(sorted(at), sorted(of_form["fid"]))
            bars = [path for bar in axes.collections[1:] for path in bar.get_paths()]
            assert sum(np.isfinite(path.vertices).all() for path in bars) == of_form["low"].notna().sum()


def test_captions_say_that_there_is_one_d_and_letters_can_be_read(drawn: dict[str, tuple[Figure, str]]) -> None:
    for figure, caption in drawn.values():
        assert caption.endswith(ONE_DATA_SIZE)
        texts = [text for text in figure.findobj(plt.Text) if text.get_text()]
        assert min(text.get_fontsize() for text in texts) >= NOTE
    assert "DiT /2 0.43, DiT /4 0.29, DiT /8 0.11" in drawn["lines"][1]
