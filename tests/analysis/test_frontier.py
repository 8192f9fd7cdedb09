"""The compute frontier: the envelope of interpolated curves, what limits it, how often its interval holds the truth."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fcdm.analysis.stats.frontier import at_compute
from fcdm.analysis.stats.frontier_fit import Frontier, fit_frontier
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import frontiers_of, iso_lines, law_or_reason, law_sentence
from tests.support.known_surface import OFFSET, SIZES, SURFACES, study

STUDIES = int(os.environ.get("FCDM_COVERAGE_STUDIES", "25"))
"""Simulated for the coverage; docs/figures.md tells what 200 give."""


def frontier_of(curves: dict[str, tuple[list[float], list[float]]]) -> Frontier:
    """Of one run for each model: name -> (computes, FIDs)."""
    x, y, names = [], [], []
    for name, (places, values) in curves.items():
        x += places
        y += values
        names += [name] * len(places)
    return fit_frontier(x, y, names, names)


# --- the envelope --------------------------------------------------------------------------------------


def test_a_point_above_another_models_interpolated_curve_is_not_on_the_frontier() -> None:
    """A staircase of measured points would keep M's first: nothing measured before it is lower, but N's curve is."""
    made = frontier_of({"N": ([1.0, 100.0], [40.0, 10.0]), "M": ([20.0, 2000.0], [31.0, 2.0])})
    on = made.curves.set_index(["model", "x"])["on_frontier"]
    assert on.to_dict() == {("N", 1.0): True, ("M", 20.0): False, ("N", 100.0): True, ("M", 2000.0): True}
    between = made.envelope[made.envelope["x"].between(1, 100)]
    n = 40 * between["x"] ** (np.log(10 / 40) / np.log(100))
    m = 31 * (between["x"] / 20) ** (np.log(2 / 31) / np.log(100))
    expected = np.where(between["x"] < 20, n, np.minimum(n, m))
    assert between["y"].to_numpy() == pytest.approx(expected)


def test_what_less_compute_had_reached_before_is_on_no_frontier() -> None:
    """N ends at 100 with 2. M, measured alone from there on, has 4 at 120 and passes 2 in the middle, at 346.4."""
    made = frontier_of({"N": ([1.0, 100.0], [40.0, 2.0]), "M": ([10.0, 120.0, 1000.0], [30.0, 4.0, 1.0])})
    on = made.curves.set_index(["model", "x"])["on_frontier"]
    assert on["M"].to_dict() == {10.0: False, 120.0: False, 1000.0: True}
    after = made.envelope[made.envelope["x"] > 100]
    assert after["x"].min() == pytest.approx(np.sqrt(120 * 1000), rel=0.05)
    assert (after["y"] <= 2).all()


@hypothesis_settings(max_examples=40)
@given(
    st.lists(
        st.lists(
            st.tuples(st.floats(0, 6), st.floats(0.1, 5)), min_size=2, max_size=5, unique_by=lambda p: round(p[0], 2)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_envelope_is_the_least_of_the_curves_between_their_own_budgets(
    drawn: list[list[tuple[float, float]]],
) -> None:
    """Written out by hand: for each model a straight line in log over log, nothing outside."""
    curves = {}
    for place, points in enumerate(drawn):
        points = sorted(points)
        curves[f"m{place}"] = ([float(10**u) for u, _ in points], [float(np.exp(v)) for _, v in points])
    made = frontier_of(curves)
    for row in made.envelope.iloc[::23].itertuples():
        there = []
        for places, values in curves.values():
            for (a, b), (c, d) in zip(pairwise(places), pairwise(values), strict=True):
                if a * (1 - 1e-9) <= row.x <= b * (1 + 1e-9):
                    there.append(c * (d / c) ** (np.log(row.x / a) / np.log(b / a)))
        assert row.y == pytest.approx(min(there), rel=1e-6)


def test_where_budgets_end_while_a_model_is_the_best_the_envelope_is_limited() -> None:
    """N is still the best at its last budget, 100, and falls as x^-1: drawn on, it is above M from about 200 on."""
    made = frontier_of({"N": ([1.0, 100.0], [1000.0, 10.0]), "M": ([10.0, 10_000.0], [200.0, 0.04])})
    m = made.envelope[made.envelope["x"] > 100]
    above = 1000 / m["x"] < m["y"]
    assert (m["limited"] == above).all()
    assert m["limited"].any()
    assert not made.envelope.loc[made.envelope["x"] < 100, "limited"].any()
    last = made.curves[made.curves["on_frontier"] & made.curves["last_budget"]]
    assert last["model"].tolist() == ["N", "M"]
    assert any(note.startswith("best at their model's last budget") and "N at 100" in note for note in made.notes)
    assert any(note.startswith("limited by which budgets were trained") for note in made.notes)


def test_one_budget_for_each_model_is_size_scaling_and_no_frontier() -> None:
    one = {
        name: ([x], [y]) for name, x, y in (("S", 1.0, 60.0), ("B", 4.0, 40.0), ("L", 16.0, 20.0), ("XL", 30.0, 18.0))
    }
    made = frontier_of(one)
    assert isinstance(made.law, str)
    assert "size scaling at fixed steps, not a frontier" in made.law
    assert made.envelope.empty
    assert not made.curves["on_frontier"].any()
    assert "no law: every model has one budget" in law_sentence("published, fcdm", made)


def test_a_frontier_says_what_it_leaves_out_and_lacks() -> None:
    table = study(2, families=("fcdm",), draw=1)
    short = table[~((table["label"] == "FCDM-09") & (table["seed"] == 1) & (table["steps"] == 64_000))]
    made = frontiers_of(short)["fcdm"]
    assert "left out: 1 budgets that not every seed has reached (FCDM-09)" in made.notes
    assert isinstance(made.law, Fit)
    assert made.law.no_interval == "no interval: 2 seeds of FCDM-01, at least 3 needed"
    few = fit_frontier([1, 2, 3, 2, 3, 4], [9.0, 7.0, 6.0, 9.0, 5.0, 4.0], list("aaabbb"), list("mmmnnn"))
    assert few.law == ("2 models on the part of the envelope that the trained budgets do not limit, at least 3 needed")


def test_models_are_compared_at_equal_compute_without_extrapolation() -> None:
    curves = pd.DataFrame({"model": list("aaabb"), "x": [1, 10, 100, 10, 1000], "y": [50.0, 30, 10, 40, 2.5]})
    found = at_compute(curves, [1, np.sqrt(1000), 500])
    assert found["model"].tolist() == ["a", "a", "b", "b"]
    half_way = np.sqrt(30 * 10)  # log FID over log compute: the geometric mean
    quarter, late = 40 * 16**-0.25, 40 * 16 ** (-np.log10(50) / 2)
    assert found["fid"].tolist() == pytest.approx([50, half_way, quarter, late])
    assert found["best"].tolist() == [True, True, False, True]


def test_a_best_model_at_its_last_budget_is_said_at_equal_compute() -> None:
    lines = iso_lines(study(1, sizes=SIZES[:3]))
    for line, family in zip(lines, ("DiT", "FCDM"), strict=True):
        assert line.startswith(f"{family} at ")
        assert "at its last budget" in line


# --- its law -------------------------------------------------------------------------------------------


def coverage(studies: int, **kinds: float) -> tuple[dict[str, float], int]:
    """Shares inside the intervals (of the true envelope, over computes and studies; of E), and how many tell no law."""
    inside: dict[str, list[float]] = {"envelope": [], "E": [], "E told": []}
    untold = 0
    for draw in range(studies):
        for family, made in frontiers_of(study(draw=draw, **kinds), resamples=200).items():  # type: ignore[arg-type]
            law = law_or_reason(made)
            if isinstance(law, str):
                untold += 1
                continue
            told = law.predict(np.geomspace(*law.range, 60))
            truth = SURFACES[family].frontier(told.x, SIZES)
            assert told.low is not None
            assert told.high is not None
            inside["envelope"].append(float(((told.low <= truth) & (truth <= told.high)).mean()))
            ends = law.intervals.get("offset")
            inside["E told"].append(ends is not None)
            if ends is not None:
                inside["E"].append(ends[0] <= OFFSET <= ends[1])
    return {name: float(np.mean(values)) for name, values in inside.items()}, untold


def test_the_interval_of_a_frontier_holds_the_true_envelope_as_often_as_it_says() -> None:
    """95 % intervals, 12 sizes of two families, 3 seeds; averaged over 60 computes of the fitted range and all studies.

    The noise of the average itself is about 2 % (a study's computes stand or fall together).
    """
    share, untold = coverage(STUDIES)
    print(f"{2 * STUDIES} frontiers, {untold} without a law: {share}")
    assert share["envelope"] >= 0.9 * 0.95
    assert share["E"] >= 0.9 * 0.95
    assert share["E told"] >= 0.85
    assert untold <= 0.1 * 2 * STUDIES


def test_the_known_law_comes_back() -> None:
    """Without noise: E, and alpha = ab / (a + b) of the two exponents, within what twelve sizes and chords allow."""
    for family, made in frontiers_of(study(1, of_seed=0.0, of_evaluation=0.0)).items():
        law = law_or_reason(made)
        assert isinstance(law, Fit)
        surface = SURFACES[family]
        assert law.law.offset == pytest.approx(OFFSET, rel=0.1)
        assert law.law.exponent == pytest.approx(surface.a * surface.b / (surface.a + surface.b), rel=0.05)
        places = np.geomspace(*law.range, 60)
        assert law.predict(places).y == pytest.approx(surface.frontier(places, SIZES), rel=0.03)


def test_a_finer_grid_is_no_more_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes on a grid are no measurements: four times as many give the same intervals."""
    table = study(families=("fcdm",))
    widths = []
    for fitted in (30, 120):
        monkeypatch.setattr("fcdm.analysis.stats.frontier_fit.FITTED", fitted)
        law = law_or_reason(frontiers_of(table, resamples=150)["fcdm"])
        assert isinstance(law, Fit)
        middle = law.predict([1e15])
        assert middle.low is not None
        assert middle.high is not None
        widths.append((np.ptp(law.intervals["offset"]), float(np.log(middle.high / middle.low)[0])))
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_one_model_makes_no_frontier() -> None:
    made = fit_frontier([1e9, 2e9, 4e9, 8e9], [40.0, 20.0, 10.0, 8.0], ["run"] * 4, ["FCDM-N"] * 4)
    assert made.law == "one model: a frontier needs 3"
