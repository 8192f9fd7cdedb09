"""What the points do not tell is printed nowhere: each reason against a law, in sentences, tables and figures alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.reporting.cell_tables import MISSING
from fcdm.analysis.reporting.result_tables import fit_tables
from fcdm.analysis.stats.power_law import PowerLaw
from fcdm.analysis.stats.power_law_fit import fit_power_law
from fcdm.analysis.stats.study_laws import fits_of, fits_table, law_or_reason, law_sentence
from fcdm.analysis.stats.told_law import LEAST_FALL, MOST_SCATTER, SYSTEMATIC
from tests.support.known_surface import study

STEPS = np.geomspace(100, 12_800, 7)
LAW = PowerLaw(offset=9.0, scale=3000.0, exponent=0.9)
BENT = LAW(STEPS) * np.exp(0.04 * np.sin(np.linspace(0, 2 * np.pi, 7)))

REASONS = {
    "four flat points": (STEPS[:4], [4.1, 4.1, 4.1, 4.1], "flat: it falls by 0.0%"),
    "four noisy flat points": (STEPS[:4], [4.12, 4.08, 4.11, 4.09], "flat: it falls by"),
    "four points of chance": (STEPS[:4], [40.0, 22.0, 25.0, 7.0], f"more than {MOST_SCATTER:.0%}"),
    "rising points": (STEPS, np.linspace(4, 4.1, 7), "flat"),
    "a step": (STEPS, [50.0, 9.0, 9.1, 8.9, 9.0, 9.1, 9.0], "E ran to its bound"),
    "ever steeper": (STEPS, 100 * np.exp(-0.02 * np.log(STEPS / 100) ** 2), "systematic"),
}
"""What it is -> (x, y, the reason)."""


@pytest.mark.parametrize("kind", REASONS)
def test_what_the_points_do_not_tell_has_a_reason_and_no_numbers(kind: str) -> None:
    x, y, reason = REASONS[kind]
    fit = fit_power_law(x, y)
    assert reason in fit.no_law
    assert (fit.intervals, fit.predict([STEPS[1]]).low) == ({}, None)
    assert law_or_reason(fit) == fit.no_law
    said = law_sentence("FCDM-N", fit)
    assert said.startswith("FCDM-N: no law: ")
    assert "^-" not in said.replace("A x^-alpha", "")
    row = fits_table({"FCDM-N": fit}).iloc[0]
    assert pd.isna(row[["offset", "scale", "exponent", "scatter", "from"]]).all()
    assert reason in row["notes"]


def test_systematic_residuals_take_e_and_every_interval_away() -> None:
    """Six seeds with 0.3 % of noise about a curve that waves by 4 %: no E, and nothing that looks sure."""
    random = np.random.default_rng(0)
    y = np.concatenate([BENT * np.exp(random.normal(0, 0.003, 7)) for _ in range(6)])
    fit = fit_power_law(np.tile(STEPS, 6), y, np.repeat(np.arange(6), 7).tolist())
    assert "systematic" in fit.no_law
    assert fit.intervals == {}
    straight = fit_power_law(np.tile(STEPS, 6), y * np.tile(LAW(STEPS) / BENT, 6), np.repeat(np.arange(6), 7).tolist())
    assert straight.no_law == ""
    assert set(straight.intervals) == {"offset", "scale", "exponent"}


@pytest.mark.parametrize("seeds", [1, 3])
def test_true_laws_are_refused_as_rarely_as_is_said(seeds: int) -> None:
    """One in a hundred of laws with independent noise; 1 of 150 is expected, 6 have a probability of 0.001."""
    random = np.random.default_rng(seeds)
    runs = np.repeat(np.arange(seeds), 7).tolist()
    refused = 0
    for _ in range(150):
        luck = random.normal(0, 0.02, (seeds, 1)) + random.normal(0, 0.01, (seeds, 7))
        fit = fit_power_law(np.tile(STEPS, seeds), (LAW(STEPS) * np.exp(luck)).ravel(), runs, resamples=3)
        refused += "systematic" in fit.no_law
    assert SYSTEMATIC * 150 < 2
    assert refused <= 6


def test_a_curve_that_falls_by_more_than_its_noise_is_told() -> None:
    """The limit itself: 1 % of noise is taken where no seeds tell it, and a fall of four times that is a fall."""
    almost, enough = (
        fit_power_law(STEPS, 5 + fall * 5 * (STEPS / STEPS[0]) ** -0.5) for fall in (0.9 * 0.04, 1.3 * 0.04)
    )
    assert almost.no_law.startswith("flat")
    assert f"less than {LEAST_FALL:g} x its noise of 1.0%" in almost.no_law
    assert enough.no_law == ""


def test_without_seeds_no_e_is_known_and_four_points_tell_no_law() -> None:
    """4.3 to 4.1 over a factor of 8: a law of three numbers meets four points almost whatever they are."""
    few = fit_power_law(STEPS[:4], [4.3, 4.25, 4.2, 4.1])
    assert few.no_law.startswith("4 points leave 1 to contradict its 3 numbers")
    assert "^-" not in law_sentence("FCDM-N", few)
    open_ended = fit_power_law(STEPS[:5], [60.0, 41.0, 31.0, 21.5, 16.2])
    assert open_ended.no_law.startswith("any E is as good")
    one = fit_power_law(STEPS, LAW(STEPS) * np.exp(np.random.default_rng(0).normal(0, 0.003, 7)))
    assert one.no_law == ""
    said = law_sentence("FCDM-N", one)
    assert said.startswith("FCDM-N: FID = E + ")
    assert "; E not told (" in said
    assert "no interval: 1 seed" in said
    assert pd.isna(fits_table({"FCDM-N": one})["offset"].iloc[0])


def test_an_e_that_is_only_below_something_has_no_number() -> None:
    """A law with an E that is a tenth of the lowest value, and seeds that scatter by more than it."""
    law, random = PowerLaw(offset=0.05, scale=3000.0, exponent=0.9), np.random.default_rng(2)
    runs = np.repeat(np.arange(3), 7)
    y = np.tile(law(STEPS[:7]), 3) * np.exp(random.normal(0, 0.03, (3, 1)) + random.normal(0, 0.03, (3, 7))).ravel()
    fit = fit_power_law(np.tile(STEPS[:7], 3), y, list(runs))
    assert (fit.no_law, fit.intervals["offset"][0]) == ("", 0.0)
    assert fit.law.offset > 0
    said = law_sentence("FCDM-N", fit)
    assert said.startswith("FCDM-N: FID = E + ")
    assert "E below " in said
    row = fits_table({"FCDM-N": fit}).iloc[0]
    assert pd.isna(row["offset"])
    assert row["offset_high"] == fit.intervals["offset"][1]


def test_the_table_of_a_report_and_the_sentences_refuse_the_same() -> None:
    table = study(1, sizes=(1e7, 4e7))
    flat = table.assign(fid=table["fid"].where(table["label"] != "FCDM-01", 50.0))
    laws = fits_of(flat, "train_flops")
    (by_compute, _) = fit_tables(flat, "ddim25-10000-00000000")
    cells = {row[0]: row[1:] for row in by_compute.rows}
    assert set(laws) < set(cells)
    for label, made in laws.items():
        assert (list(cells[label]) == [MISSING] * 5) == isinstance(law_or_reason(made), str)
    assert list(cells["FCDM-01"]) == [MISSING] * 5
    assert any(note.startswith("FCDM-01: no law: flat") for note in by_compute.notes)
    assert list(cells["FCDM's frontier"]) == [MISSING] * 5
