"""The frontier figure and the residuals of fits: what is drawn is what was fitted, and no more than the points tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.analysis.figures.axes import NOTE
from fcdm.analysis.figures.draw_frontier import BAND, THICK, family_frontiers, frontier_figure, scale_text
from fcdm.analysis.figures.draw_residuals import residuals_figure
from fcdm.analysis.figures.styles import STYLE, family_looks
from fcdm.analysis.published import published
from fcdm.analysis.stats.power_law_fit import Fit
from fcdm.analysis.stats.study_laws import frontiers_of
from tests.support.fake_runs import MODELS, make_run
from tests.support.known_surface import SIZES, study

STUDIES = {
    "12 sizes": {"seeds": 3},
    "one family": {"seeds": 3, "families": ("fcdm",), "sizes": SIZES[3:9]},
    "one seed": {"seeds": 1},
    "two sizes": {"seeds": 3, "sizes": SIZES[:2]},
}


@pytest.fixture(scope="module")
def drawn() -> Iterator[dict[str, tuple[pd.DataFrame, Figure, pd.DataFrame]]]:
    made = {}
    with plt.style.context(STYLE):
        for name, kind in STUDIES.items():
            table = study(**kind)  # type: ignore[arg-type]
            found = frontier_figure(table)
            assert found is not None
            found[0].canvas.draw()
            made[name] = (table, *found)
    yield made
    for _, figure, _ in made.values():
        plt.close(figure)


def test_the_law_stands_in_the_panel_with_its_intervals(
    drawn: dict[str, tuple[pd.DataFrame, Figure, pd.DataFrame]],
) -> None:
    table, figure, numbers = drawn["12 sizes"]
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    for (_, made), text in zip(sorted(frontiers_of(table).items(), reverse=True), texts, strict=True):
        assert isinstance(made.law, Fit)
        (low, high) = made.law.intervals["offset"]
        assert f"E {made.law.law.offset:.3g} (" in text
        assert low < made.law.law.offset < high
        assert f"A {scale_text(made.law.law.scale)} (" in text
        assert f"α {made.law.law.exponent:.3g} (" in text
    laws = numbers[numbers["kind"] == "law"]
    assert (laws["low"] < laws["fid"]).all()
    assert (laws["fid"] < laws["high"]).all()
    assert len(axes.collections) == 2  # a band for each family
    for text in axes.texts:  # no grid line through its letters
        patch = text.get_bbox_patch()
        assert patch is not None
        assert patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    ends = [line for line in axes.lines if line.get_linewidth() == 0.4]
    assert len(ends) == 4  # of both bands, and over all that could hide them
    over = max(line.get_zorder() for line in axes.lines if line.get_linewidth() >= BAND)
    assert min(line.get_zorder() for line in ends) > over
    assert max(line.get_linewidth() for line in axes.lines if line.get_linestyle() != "None") <= THICK
    curves = [line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_zorder() == 3]  # type: ignore[arg-type]
    assert {line.get_linewidth() for line in curves} == {0.7, BAND}


def test_no_law_is_drawn_that_is_not_told(drawn: dict[str, tuple[pd.DataFrame, Figure, pd.DataFrame]]) -> None:
    _, figure, numbers = drawn["two sizes"]
    (axes,) = figure.axes
    assert set(numbers["kind"]) == {"point", "envelope"}
    assert all("no law: " in text.get_text() for text in axes.texts)
    assert not axes.collections
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert not any("law" in word or "interval" in word for word in words)
    assert sum("'s frontier: no law: " in line for line in numbers.attrs["left_out"]) == 2
    _, figure, numbers = drawn["one seed"]
    assert not figure.axes[0].collections  # a law, and no band
    assert "95 % interval of the law" not in [text.get_text() for text in figure.legends[0].get_texts()]
    texts = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert all(("no interval: 1 seed" in text and "E not told" in text) or "no law: " in text for text in texts)
    assert any("E not told" in text for text in texts)
    assert numbers["offset"].isna().all()


@pytest.mark.parametrize("name", STUDIES)
def test_nothing_overprints_the_laws_and_no_letter_is_small(
    drawn: dict[str, tuple[pd.DataFrame, Figure, pd.DataFrame]], name: str
) -> None:
    _, figure, numbers = drawn[name]
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    points = numbers[numbers["fid"].notna()]
    shown = axes.transData.transform(points[["train_flops", "fid"]].to_numpy(float))
    for box in boxes:
        inside = (box.x0 < shown[:, 0]) & (shown[:, 0] < box.x1) & (box.y0 < shown[:, 1]) & (shown[:, 1] < box.y1)
        assert not inside.any()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    assert all(text.get_fontsize() >= NOTE for text in axes.texts)


def test_reasons_side_by_side_in_a_small_study_have_room(tmp_path: Path) -> None:
    """Beside an axis of a long name; the reasons are as long as those of two budgets get."""
    for model in MODELS:
        make_run(tmp_path, model, budgets=(400, 800), grids=False)
    table = table_of(read_curves(tmp_path), tmp_path).assign(distance="kernel distance (classifier)")
    with plt.style.context(STYLE):
        made = frontier_figure(table)
        assert made is not None
        made[0].canvas.draw()
        (axes,) = made[0].axes
        texts = [text for text in axes.texts if "no law" in text.get_text()]
        left, right = (text.get_window_extent() for text in texts)
        assert left.x1 < right.x0
        assert right.x1 < axes.get_window_extent().x1
        for text in texts:
            lines = [len(line) for line in text.get_text().split("\n")]
            assert min(lines) > max(lines) / 2, "a last word alone"
        plt.close(made[0])


def test_families_differ_by_marker_and_dashes_as_well_as_colour(
    drawn: dict[str, tuple[pd.DataFrame, Figure, pd.DataFrame]],
) -> None:
    _, figure, _ = drawn["12 sizes"]
    handles = figure.legends[0].get_lines()[:2]
    assert len({handle.get_marker() for handle in handles}) == 2
    assert len({str(handle._dash_pattern) for handle in handles}) == 2  # type: ignore[attr-defined]


def test_families_of_ones_own_look_on_the_frontier_as_everywhere() -> None:
    table = study(1, sizes=SIZES[3:6])
    table = table.assign(family=table["family"].map({"fcdm": "mine", "dit": "yours"}))
    looks = family_looks(["mine", "yours"])
    for one in family_frontiers(table):
        look = looks[one.family]
        assert (one.colour.upper(), one.dashes, one.marker) == (look.colour, look.dashes, look.markers[0])


def test_published_points_are_no_frontier_where_each_model_has_one_budget() -> None:
    points = published()
    at = points[(points["resolution"] == 256) & (points["guidance_scale"] == 1) & (points["steps"] == 400_000)]
    table = at.assign(run=at["model"], label=at["model"], variant=at["model"], seed=0, samples=50_000, data="imagenet")
    with plt.style.context(STYLE):
        made = frontier_figure(table)
    assert made is not None
    figure, numbers = made
    assert set(numbers["kind"]) == {"point"}
    assert not (numbers["on_frontier"] == True).any()  # noqa: E712
    assert any("size scaling at fixed steps" in line for line in numbers.attrs["left_out"])
    plt.close(figure)


def test_powers_are_typeset() -> None:
    assert scale_text(314_159.0) == "3.1×10⁵"
    assert scale_text(2.5e-7) == "2.5×10⁻⁷"
    assert scale_text(0.0321) == "0.0321"
    assert scale_text(99.96e5) == "10⁷"  # as on the axes
    assert (scale_text(9_940.0), scale_text(9_960.0)) == ("9940", "10⁴")
    assert (scale_text(0.0), scale_text(float("inf"))) == ("0", "∞")


# --- residuals -----------------------------------------------------------------------------------------


def test_residuals_are_measured_over_law_and_the_band_is_the_seeds_noise() -> None:
    table = study(3, families=("fcdm",))
    with plt.style.context(STYLE):
        made = residuals_figure(table)
    assert made is not None
    figure, numbers = made
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[1:] == ["the frontier's envelope", "measured points on it"]
    law = frontiers_of(table)["fcdm"].law
    assert isinstance(law, Fit)
    means = table.groupby(["label", "train_flops"])["fid"].mean()
    points = numbers[numbers["kind"] == "frontier"]
    for row in points.itertuples():
        near = means[row.label]
        (place,) = np.flatnonzero(np.isclose(near.index.to_numpy(), float(str(row.train_flops))))
        of_law = law.law.offset + law.law.scale * float(str(row.train_flops)) ** -law.law.exponent
        assert row.residual_percent == pytest.approx(100 * (near.iloc[place] / of_law - 1), abs=1e-6)
    assert numbers["noise_percent"].to_numpy() == pytest.approx(100 * law.noise)
    assert 0.5 < 100 * law.noise / (3 / np.sqrt(3)) < 1.2  # 3 % in one run, three runs; the best of several has less
    plt.close(figure)


def test_residuals_of_fits_that_tell_no_law_are_shown_with_the_reason() -> None:
    table = study(1, sizes=SIZES[:2], families=("fcdm",))
    wave = 1 + 0.3 * np.sin(np.log(table["steps"] / 1000) * 2)
    with plt.style.context(STYLE):
        made = residuals_figure(table.assign(fid=table["fid"] * wave))
    assert made is not None
    figure, numbers = made
    assert set(numbers["kind"]) == {"model"}
    assert (numbers["no_law"] != "").all()
    assert len(numbers.attrs["left_out"]) == 2
    assert residuals_figure(table[table["steps"] <= 2000]) is None
    plt.close(figure)
