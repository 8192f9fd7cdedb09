"""How ratios are told: in one direction where both ends have one, with a word where they have not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.stats.claim_sides import Pair
from fcdm.analysis.stats.model_pairs import comparisons, sentence
from fcdm.analysis.stats.ratio_words import between
from fcdm.analysis.stats.step_efficiency import RatioRange
from fcdm.analysis.stats.step_ratios import budgets, equal_fid, trend
from tests.support.fake_runs import make_run

STEPS = np.array([100.0, 200.0, 400.0, 800.0])


def pair(a: np.ndarray, b: np.ndarray) -> Pair:
    points = [pd.DataFrame({"steps": STEPS, "fid": fid, "forward_gmacs": 1.0}) for fid in (a, b)]
    return Pair("a", "b", 8, *points, origin="these runs", rests_on="")


def test_a_ratio_below_1_is_told_the_headlines_way_round() -> None:
    """b has 8000 / steps and a has four times that: 4 times more, everywhere."""
    side = equal_fid(pair(32000 / STEPS, 8000 / STEPS), "steps")
    assert side.value == pytest.approx(1 / 4)  # the number stays b over a
    assert side.text.startswith("4.0x more steps at FID ")
    assert "; 4.0x more from FID 80 to FID 40; " in side.text
    assert "0.25x" not in side.text


def test_two_ends_below_1_are_told_from_the_highest_fid() -> None:
    """a lags by 4 at FID 80 and by 2 at FID 40."""
    found = pair(np.array([200.0, 160.0, 80.0, 40.0]), np.array([80.0, 56.0, 40.0, 20.0]))
    text = equal_fid(found, "steps").text
    assert "4.0x more at FID 80 to 2.0x more at FID 40" in text
    assert "4.0x more at FID 80 to 2.0x more at FID 40" in trend(found).text
    assert budgets(found, 800, 400).text.startswith(
        "2.0x more: 800 steps over 400; FID 40 against 40, so at 40 at most"
    )


def test_without_a_clear_ratio_there_is_no_headline() -> None:
    """a needs 2 times more at FID 80, and half as much at FID 20."""
    found = pair(np.array([100.0, 80.0, 20.0, 10.0]), np.array([80.0, 60.0, 40.0, 20.0]))
    side = equal_fid(found, "steps")
    start = "no clear ratio of steps: 2.0x more at FID 80 to 2.0x fewer at FID 20; it lies on both sides of 1; "
    start += "differing in nothing but the model"
    assert side.text == start
    assert np.isnan([side.value, side.low, side.high]).all()


@pytest.mark.parametrize(
    ("low", "high", "headline", "told"),
    [
        (2.2, 2.8, 2.5, "2.2x to 2.8x"),
        (0.5, 2.8, 1.5, "2.0x more to 2.8x fewer"),
        (0.25, 0.5, 0.4, "2.0x more to 4.0x more"),
        (0.25, 2.0, 0.8, "2.0x fewer to 4.0x more"),
        (2.2, np.inf, 2.5, "2.2x to no upper end"),
        (0.0, 0.5, 0.4, "2.0x more to no upper end"),
    ],
)
def test_an_interval_has_the_headlines_direction(low: float, high: float, headline: float, told: str) -> None:
    assert between(low, high, headline) == told


def test_what_was_not_interpolated_or_compared_is_not_told_at_length(tmp_path: Path) -> None:
    for model in ("N", "M", "dit/N-2"):
        make_run(tmp_path, model, grids=False)
    (one,) = comparisons(tidy_table(tmp_path))
    assert isinstance(one.steps, RatioRange)
    said = sentence(one)
    assert "log FID interpolated over log steps" in said
    assert " fewer training FLOPs at FID " in said
    assert "interpolated" not in sentence(replace(one, steps="not reached", images="not reached"))
    assert "not compared: a; b" in sentence(replace(one, tried=(2, 1), not_compared=("a", "b")))
    assert "not compared: 9 settings" in sentence(replace(one, tried=(2, 1), not_compared=tuple("abcdefghi")))
