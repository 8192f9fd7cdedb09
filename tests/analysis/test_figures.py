"""The figures as files: what is drawn is what stands in the CSV, in print size, and nothing is left out in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image

from fcdm.analysis import plots
from fcdm.analysis.data.guidance_table import guidance_table
from fcdm.analysis.data.tidy_table import read_curves, table_of
from fcdm.analysis.figures.ablation import settings_of
from fcdm.analysis.figures.axes import log_ticks, with_left_out
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.published_points import published_beside
from fcdm.analysis.figures.recipes import recipes
from fcdm.analysis.figures.sample_grid import sample_grid
from fcdm.analysis.figures.styles import DOUBLE, FAMILIES, OTHERS, SINGLE, STYLE
from tests.support.fake_runs import (
    FLOOR,
    PAPER,
    PAPER_PROTOCOL,
    START,
    evaluate,
    fid_at,
    make_run,
    make_study,
    make_two_resolutions,
)

BUDGETS = (50_000, 100_000, 200_000, 400_000)
SCALES = (1.25, 1.5, 2.0)
SIZES = {
    "fid_vs_forward_gmacs": "forward_gmacs",
    "fid_vs_parameters": "parameters",
    "fid_vs_sampling_flops": "sampling_flops",
}
SMALLEST = 7.0
"""Points, in print."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scaling study of the paper with curves made up, its XL evaluated with guidance too, and an ablation of L."""
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for model in PAPER:
        for seed in range(3 if model != "dit/B-2" else 1):
            run = make_run(
                folder,
                model,
                budgets=BUDGETS,
                seed=seed,
                every=50_000,
                batch_size=256,
                protocol=PAPER_PROTOCOL,
                tiles=5,
            )
            if model.endswith(("XL", "XL-2")):
                for scale in SCALES:
                    guided = {**PAPER_PROTOCOL, "guidance_scale": scale, "guidance_channels": 3}
                    evaluate(run, model, BUDGETS[-1], START, guided, seed, grids=False)
            made.append(run)
    make_study(folder, made, "scaling", budgets=BUDGETS, protocol=PAPER_PROTOCOL)
    changed = [
        make_run(
            folder,
            "L",
            budgets=BUDGETS[:3],
            seed=seed,
            every=50_000,
            batch_size=256,
            protocol=PAPER_PROTOCOL,
            keys=keys,
        )
        for place, keys in enumerate(({}, {"kernel_size": 3}, {"grn": False}))
        for seed in (10 + place, 20 + place)
    ]
    make_study(folder, changed, "block", budgets=BUDGETS[2:3], protocol=PAPER_PROTOCOL)
    return folder


@pytest.fixture(scope="module")
def drawn(runs: Path) -> Iterator[dict[str, tuple[Figure, pd.DataFrame]]]:
    """Every kind of figure, with published points."""
    found = {}
    with plt.style.context(STYLE):
        for study in ("block", "scaling"):
            curves = read_curves(runs, study)
            table = table_of(curves, runs, study)
            points, _ = published_beside(table)
            for name, (make, _) in recipes(table, guidance_table(curves, study), points).items():
                made = make() if (name == "ablation") == (study == "block") else None
                if made is not None:
                    found[name] = made
                    made[0].canvas.draw()
    yield found
    for figure, _ in found.values():
        plt.close(figure)


def points_drawn(figure: Figure, panel: int = 0) -> set[tuple[float, float]]:
    """Every point of every line and cloud of a panel, read back from what is drawn."""
    axes = figure.axes[panel]
    lines = [
        np.column_stack(line.get_data())[:: line.get_markevery() or 1]
        for line in axes.lines
        if line.get_transform() == axes.transData
    ]
    clouds = [np.asarray(cloud.get_offsets()) for cloud in axes.collections if len(cloud.get_offsets())]
    return {(float(f"{x:.6g}"), float(f"{y:.6g}")) for part in [*lines, *clouds] for x, y in part if x or y}


def points_told(numbers: pd.DataFrame, x: str, y: str) -> set[tuple[float, float]]:
    rows = numbers[numbers[x].notna() & numbers[y].notna()]
    return {(float(f"{a:.6g}"), float(f"{b:.6g}")) for a, b in zip(rows[x], rows[y], strict=True)}


# --- numbers -------------------------------------------------------------------------------------------


def test_the_numbers_beside_a_figure_are_those_in_it(drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    for name, x in (("fid_vs_steps", "steps"), ("fid_vs_training_flops", "train_flops")):
        figure, numbers = drawn[name]
        assert points_drawn(figure) == points_told(numbers, x, "fid")
        assert set(numbers["origin"]) == {"these runs", "published", "ratio at equal distance"}
    for name, x in SIZES.items():
        figure, numbers = drawn[name]
        assert points_drawn(figure) == points_told(numbers, x, "fid")
    figure, numbers = drawn["throughput"]
    for panel, kind in enumerate(("training", "inference")):
        told = points_told(numbers[numbers["panel"] == kind], "forward_gmacs", "images_per_s")
        assert points_drawn(figure, panel) == told
    figure, numbers = drawn["fid_vs_device_hours"]
    assert points_drawn(figure) == points_told(numbers, "device_hours", "fid")
    figure, numbers = drawn["fid_vs_heldout_loss"]
    assert points_drawn(figure) == points_told(numbers, "heldout_loss", "fid")
    figure, numbers = drawn["frontier"]
    assert points_drawn(figure) == points_told(numbers, "train_flops", "fid")
    figure, numbers = drawn["guidance"]
    assert points_drawn(figure, 0) == points_told(numbers, "inception_score", "fid")
    assert points_drawn(figure, 1) == points_told(numbers, "recall", "precision")
    figure, numbers = drawn["ablation"]
    bars = [float(f"{bar.get_width():.6g}") for bar in figure.axes[0].patches]
    assert bars == [float(f"{fid:.6g}") for fid in numbers["fid"]]


def test_a_curve_is_the_mean_of_its_seeds(drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    _, numbers = drawn["fid_vs_steps"]
    row = numbers[(numbers["label"] == "FCDM-L") & (numbers["steps"] == 100_000) & (numbers["origin"] == "these runs")]
    metric = [fid_at("L", 100_000, seed) for seed in range(3)]
    assert row["fid"].item() == pytest.approx(np.mean(metric))
    assert (row["fid_min"].item(), row["fid_max"].item()) == (min(metric), max(metric))


def test_guidance_joins_the_unguided_result_to_the_guided_ones(drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    _, numbers = drawn["guidance"]
    own = numbers[numbers["origin"] == "these runs"]
    assert set(own["label"]) == {"FCDM-XL, 400K steps", "DiT-XL/2, 400K steps"}
    for _, rows in own.groupby("label"):
        assert rows["guidance_scale"].tolist() == [1.0, *SCALES]
        assert (rows["seeds"] == 3).all()
    hollow = numbers[numbers["origin"] == "published"]
    assert hollow["guidance_scale"].tolist() == [1.0, 1.25, 1.5]


def test_the_ablation_marks_the_plain_model_and_tells_differences(
    drawn: dict[str, tuple[Figure, pd.DataFrame]],
) -> None:
    figure, numbers = drawn["ablation"]
    own = numbers[numbers["origin"] == "these runs"].set_index("change")
    assert own.index[0] == "plain (grn True, kernel_size 7)"
    assert set(own.index[1:]) == {"kernel_size 3", "grn False"}
    assert own["baseline"].tolist() == [True, False, False]
    for change, row in own.iterrows():
        each = [float(fid) for fid in row["each"].split()]
        assert len(each) == 2
        assert row["fid"] == pytest.approx(np.mean(each), rel=1e-5)
        assert row["difference"] == pytest.approx(row["fid"] - own["fid"].iloc[0])
        written = [text.get_text() for text in figure.axes[0].texts]
        assert any(f"({row['difference']:+.3g})" in text for text in written) == (change != own.index[0])
    dots = np.concatenate([line.get_xdata() for line in figure.axes[0].lines])
    assert set(np.round(dots, 4)) >= {round(float(fid), 4) for each in own["each"] for fid in each.split()}
    third = numbers[numbers["origin"] == "published"]
    assert len(third) == 8
    assert third["difference"].isna().all()  # of another protocol: never subtracted


def test_settings_of_a_variant() -> None:
    assert settings_of("model.blocks=[1, 2],model.grn=True,optimiser.betas=[0.9, 0.999]") == {
        "model.blocks": "[1, 2]",
        "model.grn": "True",
        "optimiser.betas": "[0.9, 0.999]",
    }


# --- print ---------------------------------------------------------------------------------------------


def test_every_letter_can_be_read_in_print_and_none_is_cut(drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    for name, (figure, _) in drawn.items():
        width, height = figure.get_size_inches()
        assert width in (SINGLE, DOUBLE), name
        assert height < 9
        for text in figure.findobj(Text):
            if not text.get_visible() or not text.get_text().strip():
                continue
            assert text.get_fontsize() >= SMALLEST, f"{name}: {text.get_text()}"
            assert "$" not in text.get_text()  # no superscripts, which would be smaller
        box = figure.get_tightbbox()
        slack = 0.03
        assert box.x0 > -slack, name
        assert box.y0 > -slack, name
        assert box.x1 < width + slack, name
        assert box.y1 < height + slack, name


def test_ticks_names_and_legends_do_not_overlap(drawn: dict[str, tuple[Figure, pd.DataFrame]]) -> None:
    for name, (figure, _) in drawn.items():
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        for axes in figure.axes:
            groups = [axes.get_xticklabels(), axes.get_yticklabels()]
            if name in (*SIZES, "throughput", "guidance"):
                groups.append(axes.texts)  # type: ignore[arg-type]
            for texts in groups:
                boxes = [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text()]
                seen = [box for box in boxes if box.width > 0]
                for place, box in enumerate(seen):
                    for other in seen[place + 1 :]:
                        across = min(box.x1, other.x1) - max(box.x0, other.x0)
                        up = min(box.y1, other.y1) - max(box.y0, other.y0)
                        assert not (across > 1 and up > 2), f"{name}: {[text.get_text() for text in texts]}"
            for legend in figure.legends:
                assert legend.get_window_extent(renderer).y1 <= axes.get_window_extent(renderer).y0, name


def deuteranopia(colour: str) -> np.ndarray:
    """Linear RGB as seen without the middle cones (Machado et al., IEEE TVCG 2009, severity 1)."""
    linear = np.array(
        [(part / 12.92) if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    )
    matrix = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])
    return np.clip(matrix @ linear, 0, 1)


def cielab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_families_are_told_apart_without_green_or_red() -> None:
    """At least 15 in CIELAB between any two (2.3 is just noticeable), and dashes differ as well."""
    looks = [*FAMILIES.values(), *OTHERS]
    for place, (colour, dashes) in enumerate(looks):
        for other, others_dashes in looks[place + 1 :]:
            distance = np.linalg.norm(cielab(deuteranopia(colour)) - cielab(deuteranopia(other)))
            assert distance > 15, f"{colour} {other}"
            assert dashes != others_dashes


def test_published_points_are_hollow_and_only_on_demand(runs: Path) -> None:
    table = table_of(read_curves(runs, "scaling"), runs, "scaling")
    points, _ = published_beside(table)
    with plt.style.context(STYLE):
        for published in (None, points):
            made = recipes(table, None, published)["fid_vs_steps"][0]()
            assert made is not None
            hollow = [line for line in made[0].axes[0].lines if line.get_markerfacecolor() == "white"]
            assert bool(hollow) == (published is not None)
            assert ("published" in set(made[1]["origin"])) == (published is not None)
            plt.close(made[0])


# --- nothing in silence ----------------------------------------------------------------------------------


def test_the_command_writes_every_figure_and_says_what_none_shows(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    words = ["--runs", str(runs), "--study", "scaling", "--out", str(out), "--least-steps", "10000000"]
    assert plots.main([*words, "--published"]) == 0  # joint laws are in test_forecast_report.py
    names = ("fid_vs_steps", "fid_vs_training_flops", "fid_vs_device_hours", *SIZES, "fid_vs_heldout_loss")
    names += ("throughput", "frontier", "fit_residuals", "guidance", "samples")
    expected = {f"{name}.{suffix}" for name in names for suffix in ("png", "pdf", "csv")} | {"table.csv"}
    assert {path.name for path in out.iterdir()} == expected
    for name in names:
        with Image.open(out / f"{name}.png") as picture:
            inches = picture.width / picture.info["dpi"][0]
            assert min(abs(inches - width) for width in (SINGLE, DOUBLE)) < 0.02
    said = capsys.readouterr().out
    for name in names:
        lines = pd.read_csv(out / f"{name}.csv")["left_out"].dropna()
        for line in lines[lines != ""]:
            assert line in said
    assert "left out: published points of models that these runs do not have (DiC-B," in said
    assert "samples: left out: pictures of all seeds but the lowest of each model" in said


def test_a_run_without_fid_is_named_in_every_figure_of_fids(tmp_path: Path) -> None:
    make_run(tmp_path, "N", grids=False)
    make_run(tmp_path, "M", grids=False)
    broken = make_run(tmp_path, "dit/N-2", grids=False)
    for path in (broken / "evaluations").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "metrics": {**content["metrics"], "fid": "NaN"}}))
    table = table_of(read_curves(tmp_path), tmp_path)
    with plt.style.context(STYLE):
        for name in ("fid_vs_steps", "fid_vs_training_flops", *SIZES, "fid_vs_heldout_loss", "frontier"):
            made = recipes(table)[name][0]()
            assert made is not None
            plt.close(made[0])
            saved = with_left_out(made[1])
            assert saved["left_out"].str.contains(broken.name, regex=False).any(), name
            assert len(saved) > len(made[1])


def test_digits_are_not_set_beside_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs", "N", grids=False)
    assert plots.main(["--runs", str(tmp_path / "runs"), "--published", "--out", str(tmp_path / "out")]) == 0
    assert "published points: they are of ImageNet, these runs of digits" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "fid_vs_steps.csv")["origin"]) == {"these runs"}


def test_many_settings_are_all_drawn_and_the_best_are_named(tmp_path: Path) -> None:
    rates = (1e-3, 2e-3, 3e-3, 4e-3, 3.5e-3)
    for model in ("N", "dit/N-2"):
        for lr in rates:
            make_run(tmp_path, model, lr=lr, budgets=(800,), grids=False)
    table = table_of(read_curves(tmp_path), tmp_path)
    with plt.style.context(STYLE):
        made = recipes(table)["fid_vs_steps"][0]()
    assert made is not None
    figure, numbers = made
    assert len(points_drawn(figure)) == len(numbers) == 10
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["FCDM-N lr=0.004", "DiT-N/2 lr=0.004", "8 other settings", f"real images: {FLOOR:.3g}"]
    plt.close(figure)


def test_guidance_without_inception_scores_stands_against_the_scale(tmp_path: Path) -> None:
    run = make_run(tmp_path, "N", grids=False)
    from tests.support.fake_runs import PROTOCOL

    evaluate(run, "N", 800, START, {**PROTOCOL, "guidance_scale": 1.5}, grids=False)
    curves = read_curves(tmp_path)
    made = recipes(table_of(curves, tmp_path, None, curves[0].evaluated[-1].protocol_id), guidance_table(curves))[
        "guidance"
    ][0]()
    assert made is not None
    figure, numbers = made
    assert len(figure.axes) == 1
    assert points_drawn(figure) == points_told(numbers, "guidance_scale", "fid")
    assert figure.axes[0].get_xlabel() == "Guidance scale"
    plt.close(figure)


@pytest.mark.parametrize(("asked", "drawn_pairs"), [((), None), (("--pair", "FCDM-S", "DiT-S/2"), 1)])
def test_only_pairs_that_were_asked_for_have_arrows_of_their_own(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], drawn_pairs: int | None
) -> None:
    given: list[int | None] = []

    def draw(*arguments: Any) -> tuple[list[Path], list[str]]:
        given.append(None if arguments[4] is None else len(arguments[4]))
        return [], []

    monkeypatch.setattr(plots, "draw", draw)
    words = ["--runs", str(runs), "--study", "scaling", "--out", str(tmp_path), "--least-steps", "10000000"]
    assert plots.main([*words, *asked]) == 0
    assert given == [drawn_pairs]


def test_of_many_settings_each_models_best_are_pictured(tmp_path: Path) -> None:
    """Twelve rows: five settings more than that would leave none of a DiT, in the order of the labels."""
    rates = [1e-3 * 1.2**step for step in range(13)]
    for model, lrs in (("N", rates), ("dit/N-2", rates[:3])):
        for lr in lrs:
            make_run(tmp_path, model, lr=lr, budgets=(800,), every=400)
    table = table_of(read_curves(tmp_path), tmp_path)
    with plt.style.context(STYLE):
        made = sample_grid(table)
    assert made is not None
    shown = set(made[1]["label"])
    assert len(shown) == 12
    last = table.sort_values("fid").groupby("model")["label"].apply(list)
    assert set(last["dit/N-2"]) <= shown
    assert set(last["N"][:9]) <= shown
    plt.close(made[0])


def drawn_and_not(
    runs: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[set[str], dict[str, str]]:
    """The names of the figures that the command draws, and why it draws no others."""
    capsys.readouterr()
    assert plots.main(["--runs", str(runs), "--out", str(out), *more]) == 0
    lines = [line.removeprefix("no ").split(": ", 1) for line in capsys.readouterr().err.splitlines()]
    return {path.stem for path in out.glob("*.png")}, {name: why for names, why in lines for name in names.split(", ")}


def test_a_figure_that_would_show_nothing_is_not_drawn_and_why_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = {"fid_vs_steps", "fid_vs_training_flops", "fid_vs_device_hours", "fid_vs_heldout_loss"}
    make_run(tmp_path / "one", budgets=(400,))
    drawn, why = drawn_and_not(tmp_path / "one", tmp_path / "figures_one", capsys)
    assert drawn == {"samples"}
    value = f"{fid_at('N', 400):.2f}"
    assert {why[name] for name in curves} == {f"there is one point, {value} of FCDM-N at 400 steps"}
    assert {why[name] for name in {*SIZES, "throughput"}} == {"there is one model, and a size takes two"}

    make_run(tmp_path / "two", budgets=(400, 800))
    drawn, why = drawn_and_not(tmp_path / "two", tmp_path / "figures_two", capsys)
    assert drawn == {*curves, "samples"}
    assert why["frontier"] == "it is the lowest of several models' curves, and no family has two models"

    make_run(tmp_path / "paper", "XL", budgets=(400_000,), every=400_000, protocol=PAPER_PROTOCOL)
    drawn, _ = drawn_and_not(tmp_path / "paper", tmp_path / "figures_paper", capsys, "--published")
    assert drawn >= {"fid_vs_steps", "fid_vs_forward_gmacs"}  # beside the paper's points


@pytest.mark.parametrize(("budgets", "width"), [((400,), SINGLE), ((400, 800), SINGLE), ((100, 200, 400, 800), DOUBLE)])
def test_pictures_fill_their_figure_however_few_budgets_there_are(
    budgets: tuple[int, ...], width: float, tmp_path: Path
) -> None:
    for model in ("N", "dit/N-2"):
        make_run(tmp_path, model, budgets=budgets)
    with plt.style.context(STYLE):
        made = sample_grid(table_of(read_curves(tmp_path), tmp_path))
    assert made is not None
    figure = made[0]
    assert figure.get_figwidth() == width
    figure.draw_without_rendering()
    shown = [axes.get_tightbbox() for axes in figure.axes]
    assert max(box.x1 for box in shown) > 0.95 * figure.bbox.width
    for box in shown:
        assert figure.bbox.padded(1).containsx(box.x0), "a name is cut"
        assert figure.bbox.padded(1).containsy(box.y1), "a title is cut"
    plt.close(figure)


def test_ticks_are_plain_and_enough_for_narrow_ranges() -> None:
    assert log_ticks(0.0037, 0.0092, 4) == [0.004, 0.006, 0.008]
    assert FLOOR > 0


def test_resolutions_are_never_joined_nor_one_left_out_for_the_other(tmp_path: Path) -> None:
    table = table_of(read_curves(make_two_resolutions(tmp_path)), tmp_path)
    with plt.style.context(STYLE):
        for name, x in (("fid_vs_forward_gmacs", "forward_gmacs"), ("frontier", "train_flops")):
            made = recipes(table)[name][0]()
            assert made is not None
            figure, numbers = made
            for line in figure.axes[0].lines:  # the gap between 8 and 16 px is never crossed
                joined = set(np.round(line.get_xdata(), 9))
                of = {side for side in (8, 16) if joined & set(np.round(table.loc[table["resolution"] == side, x], 9))}
                assert len(of) == 1 or name == "frontier", name
            assert points_drawn(figure) == points_told(numbers, x, "fid")
            assert {round(fid, 9) for fid in table["fid"]} <= {round(fid, 9) for fid in numbers["fid"].dropna()}
            assert not any("best of their model" in line for line in numbers.attrs["left_out"])
            if name == "frontier":
                assert set(numbers["at"]) == {"8 px", "16 px"}
                words = {text.get_text().split(":")[0] for text in figure.legends[0].get_texts()}
                assert words >= {"FCDM, 8 px", "FCDM, 16 px", "DiT, 8 px", "DiT, 16 px"}
            else:
                assert set(numbers["name"]) == {
                    f"{model}, {side} px" for model in ("FCDM-N", "FCDM-M", "DiT-N/2", "DiT-M/2") for side in (8, 16)
                }
            plt.close(figure)


def test_published_throughputs_are_of_inference_and_have_a_panel_of_their_own(
    runs: Path, drawn: dict[str, tuple[Figure, pd.DataFrame]]
) -> None:
    """What they imply, 2 x GMACs x images/s: 2 x 118.62e9 x 80.5 = 19.1 and 2 x 64.53e9 x 272.7 = 35.2 TFLOP/s."""
    figure, numbers = drawn["throughput"]
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("Training (images/s)", "Inference (images/s)")
    assert set(numbers["origin"]) == {"these runs", "published"}
    assert (numbers.loc[numbers["panel"] == "inference", "origin"] == "published").all()
    implied = numbers.dropna(subset="implied_tflop_per_s").set_index("name")["implied_tflop_per_s"]
    assert implied["DiT-XL/2"] == pytest.approx(2 * 118.62e9 * 80.5 / 1e12, rel=1e-3)
    assert implied["FCDM-XL"] == pytest.approx(2 * 64.53e9 * 272.7 / 1e12, rel=1e-3)
    written = {text.get_text() for text in right.texts}
    assert {"XL/2: 19.1", "XL: 35.2"} <= written
    assert "undisclosed" in right.get_title("right")
    assert "TFLOP/s" in right.get_title("right")
    assert any("TF32" in line and "not disclosed" in line for line in numbers.attrs["left_out"])
    with plt.style.context(STYLE):
        alone = recipes(table_of(read_curves(runs, "scaling"), runs, "scaling"))["throughput"][0]()
    assert alone is not None
    assert len(alone[0].axes) == 1
    plt.close(alone[0])


@pytest.mark.parametrize("axis", ["steps", "train_flops"])
def test_the_ratio_arrow_ends_on_the_drawn_curves(tmp_path: Path, axis: str) -> None:
    """Also where a FID rises on the way, after which what had been reached before counts."""
    fids = {"N": (20.0, 5.0, 2.9, 2.8), "dit/N-2": (60.0, 10.0, 11.0, 3.0)}
    for model, values in fids.items():
        run = make_run(tmp_path, model, grids=False)
        for path, fid in zip(sorted((run / "evaluations").glob("*.json")), values, strict=True):
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "metrics": {**content["metrics"], "fid": fid}, "floor": {}}))
    with plt.style.context(STYLE):
        made = fid_against(table_of(read_curves(tmp_path), tmp_path), axis)
    assert made is not None
    figure, numbers = made
    (axes,) = figure.axes
    (arrow,) = [text for text in axes.texts if isinstance(text, Annotation) and text.arrow_patch is not None]
    curves = [np.log(np.column_stack(line.get_data())) for line in axes.lines]
    for x, y in (np.log(arrow.xy), np.log(arrow.xyann)):
        # Straight lines of the drawn axes: both are logarithmic.
        crossing = [np.interp(x, curve[:, 0], curve[:, 1], left=np.nan, right=np.nan) for curve in curves]
        assert np.nanmin(np.abs(np.array(crossing) - y)) < 1e-9
    (row,) = (row for _, row in numbers.iterrows() if row["origin"] == "ratio at equal distance")
    assert (row["ratio_at_fid"], row["ratio_to"], row["ratio_from"]) == (arrow.xy[1], arrow.xy[0], arrow.xyann[0])
    plt.close(figure)


def test_each_resolution_has_its_floor(tmp_path: Path) -> None:
    with plt.style.context(STYLE):
        made = fid_against(table_of(read_curves(make_two_resolutions(tmp_path)), tmp_path), "steps")
    assert made is not None
    (axes,) = made[0].axes
    notes = {text.get_text() for text in made[0].legends[0].get_texts()}
    assert {f"real images, 8 px: {FLOOR:.3g}", f"real images, 16 px: {4 * FLOOR:.3g}"} <= notes
    assert not any("real images" in text.get_text() for text in axes.texts)  # on the curves
    title = axes.get_title("right").splitlines()
    assert len(title) == 2
    assert title[1] == "FCDM-M against DiT-M/2, 16 px"
    assert sum(isinstance(text, Annotation) and text.arrow_patch is not None for text in axes.texts) == 1
    assert (made[1]["origin"] == "ratio at equal distance").sum() == 4
    plt.close(made[0])
