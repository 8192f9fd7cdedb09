"""Fits of FID = E + A x^-alpha: known laws come back, intervals cover them as often as they say, nothing is hidden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from scipy.stats import binom

from fcdm.analysis import scaling
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.stats.power_law import FLATTEST, HUBER, STEEPEST, PowerLaw, solve
from fcdm.analysis.stats.power_law_fit import LEAST_POINTS, Fit, fit_power_law
from fcdm.analysis.stats.study_laws import (
    ends_text,
    fits_of,
    fits_table,
    frontiers_of,
    law_or_reason,
    law_sentence,
    law_sentences,
    offset_text,
)
from fcdm.errors import UserError
from tests.support.fake_runs import FLOOR, MODELS, make_run, make_study, make_two_resolutions

LAW = PowerLaw(offset=9.0, scale=3000.0, exponent=0.9)
STEPS = np.geomspace(100, 12_800, 7)


def trajectories(
    random: np.random.Generator, law: PowerLaw, runs: int, luck: float, noise: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Points of `runs` seeds: each has luck of its own at all its budgets, and every evaluation noise of its own."""
    y = law(STEPS) * np.exp(random.normal(0, luck, (runs, 1)) + random.normal(0, noise, (runs, len(STEPS))))
    return np.tile(STEPS, runs), y.ravel(), [run for run in range(runs) for _ in STEPS]


# --- the law -------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=40)
@given(st.floats(0.15, 2.5), st.floats(0.05, 20.0), st.floats(1e-6, 1e9))
def test_exact_points_give_their_law_back(exponent: float, offset: float, unit: float) -> None:
    """Whatever the unit of x. `offset` in units of the power's part in the middle of the range, which spans 128."""
    x = STEPS * unit
    scale = (STEPS[3] * unit) ** exponent
    law = PowerLaw(offset, scale, exponent)
    fit = fit_power_law(x, law(x))
    assert fit.law.exponent == pytest.approx(exponent, rel=1e-3)
    assert fit.law.offset == pytest.approx(offset, rel=1e-2)
    assert np.abs(fit.residuals).max() < 1e-5
    assert fit.predict(x[[0, 3]]).y == pytest.approx(law(x[[0, 3]]), rel=1e-5)


@hypothesis_settings(max_examples=25)
@given(st.floats(1e-9, 1e12), st.floats(1e-4, 1e4), st.integers(0, 10_000))
@example(3600.0, 0.01, 0)
@example(3600.0, 0.01, 109)
def test_units_move_only_what_has_them(unit: float, of_fid: float, seed: int) -> None:
    """x in other units: A x unit^alpha, and nothing else. y in other units: E and A alone. Intervals alike.

    So is whether a law is told: of true ones a hundredth is refused (`told_law.SYSTEMATIC`), such as that of seed 109.
    """
    x, y, runs = trajectories(np.random.default_rng(seed), LAW, 3, 0.03, 0.01)
    here = fit_power_law(x, y, runs, resamples=20)
    there = fit_power_law(x * unit, y * of_fid, runs, resamples=20)
    assert there.law.exponent == pytest.approx(here.law.exponent, rel=1e-4)
    assert there.law.offset == pytest.approx(here.law.offset * of_fid, rel=1e-3)
    assert np.log(there.law.scale) == pytest.approx(
        np.log(here.law.scale * of_fid) + here.law.exponent * np.log(unit), abs=5e-3
    )
    assert there.residuals == pytest.approx(here.residuals, abs=1e-4)
    a, b = here.predict(STEPS), there.predict(STEPS * unit)
    assert bool(here.no_law) == bool(there.no_law)
    if here.no_law:
        assert (a.low, b.low) == (None, None)
    else:
        assert b.low is not None
        assert b.low / of_fid == pytest.approx(a.low, rel=1e-3)


def test_the_lowest_objective_is_found_as_by_scipy_from_many_starts() -> None:
    random = np.random.default_rng(3)
    y = LAW(STEPS) * np.exp(random.normal(0, 0.03, (4, len(STEPS))))
    y[3, 2] *= 1.5  # an outlier
    _, found = solve(STEPS, y, np.ones_like(y))
    bounds = ([-60, np.log(FLATTEST), np.log(y.mean()) - 14], [60, np.log(STEEPEST), 60])
    for row, objective in zip(y, found, strict=True):

        def residuals(inner: np.ndarray, row: np.ndarray = row) -> np.ndarray:
            power = inner[0] - np.exp(inner[1]) * np.log(STEPS / 1000)
            return np.asarray(np.logaddexp(power, inner[2]) - np.log(row))

        best = min(
            least_squares(residuals, [3.0, np.log(a), np.log(e)], bounds=bounds, loss="huber", f_scale=HUBER).cost
            for a in (0.3, 1.0)
            for e in (1.0, 8.0)
        )
        assert objective <= best * (1 + 1e-5) + 1e-12


def test_one_wild_point_does_not_turn_the_law() -> None:
    y = LAW(STEPS)
    y[3] *= 2
    fit = fit_power_law(STEPS, y)
    assert fit.law.exponent == pytest.approx(LAW.exponent, rel=0.02)
    assert int(np.argmax(np.abs(fit.residuals))) == 3
    assert fit.residuals[3] == pytest.approx(np.log(2), rel=0.05)


# --- how sure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("runs", "luck", "noise"), [(4, 0.05, 0.01), (8, 0.02, 0.02)])
def test_intervals_cover_the_truth_as_often_as_they_say(runs: int, luck: float, noise: float) -> None:
    """80 % intervals, trajectories with luck of their own: neither too narrow, within binomial error, nor endless."""
    level, trials = 0.8, 100
    random = np.random.default_rng(5)
    hits, refused = {"exponent": 0, "offset": 0, "middle": 0, "end": 0}, 0
    for trial in range(trials):
        fit = fit_power_law(*trajectories(random, LAW, runs, luck, noise), level=level, resamples=150, seed=trial)
        if fit.no_law:  # a law in a hundred is refused by its residuals, which is no interval that misses
            refused += 1
            continue
        for name in ("exponent", "offset"):
            low, high = fit.intervals[name]
            hits[name] += low <= getattr(LAW, name) <= high
        told = fit.predict([1000.0, STEPS[-1]])
        assert told.low is not None
        assert told.high is not None
        inside = (told.low <= LAW(told.x)) & (LAW(told.x) <= told.high)
        hits["middle"] += inside[0]
        hits["end"] += inside[1]
    assert refused <= 5
    least, most = binom.ppf([0.002, 0.998], trials - refused, level)
    for name, count in hits.items():
        assert least <= count, f"{name}: {count} of {trials}"
    assert most >= hits["middle"]
    assert max(hits[name] for name in ("exponent", "middle", "end")) < trials


def test_points_taken_for_independent_would_be_too_sure() -> None:
    """What resampling whole runs is for: with luck per run, drawing points gives intervals several times too narrow."""
    x, y, runs = trajectories(np.random.default_rng(0), LAW, 8, 0.05, 0.002)
    whole = fit_power_law(x, y, runs).predict([1000.0])
    single = fit_power_law(x, y, list(range(len(x)))).predict([1000.0])
    assert whole.high is not None
    assert single.high is not None
    assert (whole.high - whole.low)[0] > 1.7 * (single.high - single.low)[0]


def test_few_seeds_have_no_interval_and_it_is_said() -> None:
    for runs, said in ((1, "1 seed, at least 3"), (2, "2 seeds, at least 3")):
        fit = fit_power_law(*trajectories(np.random.default_rng(0), LAW, runs, 0.02, 0.01))
        assert (fit.intervals, len(fit.draws)) == ({}, 0)
        assert said in fit.no_interval
        assert fit.predict([500.0]).low is None
        assert said in law_sentence("FCDM-N", fit)


def test_the_same_seed_gives_the_same_intervals() -> None:
    points = trajectories(np.random.default_rng(0), LAW, 4, 0.02, 0.01)
    a, b, c = (fit_power_law(*points, resamples=50, seed=seed).intervals for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_an_offset_that_the_points_do_not_tell_is_only_bounded() -> None:
    """A pure power: E may be anything from 0 to what the last points allow, and `0 to 0` would be a false certainty."""
    x, y, of = trajectories(np.random.default_rng(0), PowerLaw(1e-9, 3000.0, 0.9), 4, 0.02, 0.005)
    pure = fit_power_law(x, y, of)
    low, high = pure.intervals["offset"]
    assert low == 0 < high < y.min()
    assert f"E below {high:.3g}" in law_sentence("FCDM-N", pure)
    row = fits_table({"FCDM-N": pure}).iloc[0]
    assert (row["offset_low"], row["offset_high"]) == (low, high)
    assert offset_text(pure) == f"below {high:.3g}"


def test_misfit_widens_every_interval() -> None:
    """The same seeds about a curve that zigzags by 3 % about the law: E, A, alpha and the band are less sure."""
    x, y, of = trajectories(np.random.default_rng(1), LAW, 6, 0.01, 0.002)
    zigzag = np.exp(0.03 * np.array([1, -1, 1, 1, -1, -1, 1]))
    smooth, rough = fit_power_law(x, y, of), fit_power_law(x, y * np.tile(zigzag, 6), of)
    assert (smooth.no_law, rough.no_law) == ("", "")
    for name in ("offset", "scale", "exponent"):
        (a, b), (c, d) = smooth.intervals[name], rough.intervals[name]
        assert d - c > 2 * (b - a)
    a, b = smooth.predict([1000.0]), rough.predict([1000.0])
    assert a.low is not None
    assert b.low is not None
    assert (b.high - b.low) > 1.5 * (a.high - a.low)  # type: ignore[operator]


def test_ends_have_the_digits_that_tell_them_apart() -> None:
    assert ends_text(1.2984, 1.3042) == "1.2984 to 1.3042"
    assert ends_text(0.9, 1.4) == "0.900 to 1.40"
    assert ends_text(123.4, 456.7) == "123 to 457"
    assert ends_text(1.3, 1.3) == "1.30 to 1.30"


# --- bad input -----------------------------------------------------------------------------------------


def test_nothing_is_extrapolated_unasked() -> None:
    fit = fit_power_law(STEPS, LAW(STEPS))
    with pytest.raises(UserError, match=r"2.56e\+04 lies outside 100 to 1.28e\+04.*extrapolate=True"):
        fit.predict([200, 25_600])
    told = fit.predict([50, 100, 12_800, 25_600], extrapolate=True)
    assert told.extrapolated.tolist() == [True, False, False, True]
    assert told.y == pytest.approx(LAW(told.x), rel=1e-3)
    with pytest.raises(UserError, match="above 0"):
        fit.predict([0.0], extrapolate=True)


@pytest.mark.parametrize("there", [0, 1, 3])
def test_too_few_points_say_how_many_are_needed(there: int) -> None:
    y = np.append(LAW(STEPS[:there]), np.nan)
    with pytest.raises(UserError, match=rf"needs points at {LEAST_POINTS} different budgets.* {there} \(left out: 1 p"):
        fit_power_law(STEPS[: there + 1], y)
    with pytest.raises(UserError, match="different budgets"):
        fit_power_law(np.repeat(STEPS[:3], 5), np.repeat(LAW(STEPS[:3]), 5))


def test_broken_and_rising_points_are_told() -> None:
    y = np.concatenate([LAW(STEPS), LAW(STEPS)])
    y[[1, 3, 12]] = np.nan, -1.0, y[9]
    fit = fit_power_law(np.tile(STEPS, 2), y, ["a"] * 7 + ["b"] * 7)
    assert (len(fit.x), fit.points) == (7, 12)
    assert fit.notes[0] == "left out: 2 points that are not a finite number above 0 (a)"
    assert fit.notes[1] == "not monotone: 1 trajectory rises on the way (b); kept"


def test_a_law_that_the_points_do_not_tell_is_said() -> None:
    pure = fit_power_law(STEPS, 100 * STEPS**-0.5)
    assert pure.law.offset == 0
    assert any("a pure power" in note for note in pure.notes)
    assert offset_text(pure) == "not told"
    flat = fit_power_law(STEPS, np.full(len(STEPS), 7.0) * (1 + 1e-3 * np.arange(len(STEPS))))
    assert flat.predict(STEPS).y == pytest.approx(7.0, rel=0.01)


# --- of a table, on the command line ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    budgets = (100, 200, 400, 800, 1600, 3200)
    made = [
        make_run(folder, model, seed=seed, budgets=budgets, every=400, grids=False)
        for model in ("N", "M", "dit/N-2")
        for seed in range(3 if model != "dit/N-2" else 1)
    ]
    make_study(folder, made, budgets=budgets)
    return folder


def test_the_made_up_curves_are_recovered_from_a_table(runs: Path) -> None:
    fits = fits_of(tidy_table(runs), "steps", resamples=50)
    assert list(fits) == ["FCDM-N", "FCDM-M", "DiT-N/2"]  # by size, DiT last
    for label, model in (("FCDM-N", "N"), ("FCDM-M", "M"), ("DiT-N/2", "dit/N-2")):
        fit = fits[label]
        assert isinstance(fit, Fit)
        assert fit.law.exponent == pytest.approx(1.3, rel=0.02)
        assert fit.law.offset == pytest.approx(FLOOR, rel=0.02)
        assert fit.law.scale == pytest.approx(100 * MODELS[model][2] ** 1.3, rel=0.2)
        assert bool(fit.intervals) == (model != "dit/N-2")
    numbers = fits_table(fits).set_index("label")
    assert numbers.loc["FCDM-N", "points"] == 18
    assert numbers.loc["FCDM-N", "exponent_low"] < 1.3 < numbers.loc["FCDM-N", "exponent_high"]
    assert "1 seed" in numbers.loc["DiT-N/2", "notes"]
    reason = law_or_reason(frontiers_of(tidy_table(runs), resamples=50)["fcdm"])
    assert isinstance(reason, str)
    assert "at least 3 needed" in reason  # of N and M alone there is no frontier's law


def test_the_laws_on_the_command_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "laws.csv"
    assert scaling.main(["--runs", str(runs), "--study", "demo", "--against", "steps", "--csv", str(written)]) == 0
    said = capsys.readouterr().out.splitlines()
    (line,) = [line for line in said if line.strip().startswith("FCDM-N:")]
    for part in ("(steps)^-1.3", "95% intervals: E ", "100 to 3.2e+03 steps", "18 points"):
        assert part in line
    numbers = pd.read_csv(written)
    assert set(numbers["label"]) == {"FCDM-N", "FCDM-M", "DiT-N/2", "FCDM's frontier", "DiT's frontier"}
    assert scaling.main(["--runs", str(runs), "--csv", str(tmp_path / "none" / "laws.csv")]) == 1
    said = capsys.readouterr()
    assert str(tmp_path / "none" / "laws.csv") in said.err
    assert said.err.count("\n") == 1
    assert "At the same training FLOPs" in said.out
    (fcdm,) = [line for line in said.out.splitlines() if line.strip().startswith("FCDM at")]
    (dit,) = [line for line in said.out.splitlines() if line.strip().startswith("DiT at")]
    assert fcdm.split(":")[0].split(" at ")[1] == dit.split(":")[0].split(" at ")[1]  # the same compute
    table = tidy_table(runs)
    common = table.groupby("family")["train_flops"].max().min()
    assert f"at {common:.3g} FLOPs" in fcdm
    mean = table[table["label"] == "FCDM-M"].groupby("train_flops")["fid"].mean()
    assert f"lowest FID {np.exp(np.interp(np.log(common), np.log(mean.index), np.log(mean))):.4g}, FCDM-M" in fcdm


def test_equal_reasons_are_one_sentence() -> None:
    few = {f"FCDM-N lr={place}": "one budget" for place in range(20)}
    assert law_sentences(few) == ["20 settings: no law: one budget."]
    assert law_sentences({"a": "one", "b": "two", "c": "one"}) == ["a, c: no law: one.", "b: no law: two."]


def test_a_study_too_small_for_a_law_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "N", budgets=(100, 200), grids=False)
    assert scaling.main(["--runs", str(tmp_path)]) == 0
    assert "FCDM-N: no law: a power law with an offset needs points at 4" in capsys.readouterr().out
    assert scaling.main(["--runs", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_resolutions_have_frontiers_of_their_own(tmp_path: Path) -> None:
    table = tidy_table(make_two_resolutions(tmp_path))
    found = frontiers_of(table, "steps")
    assert list(found) == ["dit, 8 px", "fcdm, 8 px", "dit, 16 px", "fcdm, 16 px"]
    for name, made in found.items():
        ((shown,),) = ({text.rsplit("=", 1)[1] for text in made.curves["model"]},)
        assert name.endswith(f" {shown} px")
    assert [line.split(" at ")[0] for line in scaling.iso_lines(table)] == [
        "DiT, 8 px",
        "FCDM, 8 px",
        "DiT, 16 px",
        "FCDM, 16 px",
    ]
