"""Forecasts against what was measured: scores by hand, and who counts as held, failed, uninformative or nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from fcdm.atomic import plain
from fcdm.errors import UserError
from fcdm.forecasts.entries import (
    CONTINUATION,
    HOLD_OUT,
    INTERPOLATION,
    PREDICTION,
    ForecastEntry,
    ForecastWithdrawal,
)
from fcdm.forecasts.foretold import LAST_TWO, LAST_VALUE
from fcdm.forecasts.ledger_table import forecast_lines, forecast_note, score_lines
from fcdm.forecasts.measured_budgets import MeasuredBudget, measured_in_csv
from fcdm.forecasts.score_forecasts import as_json, foremost, score_ledger, summaries
from fcdm.laws.predictive import Predictive
from tests.support.forecast_entries import an_entry, ledger_of, scored

LOSS_CURVE = ((0.25, 0.102), (1.0, 0.1), (4.0, 0.099))


def of_loss(scale: float = 0.02, **fields: object) -> ForecastEntry:
    """A forecast of a loss of 0.1, most of which is E: 1.3 times the compute is 0.2 per cent."""
    law = Predictive.log_t(0.1, scale, 5.0)
    return replace(an_entry(0.1), metric="heldout_loss", law=law, new_run=law, curve=LOSS_CURVE, **fields)


def test_every_score_stands_beside_the_baselines() -> None:
    (one,) = scored(an_entry(), measured=11.0)
    assert one.score is not None
    z = math.log(1.1) / 0.1
    assert one.state == "held"
    assert one.score.log_error == pytest.approx(-math.log(1.1))
    assert one.score.compute_equivalent == pytest.approx(1.1**-2), "FID falls with the root of compute"
    assert one.score.pit == pytest.approx(stats.t(5).cdf(z))
    assert one.score.log_score == pytest.approx(stats.t(5).logpdf(z) - math.log(0.1))
    last, line = one.baselines[LAST_VALUE], one.baselines[LAST_TWO]
    assert (last.pit, last.log_score) == (None, None)
    assert last.crps == pytest.approx(math.log(15 / 11))
    assert last.compute_equivalent == pytest.approx((15 / 11) ** 2)
    assert line.log_error == pytest.approx(0, abs=1e-12)
    assert one.skills[LAST_VALUE] == pytest.approx(1 - one.score.crps / math.log(15 / 11))
    assert one.skills[LAST_TWO] < 0
    assert one.inside == {0.5: False, 0.8: True, 0.95: True}


@pytest.mark.parametrize(
    ("entry", "measured", "state", "why"),
    [
        (an_entry(), 11.4, "held", ""),
        (an_entry(), 11.7, "failed", "off by -15%"),
        (an_entry(seed_deviation=0.09), 11.7, "held", ""),
        (an_entry(scale=0.02), 10.9, "failed", "outside the 95 % interval"),
        (an_entry(scale=0.2), 16.0, "uninformative", "its 80 % interval is x1.8"),
        (an_entry(scale=0.2), 10.0, "uninformative", "its 80 % interval is x1.8"),
        (of_loss(seed_deviation=None), 0.1001, "held", ""),
        (of_loss(seed_deviation=None), 0.1006, "failed", "off by x0.658 in compute"),
        (of_loss(seed_deviation=None), 0.0996, "failed", "off by x1.74 in compute"),
        (of_loss(seed_deviation=0.004), 0.1006, "held", ""),
        (of_loss(scale=0.001, seed_deviation=0.01), 0.1006, "failed", "outside the 95 % interval"),
        (of_loss(scale=0.3), 0.12, "failed", "off by"),
    ],
)
def test_a_forecast_holds_or_fails_by_one_rule(entry: ForecastEntry, measured: float, state: str, why: str) -> None:
    (one,) = scored(entry, measured=measured)
    assert one.state == state, one.why
    assert why in one.why if why else not one.why


def test_a_loss_as_forecast_is_at_the_compute_that_was_forecast() -> None:
    """Whatever the law's estimate says there, which draws' median is not."""
    law = Predictive.log_t(0.102, 0.05, 5.0)
    (one,) = scored(replace(of_loss(seed_deviation=None), law=law, new_run=law), measured=0.102)
    assert one.state == "held", one.why
    assert one.score is not None
    assert (one.score.log_error, one.score.compute_equivalent) == (0, 1)


def test_what_is_not_measured_withdrawn_or_late_is_counted_and_not_scored() -> None:
    entries = [an_entry(run=run) for run in "abcd"]
    ledger = ledger_of(*entries, ForecastWithdrawal(2, "wrong data"), ForecastWithdrawal(3, "I do not like it"))
    measured = {(*entry.key, "fid"): MeasuredBudget(10.0, 5.5) for entry in ledger.forecasts[2:]}
    measured[(*ledger.forecasts[0].key, "fid")] = MeasuredBudget(10.0, 0.5)
    found = score_ledger(ledger, measured)
    assert [one.state for one in found] == ["late", "withdrawn", "held", "held"], "after measuring nothing is withdrawn"
    assert [one.score is None for one in found] == [True, True, False, False]
    (total,) = summaries(found)
    assert {state: count for state, count in total.states.items() if count} == {"held": 2, "withdrawn": 1, "late": 1}
    held_out = replace(an_entry(), kind=HOLD_OUT)
    assert scored(held_out, measured=10.0, time=0.5)[0].state == "held", "a hold-out is measured before"
    taken_back = scored(held_out, ForecastWithdrawal(1, "I do not like it"), measured=10.0, time=math.inf)
    assert taken_back[0].state == "held", "and stays, where a table does not say when it was measured"


def test_what_is_known_by_another_protocol_or_a_record_decides_before_the_measurement() -> None:
    """Withdrawn at time 2, late from time 1: once it was known, though nothing is measured, or long after."""
    ledger = ledger_of(an_entry(), ForecastWithdrawal(1, "I do not like it"))
    key = (*ledger.forecasts[0].key, "fid")
    for known, value, state in ((1.5, None, "unscored"), (2.5, None, "withdrawn"), (0.5, 10.0, "late")):
        assert score_ledger(ledger, {key: MeasuredBudget(value, known)})[0].state == state


@pytest.mark.parametrize("value", ["0", "-0.01", "inf", "nan"])
def test_a_measured_value_that_is_no_number_above_0_is_said_and_not_scored(tmp_path: Path, value: str) -> None:
    """A kernel distance may come out below 0, and what diverged is no number."""
    ledger = ledger_of(an_entry(run="a"))
    path = tmp_path / "demo.csv"
    protocol_id = ledger.forecasts[0].protocol_id
    path.write_text(f"run,steps,protocol_id,fid\nM-digits-8px-aaaaaaaa,800,{protocol_id},{value}\n")
    found = score_ledger(ledger, measured_in_csv(path, ledger.forecasts))
    assert score_lines(found)[1].endswith(f"unscored: measured as {value}, which is no number above 0")


def test_of_several_forecasts_of_a_budget_the_one_that_counts_stands_for_it() -> None:
    """What was held out, interpolated or late, written later or before, does not take its place."""
    kinds = (HOLD_OUT, INTERPOLATION, CONTINUATION, PREDICTION)
    entries = [replace(an_entry(), kind=kind) for kind in kinds]
    assert [one.entry.number for one in foremost(scored(*entries, measured=10.0))] == [3], "the first of the best"
    assert [one.entry.number for one in foremost(scored(*entries, measured=10.0, time=0.5))] == [1], "the rest is late"
    withdrawn = [ForecastWithdrawal(3, "its data were wrong"), ForecastWithdrawal(4, "so were its")]
    assert [one.entry.number for one in foremost(scored(*entries, *withdrawn, measured=10.0))] == [2]
    budgets = [an_entry(), an_entry(steps=400), an_entry(run="b"), an_entry(metric="heldout_loss"), an_entry()]
    assert [one.entry.number for one in foremost(scored(*budgets, measured=0.0))] == [1, 2, 3, 4]


def test_a_tidy_table_measures_too(tmp_path: Path) -> None:
    ledger = ledger_of(an_entry(run="a"), an_entry(run="b"), an_entry(run="c"), an_entry(run="d"))
    path = tmp_path / "demo.csv"
    rows = [
        f"M-digits-8px-{run * 8},{steps},{ledger.forecasts[0].protocol_id},{fid}"
        for run, steps, fid in (("a", 800, "10.5"), ("b", 400, "20"), ("c", 800, ""))
    ]
    path.write_text("\n".join(["run,steps,protocol_id,fid", *rows, ""]))
    found = score_ledger(ledger, measured_in_csv(path, ledger.forecasts))
    assert [(one.state, one.measured) for one in found] == [("held", 10.5), *[("unscored", None)] * 3]
    path.write_text("run,steps\nx,1\n")
    with pytest.raises(UserError, match=r"demo.csv lacks or garbles 'protocol_id': it is no tidy table"):
        measured_in_csv(path, ledger.forecasts)
    with pytest.raises(UserError, match="no such file"):
        measured_in_csv(tmp_path / "x.csv", ledger.forecasts)


def test_coverage_counts_trajectories_and_never_pools_kinds() -> None:
    """Run a by its last budget that is measured, of two forecasts of that by the first."""
    entries = [
        an_entry(run="a", steps=800),
        an_entry(run="a", steps=1600),
        an_entry(20.0, run="a", steps=1600),
        an_entry(run="a", steps=3200),
        an_entry(run="b"),
        replace(an_entry(run="c"), kind=CONTINUATION),
        of_loss(),
    ]
    found = scored(*entries, measured=[30.0, 10.0, 10.0, 0.0, 10.1, 10.2, 0.1])
    assert [one.entry.number for one in found if one.counted] == [2, 5, 6, 7]
    prediction, loss, continuation = summaries(found)
    assert (prediction.kind, prediction.metric, prediction.trajectories) == (PREDICTION, "FID", 2)
    assert (loss.metric, loss.trajectories, continuation.kind) == ("held-out loss", 1, CONTINUATION)
    assert prediction.hits == {0.5: 2, 0.8: 2, 0.95: 2}
    assert prediction.coverage(0.95) == pytest.approx((0.025**0.5, 1))
    ours = [one.score.crps for one in found if one.counted and one.score is not None][:2]
    theirs = [one.baselines[LAST_VALUE].crps for one in found if one.counted][:2]
    assert prediction.skills[LAST_VALUE] == pytest.approx(1 - sum(ours) / sum(theirs))


def test_branches_of_one_parent_are_one_trajectory() -> None:
    entries = [an_entry(run=run, steps=steps) for run, steps in (("a", 400), ("b", 800))]
    entries = [replace(entry, run=replace(entry.run, trajectory="parent")) for entry in entries]
    assert [one.counted for one in scored(*entries, measured=10.0)] == [False, True]


def test_the_ledger_is_told_in_lines_and_in_json() -> None:
    entries = [an_entry(run="a"), an_entry(run="b"), ForecastWithdrawal(2, "its data were wrong"), an_entry(run="c")]
    found = scored(*entries, measured=[11.0, 0, 0])
    lines = score_lines(found)
    assert lines[1].split()[:6] == ["1", "prediction", "M-digits-8px-aaaaaaaa", "800", "FID", "10"]
    assert lines[2].split()[:6] == ["last", "value", "15", "-", "-", "+0.310"]
    assert lines[3].split()[:3] == ["last", "two", "points"]
    assert "withdrawn: its data were wrong" in lines[4]
    assert lines[5].endswith("unscored")
    assert "3 predictions of FID: 1 held, 0 failed, 1 unscored, 1 withdrawn" in lines
    assert "  intervals, by 1 trajectory: 50% held 0 of 1 (0% to 98%); 80% held 1 of 1 (3% to 100%); " in "\n".join(
        lines
    )
    assert score_lines([]) == ["the ledger holds no forecast yet"]
    content = json.loads(json.dumps(plain(as_json(found)), allow_nan=False))
    assert content["forecasts"][0]["skill"][LAST_VALUE] == pytest.approx(found[0].skills[LAST_VALUE])
    assert content["summary"][0]["coverage"]["0.8"]["hits"] == 1
    assert [forecast_note(one) for one in found] == [
        "forecast FID 10: -9.1%, held",
        "forecast FID 10 (7.733 to 12.93), withdrawn",
        "forecast FID 10 (7.733 to 12.93)",
    ]
    (loss,) = scored(of_loss(), measured=0.1)
    assert forecast_note(loss) == "forecast held-out loss 0.1000: x1 in compute, held"


def test_a_new_entry_says_what_it_foretells_and_what_it_cannot() -> None:
    text = "\n".join(forecast_lines(an_entry()))
    assert "M-digits-8px-aaaaaaaa at 800 steps, 102.4K images" in text
    assert "last value 15, last two points 11" in text
    assert "x2 the compute that was fitted, validated to x4" in text
    forced = forecast_lines(an_entry(scale=0.2, forced=("beyond the largest validated gap",)))
    assert "  forced: beyond the largest validated gap" in forced
    assert forced[-1].startswith("  uninformative: its 80 % interval is x1.8")
