"""Figures of joint laws and of forecasts: what is drawn is what was fitted, foretold and measured, and how it looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from fcdm.analysis.figures.draw_forecasts import calibration_figure, predicted_figure
from fcdm.analysis.figures.draw_joint_law import (
    Laws,
    contour_figure,
    iso_flop_figure,
    optimum_figure,
    residual_map,
)
from fcdm.analysis.figures.styles import BLUE, DOUBLE, SINGLE, STYLE, label_looks
from fcdm.analysis.stats.joint_laws import JointStudy, joint_laws
from fcdm.forecasts.entries import HOLD_OUT, ForecastWithdrawal
from fcdm.forecasts.score_forecasts import ScoredForecast
from fcdm.laws.compute_optimal import optimum
from fcdm.laws.joint_law import FLOPS_PER_MAC
from tests.support.forecast_entries import an_entry, scored
from tests.support.known_surface import SURFACES, study

SIZES, BUDGETS = tuple(np.geomspace(2e7, 3.2e8, 5)), (1_000, 2_000, 4_000, 8_000)
TARGET = (6.4e8, 2_048_000.0)
COOLED = "FCDM, cooled 20 %"


@pytest.fixture(scope="module")
def laws() -> dict[str, JointStudy]:
    """Of DiT, FCDM, and FCDM cooled down, each of which has a law of its own."""
    table = study(2, sizes=SIZES, budgets=BUDGETS, of_seed=0.01, of_evaluation=0.005)
    cooled = table[table["family"] == "fcdm"].assign(cooldown=0.2, fid=lambda rows: rows["fid"] * 0.9)
    cooled = cooled.assign(run=cooled["run"] + "-cooled", label=cooled["label"] + " cooled 20 %")
    found = joint_laws(pd.concat([table, cooled], ignore_index=True), "fid", draws=40)
    made = {label: one for label, one in found.items() if isinstance(one, JointStudy)}
    assert set(made) == {"DiT/2", "FCDM", COOLED}
    return made


@pytest.fixture(scope="module")
def entries() -> list[ScoredForecast]:
    """Held and failed, withdrawn, late, one measured in a hold-out, one not measured yet."""
    late = an_entry(run="e")
    asked = [an_entry(), an_entry(run="b"), an_entry(run="c"), ForecastWithdrawal(3, "wrong"), late, an_entry(run="f")]
    found = scored(*asked, an_entry(run="d", kind=HOLD_OUT), measured=[10.5, 14.0, 0.0, 9.0, 0.0, 10.1], time=1000.0)
    late = replace(
        next(one for one in found if one.entry.run.id.startswith("e")), state="late", score=None, counted=False
    )
    return [late if one.entry.run.id.startswith("e") else one for one in found]


@pytest.fixture(scope="module")
def drawn(laws: Laws, entries: list[ScoredForecast]) -> Iterator[dict[str, tuple[Figure, pd.DataFrame]]]:
    one = {"FCDM": laws["FCDM"]}
    with plt.style.context(STYLE):
        made = {
            "contours": contour_figure(laws, "FID", {"FCDM": [TARGET]}),
            "one law's contours": contour_figure(one, "FID"),
            "iso-FLOP": iso_flop_figure(laws, "held-out loss"),
            "optimum": optimum_figure(laws),
            "residuals": residual_map(laws, "held-out loss"),
            "one law's residuals": residual_map(one, "FID"),
            "predicted": predicted_figure(laws, "FID", entries),
            "the ledger alone": predicted_figure({}, "FID", entries),
            "calibration": calibration_figure(entries),
        }
        found = {name: one for name, one in made.items() if one is not None}
        assert set(found) == set(made)
        for figure, _ in found.values():
            figure.canvas.draw()
    yield found
    for figure, _ in found.values():
        plt.close(figure)


# --- the house's rules ----------------------------------------------------------------------------


def test_no_letter_is_under_seven_points_and_no_tick_needs_an_e(drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    for name, (figure, _) in drawn.items():
        assert figure.get_figwidth() in (SINGLE, DOUBLE), name
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text().strip():
                assert text.get_fontsize() >= 7, (name, text.get_text())
                assert "e+" not in text.get_text(), name


def test_titles_legends_and_labels_lie_inside_and_not_on_each_other(
    drawn: dict[str, tuple[Figure, pd.DataFrame]],
) -> None:
    for name, (figure, _) in drawn.items():
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.05, name
        texts = [
            text
            for axes in figure.axes
            for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label)  # type: ignore[attr-defined]
        ]
        legends = [legend for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)) if legend]
        texts += [text for legend in legends for text in legend.get_texts()]
        shown = [text for text in texts if text.get_text()]
        for one, other in combinations(shown, 2):
            assert not one.get_window_extent().overlaps(other.get_window_extent()), (
                name,
                one.get_text(),
                other.get_text(),
            )


def test_two_laws_of_one_family_differ_in_shade_and_marker() -> None:
    looks = label_looks({"DiT/2": "dit", "FCDM": "fcdm", COOLED: "fcdm"})
    assert len({look.colour for look in looks.values()}) == 3
    assert len({look.markers[0] for look in looks.values()}) == 3
    assert looks["FCDM"].dashes == looks[COOLED].dashes
    alone = label_looks({"FCDM": "fcdm"})
    assert to_hex(alone["FCDM"].colour) == to_hex(BLUE)


# --- what each shows ------------------------------------------------------------------------------


def test_contours_have_what_was_fitted_the_best_sizes_and_the_target(
    laws: Laws, drawn: dict[str, tuple[Figure, pd.DataFrame]]
) -> None:
    figure, numbers = drawn["contours"]
    fit = laws["FCDM"].validation.fit
    own = numbers[numbers["label"] == "FCDM"]
    fitted = own[own["kind"] == "fitted"]
    assert fitted["value"].to_numpy() == pytest.approx(fit.points.y)
    (target,) = own[own["kind"] == "target"].to_dict("records")
    assert target["value"] == pytest.approx(float(fit.law(*TARGET)))
    best = own[own["kind"] == "optimum"]
    middle = best.iloc[len(best) // 2]
    known = optimum(fit, float(middle["train_flops"]))
    assert middle["forward_macs"] == pytest.approx(known.n.median)
    assert [middle["n_low"], middle["n_high"]] == pytest.approx(known.n.interval(0.95))
    assert [middle["d_low"], middle["d_high"]] == pytest.approx(known.d.interval(0.95))
    assert [axes.get_title("left").split(":")[0] for axes in figure.axes] == list(laws)
    assert [axes.get_ylabel() for axes in figure.axes] == ["Training images D", "", "Training images D"]
    hollow = [line for axes in figure.axes for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xydata()[0]) for line in hollow] == [[TARGET[0] / 1e9, TARGET[1]]]  # type: ignore[index]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-1] == "forecast, not measured yet"
    assert "forecast, not measured yet" not in [
        text.get_text() for text in drawn["one law's contours"][0].legends[0].get_texts()
    ]


def test_iso_flop_curves_are_the_law_and_their_minima_those_of_the_law(
    laws: Laws, drawn: dict[str, tuple[Figure, pd.DataFrame]]
) -> None:
    figure, numbers = drawn["iso-FLOP"]
    for label, made in laws.items():
        own = numbers[numbers["label"] == label]
        assert own["train_flops"].nunique() == 4
        curve = own[own["kind"] == "law"]
        law = made.validation.fit.law
        assert curve["value"].to_numpy() == pytest.approx(law(curve["forward_macs"], curve["images"]))
        spent = FLOPS_PER_MAC * curve["forward_macs"] * curve["images"]
        assert spent.to_numpy() == pytest.approx(curve["train_flops"].to_numpy())
        assert ((curve["low"] < curve["value"]) & (curve["value"] < curve["high"])).all()
        measured = own[own["kind"] == "measured"]
        points = made.validation.fit.points
        assert measured["images"].between(points.d.min(), points.d.max()).all()
        family = "dit" if label.startswith("DiT") else "fcdm"
        factor = 0.9 if label == COOLED else 1.0
        truth = factor * SURFACES[family](measured["forward_macs"].to_numpy(), measured["images"].to_numpy())
        assert measured["value"].to_numpy() == pytest.approx(truth, rel=0.05)  # seeds, and straight between budgets
        for _, at in own.groupby("train_flops"):
            (minimum,) = at[at["kind"].str.startswith("minimum")].to_dict("records")
            if minimum["kind"] == "minimum":
                assert minimum["value"] <= at.loc[at["kind"] == "law", "value"].min() * 1.02
    stars = sum(line.get_marker() == "*" for axes in figure.axes for line in axes.lines)
    assert stars == (numbers["kind"] == "minimum").sum()
    texts = [text.get_text() for axes in figure.axes if (key := axes.get_legend()) for text in key.get_texts()]
    assert len(texts) == 12
    assert all("×10" in text and text.endswith(" FLOPs") for text in texts)


def test_the_best_size_is_dotted_where_nothing_of_it_was_fitted(
    laws: Laws, drawn: dict[str, tuple[Figure, pd.DataFrame]]
) -> None:
    figure, numbers = drawn["optimum"]
    assert numbers["n_low"].le(numbers["forward_macs"]).all()
    for label, made in laws.items():
        own = numbers[numbers["label"] == label]
        points = made.validation.fit.points
        inside = own["forward_macs"].between(points.n.min(), points.n.max())
        assert list(own["inside"]) == list(inside)
        assert not inside.all()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split(":")[0] for text in texts] == [*laws, "beyond the fitted sizes"]
    assert all("N* ~ C^0." in text for text in texts[:-1])


def test_residuals_are_measured_over_law(laws: Laws, drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    figure, numbers = drawn["residuals"]
    points, law = laws["FCDM"].validation.fit.points, laws["FCDM"].validation.fit.law
    means = pd.Series(np.log(points.y)).groupby(points.cells).mean()
    cells = pd.DataFrame({"n": points.n, "d": points.d}).groupby(points.cells).first()
    expected = 100 * (np.exp(means) / law(cells["n"], cells["d"]) - 1)
    assert numbers.loc[numbers["label"] == "FCDM", "residual_percent"].to_numpy() == pytest.approx(expected.to_numpy())
    assert figure.axes[-1].get_ylabel() == "measured held-out loss\n/ law − 1 (%)"


def test_predicted_against_measured_has_fits_hold_outs_and_the_ledger(
    laws: Laws, drawn: dict[str, tuple[Figure, pd.DataFrame]]
) -> None:
    figure, numbers = drawn["predicted"]
    for label, made in laws.items():
        held = numbers[(numbers["label"] == label) & (numbers["kind"] == "held out")]
        outs = made.validation.held_out
        assert held["measured"].to_numpy() == pytest.approx([out.measured for out in outs])
        assert held["high"].to_numpy() == pytest.approx([out.forecast.new_run.interval(0.95)[1] for out in outs])
        assert [state.rsplit(": ", 1)[1] for state in held["state"]] == [out.state for out in outs]
    of_ledger = numbers[numbers["kind"].isin(["prediction", "hold-out"])]
    assert list(of_ledger["state"]) == ["held", "failed", "unscored", "held"]  # neither withdrawn nor late
    assert of_ledger["measured"].isna().sum() == 1
    assert numbers.attrs["left_out"][-2:] == ["left out: 1 withdrawn forecast", "left out: 1 late forecast"]
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-4:] == ["fitted", "held out, 95 % of a run", "of the ledger", "forecast, not measured yet"]
    alone = [text.get_text() for text in drawn["the ledger alone"][0].legends[0].get_texts()]
    assert alone == ["FCDM", "of the ledger", "forecast, not measured yet"]


def test_calibration_counts_trajectories_with_their_exact_interval(
    drawn: dict[str, tuple[Figure, pd.DataFrame]],
) -> None:
    figure, numbers = drawn["calibration"]
    shares = numbers.dropna(subset="level")
    found = {(row["kind"], row["level"]): (row["hits"], row["trajectories"]) for row in shares.to_dict("records")}
    assert found["prediction", 0.95] == (1, 2)
    assert found["hold-out", 0.5] == (1, 1)
    (low, high) = shares.loc[(shares["kind"] == "hold-out") & (shares["level"] == 0.95), ["low", "high"]].to_numpy()[0]
    assert (low, high) == pytest.approx((0.025, 1.0), abs=1e-3)  # Clopper and Pearson, 1 of 1
    assert numbers["pit"].notna().sum() == 3
    assert [axes.get_title("left") for axes in figure.axes if axes.get_title("left")] == [
        "prediction, FID",
        "hold-out, FID",
    ]


def test_four_kinds_stand_in_two_rows() -> None:
    asked = [an_entry(kind=kind) for kind in ("prediction", "continuation", "hold-out", "interpolation")]
    with plt.style.context(STYLE):
        made = calibration_figure(scored(*asked, measured=10.0))
    assert made is not None
    figure = made[0]
    figure.canvas.draw()
    assert sum(bool(axes.get_title("left")) for axes in figure.axes) == 4
    assert figure.get_figheight() > 5
    plt.close(figure)


# --- what cannot be drawn -------------------------------------------------------------------------


def test_a_law_without_an_effect_of_size_has_contours_and_no_best_size(laws: Laws) -> None:
    known = laws["FCDM"]
    fit = replace(known.validation.fit, law=replace(known.validation.fit.law, size_scale=0.0))
    flat = {"FCDM": replace(known, validation=replace(known.validation, fit=fit))}
    line = "FCDM: no best size: the law shows no effect of size"
    with plt.style.context(STYLE):
        for make in (contour_figure, iso_flop_figure):
            figure, numbers = make(flat, "FID")
            figure.canvas.draw()
            assert line in numbers.attrs["left_out"]
            assert "optimum" not in set(numbers["kind"])
            plt.close(figure)
        assert optimum_figure(flat) is None
        figure, numbers = optimum_figure({**flat, "DiT/2": laws["DiT/2"]}) or (None, pd.DataFrame())
        assert set(numbers["label"]) == {"DiT/2"}
        assert line in numbers.attrs["left_out"]
        plt.close("all")


def test_a_best_size_without_an_end_is_drawn_as_far_as_its_panel(laws: Laws) -> None:
    """Draws whose exponents are nearly none have their best at no size, or at an endless one."""
    known = laws["FCDM"].validation.fit
    draws = known.draws.copy()
    draws[::2, [2, 4]] = 1e-3
    endless = replace(laws["FCDM"], validation=replace(laws["FCDM"].validation, fit=replace(known, draws=draws)))
    one = {"FCDM": endless}
    with plt.style.context(STYLE):
        for drawn in (contour_figure(one, "FID"), iso_flop_figure(one, "FID"), optimum_figure(one)):
            assert drawn is not None
            figure, numbers = drawn
            figure.canvas.draw()
            sizes = numbers.dropna(subset="n_low")
            assert (sizes["n_high"] / sizes["n_low"]).max() > 1e6
            for axes in figure.axes:
                low, high = axes.get_ylim()
                assert high / low < 1e6
            plt.close(figure)


def test_of_nothing_there_is_no_figure() -> None:
    assert predicted_figure({}, "FID") is None
    assert calibration_figure([]) is None
    assert calibration_figure(scored(an_entry(), measured=0.0)) is None


def test_an_e_that_is_not_told_stands_in_the_title_and_below(laws: Laws) -> None:
    known = laws["FCDM"]
    profile = replace(known.validation.fit.profile, limit=np.inf)
    fit = replace(known.validation.fit, profile=profile)
    with plt.style.context(STYLE):
        figure, numbers = contour_figure({"FCDM": replace(known, validation=replace(known.validation, fit=fit))}, "FID")
    assert figure.axes[0].get_title("left").endswith("; E not told")
    assert "FCDM: E is not told: any E from 0 to the lowest mean is as good" in numbers.attrs["left_out"]
    plt.close(figure)
