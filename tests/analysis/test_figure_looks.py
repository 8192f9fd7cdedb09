"""What a reader of a printed figure sees: families in grey, many sizes, long names, round ticks, what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from fcdm.analysis.figures.axes import log_axes, log_ticks, wrapped
from fcdm.analysis.figures.draw_step_efficiency import pair_figure, ratio_figure, size_figure
from fcdm.analysis.figures.draw_throughput import throughput_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.heldout_loss import fid_against_loss
from fcdm.analysis.figures.model_size import fid_against_size
from fcdm.analysis.figures.recipes import recipes
from fcdm.analysis.figures.styles import SINGLE, STYLE, family_looks
from fcdm.analysis.plots import ratio_sentences
from fcdm.analysis.published import published
from fcdm.analysis.stats.claim_sides import pairs_of, published_pair
from fcdm.analysis.stats.model_pairs import comparisons
from fcdm.analysis.stats.step_efficiency import RatioRange
from fcdm.formatting import power_text, steps_text
from tests.support.known_surface import study

LONG = {
    "FCDM-01": "my_research.models.very_deep_unet_with_attention_v3 width=256",
    "DiT-01/2": "another_package.TransformerWithRegisters depth=12 width=384 kernel_size=7",
}


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plt.style.context(STYLE):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    """Twelve sizes of two families, three seeds."""
    return study()


@pytest.fixture(scope="module")
def few() -> pd.DataFrame:
    return study(2, sizes=(5e8, 2e9), budgets=(1_000, 4_000, 16_000))


def figure_of(drawn: tuple[Figure, pd.DataFrame] | None) -> Figure:
    assert drawn is not None
    drawn[0].canvas.draw()
    return drawn[0]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def arrows(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation) and text.arrow_patch is not None]


def tick_texts(figure: Figure) -> list[str]:
    return [
        label.get_text()
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label, at in zip(axis.get_majorticklabels(), axis.get_majorticklocs(), strict=False)
        if label.get_text() and axis.get_view_interval().min() <= at <= axis.get_view_interval().max()
    ]


# --- many sizes, one ratio ---------------------------------------------------------------------------


def test_twelve_sizes_are_told_by_shade_in_a_short_legend_with_one_ratio(many: pd.DataFrame) -> None:
    figure = figure_of(fid_against(many, "steps"))
    words = legend_of(figure)
    assert words[:2] == [
        "FCDM: 12 models, FCDM-01 (light) to FCDM-12 (dark)",
        "DiT: 12 models, DiT-01/2 (light) to DiT-12/2 (dark)",
    ]
    assert len(words) <= 5
    assert "best to worst seed" in words
    (axes,) = figure.axes
    curves = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    for marker in "os":
        greys = [sum(to_rgb(line.get_color())) for line in curves if line.get_marker() == marker]
        assert len(greys) == 12
        assert greys == sorted(greys, reverse=True)  # from light to dark with the size
        assert len(set(greys)) == 12
    assert len(arrows(axes)) == 1
    head, pair, *_ = axes.get_title("right").split("\n")
    assert "fewer steps to FID" in head
    assert pair == "FCDM-12 against DiT-12/2"


def test_each_of_several_asked_pairs_has_an_arrow_with_its_ratio(few: pd.DataFrame) -> None:
    pairs = comparisons(few)
    assert len(pairs) == 2
    drawn = fid_against(few, "steps", None, pairs)
    (axes,) = figure_of(drawn).axes
    assert drawn is not None
    ratios = drawn[1].dropna(subset="ratio")["ratio"]
    assert len(arrows(axes)) == 2
    assert {f"{ratio:.1f}×" for ratio in ratios} == {text.get_text() for text in axes.texts if text.get_text()}
    assert isinstance(pairs[0].steps, RatioRange)
    drawn = fid_against(few, "steps", None, [pairs[0], replace(pairs[1], steps=pairs[0].steps)])  # at one FID
    first, second = (Text.get_window_extent(text) for text in figure_of(drawn).axes[0].texts if text.get_text())
    assert not first.overlaps(second)


def test_a_figure_says_what_differs_besides_the_models(few: pd.DataFrame) -> None:
    plain = comparisons(few)[-1:]
    differing = [replace(plain[0], differs=("batch_size 512 against 128",))]
    refused = [replace(differing[0], steps="refused: the batches are of different size")]
    for pairs, arrow, said in ((plain, 1, False), (differing, 1, True), (refused, 0, True)):
        drawn = fid_against(few, "steps", None, pairs)
        (axes,) = figure_of(drawn).axes
        assert len(arrows(axes)) == arrow
        assert ("batch_size 512 against 128" in axes.get_title("right")) == said
    pair = replace(pairs_of(few)[0], differs=("batch_size 512 against 128",))
    assert "batch_size 512 against 128" in ratio_figure([pair])[0].axes[0].get_title("right").replace("\n", " ")


def test_two_settings_of_one_model_are_told_apart_above_the_figure(few: pd.DataFrame) -> None:
    (pair, *_) = comparisons(few)
    slower = replace(pair.a, label="FCDM-01 lr=0.002", points=pair.a.points.assign(fid=pair.a.points["fid"] * 1.2))
    (axes,) = figure_of(fid_against(few, "steps", None, [replace(pair, b=slower)])).axes
    assert "FCDM-01 against FCDM-01 lr=0.002" in axes.get_title("right").replace("\n", " ")


def test_images_are_those_of_the_comparison_and_refused_with_it(few: pd.DataFrame) -> None:
    (pair, *_) = comparisons(few)
    assert isinstance(pair.images, RatioRange)
    for images in (pair.images, "refused: other data"):
        drawn = fid_against(few, "images", None, [replace(pair, images=images)])
        (axes,) = figure_of(drawn).axes
        assert drawn is not None
        assert len(arrows(axes)) == len(drawn[1].dropna(subset="ratio")) == isinstance(images, RatioRange)


def test_the_figure_and_the_commands_last_lines_say_the_same_ratio_at_the_same_fid(few: pd.DataFrame) -> None:
    (axes,) = figure_of(fid_against(few, "steps")).axes
    head, pair, *_ = axes.get_title("right").split("\n")
    times, target = head.split("×")[0], head.rsplit(" ", 1)[1]
    (said,) = (line for line in ratio_sentences(few) if line.startswith(pair.split(" against ")[0]))
    assert f"reaches FID {target} after" in said
    assert f": {times} times fewer steps" in said


# --- families, in grey ---------------------------------------------------------------------------


def test_families_differ_by_marker_and_dashes_everywhere(few: pd.DataFrame) -> None:
    pair = published_pair(published(), "FCDM-XL", "DiT-XL/2", 256)
    assert pair is not None
    drawn = [
        figure_of(fid_against(few, "steps")),
        figure_of(fid_against_size(few, "parameters")),
        figure_of(fid_against_loss(few)),
        figure_of(throughput_figure(few)),
        pair_figure([pair])[0],
        pair_figure(pairs_of(few)[:1])[0],
        size_figure(published().query("family in ('fcdm', 'dit') and guidance_scale == 1"), None)[0],
    ]
    for figure in drawn:
        looks: dict[bool, list[tuple[object, object]]] = {True: [], False: []}
        for axes in figure.axes:
            for line in axes.lines:
                red, _, blue = to_rgb(line.get_color())
                if line.get_marker() != "None" and abs(red - blue) > 0.1:
                    looks[blue > red].append((line.get_marker(), line._unscaled_dash_pattern[1] is None))  # type: ignore[attr-defined]
        ours, theirs = looks[True], looks[False]
        assert ours
        assert theirs
        assert not {marker for marker, _ in ours} & {marker for marker, _ in theirs}
        assert {solid for _, solid in ours} == {True}
        assert {solid for _, solid in theirs} == {False}


def test_no_two_families_share_a_shape() -> None:
    looks = family_looks(["mine", "other", "third", "fourth"])
    firsts = [look.markers[0] for look in looks.values()]
    assert len(set(firsts)) == len(firsts) == 6
    for one, other in combinations(("fcdm", "dit", "mine", "other"), 2):
        assert not set(looks[one].markers) & set(looks[other].markers)


def test_every_axis_of_fids_is_logarithmic(few: pd.DataFrame) -> None:
    pair = published_pair(published(), "FCDM-XL", "DiT-XL/2", 256)
    assert pair is not None
    figures = [drawn[0] for make, _ in recipes(few).values() if (drawn := make()) is not None]
    figures += [pair_figure([pair])[0], size_figure(published(), None)[0], ratio_figure([pair])[0]]
    found = 0
    for figure in figures:
        for axes in figure.axes:
            for label, scale in ((axes.get_xlabel(), axes.get_xscale()), (axes.get_ylabel(), axes.get_yscale())):
                if label.startswith("FID"):
                    assert scale == "log"
                    found += 1
    assert found >= 8


def test_bands_stand_in_the_legend(few: pd.DataFrame) -> None:
    assert "best to worst seed" in legend_of(figure_of(fid_against(few, "steps")))
    one = few[few["seed"] == 0]
    one.attrs = few.attrs
    assert "best to worst seed" not in legend_of(figure_of(fid_against(one, "steps")))
    figure, told = ratio_figure([replace(pair, error=0.07) for pair in pairs_of(few)[:1]])
    assert {"one model's FIDs off by 7 %", "both models' FIDs off by 7 %", "95 % interval over seeds"} <= set(
        legend_of(figure)
    )
    assert "off by 7 %" in told


def test_budgets_are_told_apart_from_families(few: pd.DataFrame) -> None:
    """Each budget's entry shows the points of both families in that budget's shade."""
    figure = figure_of(fid_against_size(few, "forward_gmacs"))
    assert legend_of(figure) == ["FCDM", "DiT", "1K steps", "4K steps", "16K steps"]
    shades = {(line.get_marker(), line.get_color()) for line in figure.axes[0].lines}
    assert len(shades) == 6  # of two families at three budgets
    keys = figure.legends[0].findobj(lambda one: hasattr(one, "get_markerfacecolor"))
    assert shades <= {(key.get_marker(), key.get_color()) for key in keys}  # type: ignore[attr-defined]


# --- names ---------------------------------------------------------------------------


def test_long_names_are_whole_and_inside(few: pd.DataFrame) -> None:
    one = few[few["label"].isin(LONG)]
    names = one["label"].map(LONG)
    family = names.str.split(" ").str[0]
    table = one.assign(label=names, variant=names, family=family, model=family)
    table.attrs = few.attrs
    for make, _ in recipes(table).values():
        drawn = make()
        if drawn is None:
            continue
        figure = drawn[0]
        figure.canvas.draw()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        if figure.axes[0].get_xlabel() == "Training compute C (FLOPs)":
            continue  # the frontier
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.03, figure.axes[0].get_xlabel()
    words = legend_of(figure_of(fid_against(table, "steps")))
    letters = {word.replace(" ", "") for word in words}
    assert {name.replace(" ", "") for name in LONG.values()} <= letters


def markers_and_names(axes: Axes) -> tuple[list[Bbox], dict[str, Bbox]]:
    """(boxes of all markers, name beside a point -> its box without a leader), in pixels."""
    markers = []
    for line in axes.lines:
        if line.get_marker() in ("None", "none", "", None):
            continue
        half = line.get_markersize() / 2 * axes.figure.dpi / 72
        at = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        markers += [Bbox([[x - half, y - half], [x + half, y + half]]) for x, y in at]
    return markers, {text.get_text(): Text.get_window_extent(text) for text in axes.texts}


def test_names_lie_on_no_marker(many: pd.DataFrame, few: pd.DataFrame) -> None:
    drawn = [throughput_figure(few, published()), throughput_figure(many, published())]
    drawn += [fid_against_size(table, axis) for table in (many, few) for axis in ("forward_gmacs", "parameters")]
    for axes in (axes for one in drawn for axes in figure_of(one).axes):
        markers, names = markers_and_names(axes)
        assert names
        for name, box in names.items():
            assert not any(box.overlaps(marker) for marker in markers), name


def test_of_many_sizes_the_smallest_and_the_largest_are_named(many: pd.DataFrame) -> None:
    for figure in (figure_of(fid_against_size(many, "forward_gmacs")), figure_of(throughput_figure(many))):
        assert {text.get_text() for text in figure.axes[0].texts} == {"01", "01/2", "12", "12/2"}


def test_every_published_throughput_has_its_name_or_is_said_to_have_none(few: pd.DataFrame) -> None:
    points = published()
    known = points.dropna(subset=["images_per_s", "forward_gmacs"]).drop_duplicates(["model", "resolution"])
    figure = figure_of(throughput_figure(few, points))
    implied = sorted(f"{value:.1f}" for value in known["implied_tflop_per_s"])
    assert sorted(text.get_text().rsplit(": ", 1)[1] for text in figure.axes[1].texts) == implied
    crowd = pd.concat(known[:1].assign(model=f"Another-{place:03}") for place in range(60))  # one on another
    drawn = throughput_figure(few, crowd)
    figure = figure_of(drawn)
    assert drawn is not None
    (said,) = (line for line in drawn[1].attrs["left_out"] if line.startswith("without a name"))
    assert said.count("Another-") == 60 - len(figure.axes[1].texts) > 0


@given(st.text("abc_.= ", min_size=1, max_size=200), st.floats(0.6, 5.0))
def test_wrapped_text_keeps_every_letter_and_the_width(text: str, width: float) -> None:
    lines = wrapped(text, width).split("\n")
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert max(len(line) for line in lines) <= max(8, width / 0.058)


def test_names_lie_on_no_other_name(many: pd.DataFrame) -> None:
    for drawn in (fid_against_size(many, "forward_gmacs"), throughput_figure(many, published())):
        figure = figure_of(drawn)
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [Text.get_window_extent(text, renderer) for text in figure.axes[-1].texts]
        assert len(boxes) >= 4
        for one, other in combinations(boxes, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert not (across > 1 and up > 2)


# --- ticks ---------------------------------------------------------------------------


def test_large_numbers_are_powers_of_ten_and_counts_have_their_letters() -> None:
    assert [power_text(value) for value in (1e15, 2e11, 5e-4, 1e-3, 2.5e21)] == [
        "10¹⁵",
        "2×10¹¹",
        "5×10⁻⁴",
        "10⁻³",
        "2.5×10²¹",
    ]
    assert [steps_text(steps) for steps in (999_960, 999_999_999, 1e9, 2.5e9, 1e12, 3e15)] == [
        "1M",
        "1B",
        "1B",
        "2.5B",
        "1T",
        "3×10¹⁵",
    ]


@given(st.floats(1, 1e17))
def test_a_count_has_four_digits_at_most_and_no_exponent_of_a_program(steps: float) -> None:
    text = steps_text(steps)
    assert "e" not in text
    assert len(text.rstrip("KMBT").replace(".", "")) <= 4 or "×" in text or text.startswith("10")


@given(st.floats(-6, 20), st.floats(1e-4, 6), st.integers(3, 7))
def test_a_log_axis_has_ticks_however_little_or_much_it_spans(start: float, decades: float, most: int) -> None:
    low, high = 10.0**start, 10.0 ** (start + decades)
    ticks = log_ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)


@pytest.mark.parametrize("axis", ["steps", "train_flops", "device_seconds"])
def test_one_point_and_narrow_ranges_have_readable_axes(axis: str) -> None:
    point = study(1, sizes=(1e8,), budgets=(4_000,), families=("fcdm",))
    narrow = study(1, sizes=(1e8,), budgets=(4_000, 4_400, 4_800))
    for table in (point, narrow):
        figure = figure_of(fid_against(table, axis))
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        assert high / low < 10
        for which in (axes.xaxis, axes.yaxis):
            inside = [at for at in which.get_majorticklocs() if np.prod(which.get_view_interval() - at) <= 0]
            assert len(inside) >= (1 if axis == "steps" else 2)


@pytest.mark.parametrize("span", [1.3, 1.6, 2.1, 2.6, 4, 8, 9.5])
@pytest.mark.parametrize("low", [6.1e7, 7.5e7, 1.01e8])
def test_numbers_with_exponents_do_not_overlap_however_little_they_span(low: float, span: float) -> None:
    figure, axes = plt.subplots(figsize=(SINGLE, 2.0))
    axes.plot([low, low * span], [1, 10])
    axes.set(xscale="log", yscale="log", ylabel="FID")
    log_axes(axes, 4, 7)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    left, right = axes.get_xlim()
    seen = [
        label.get_window_extent(renderer)
        for label, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
        if left <= at <= right
    ]
    assert len(seen) >= 2
    assert all(one.x1 < other.x0 for one, other in pairwise(sorted(seen, key=lambda box: box.x0)))


def test_no_axis_mixes_notations(many: pd.DataFrame, few: pd.DataFrame) -> None:
    tiny = few.assign(forward_gmacs=few["forward_gmacs"] * 1e-3, device_seconds=few["device_seconds"] * 1e-3)
    tiny.attrs = few.attrs
    for table in (many, few, tiny):
        for make, _ in recipes(table).values():
            drawn = make()
            if drawn is None:
                continue
            figure = figure_of(drawn)
            for axes in figure.axes:
                texts = [label.get_text() for label in axes.get_xticklabels() if label.get_text()]
                assert not any("e" in text for text in texts)
                assert len({"10" in text and text[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹" for text in texts}) <= 1
            assert not any("e+" in text or "e-" in text for text in tick_texts(figure))
            plt.close(figure)


def test_no_letter_is_under_seven_points(many: pd.DataFrame) -> None:
    figure = figure_of(fid_against(many, "train_flops"))
    assert "10¹⁴" in tick_texts(figure)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            assert text.get_fontsize() >= 7
