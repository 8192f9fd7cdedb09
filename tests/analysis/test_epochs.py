"""Epochs beside steps: in tables, over figures, and where laws are no longer of fresh data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import plots, scaling
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.figures.draw_frontier import frontier_figure
from fcdm.analysis.figures.draw_residuals import residuals_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.published import published
from fcdm.analysis.reporting.result_tables import fit_tables, results_table
from fcdm.analysis.stats.fresh_data import seen_often
from fcdm.data.image_counts import DIGITS_TRAIN, IMAGENET_TRAIN, MOST_EPOCHS
from tests.support.commands import environment
from tests.support.fake_runs import MODELS, PAPER_PROTOCOL, make_run, make_study

DIGITS = [128 * steps / DIGITS_TRAIN for steps in (100, 200, 400, 800)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models on the digits, of before there was `data.images`."""
    folder = tmp_path_factory.mktemp("runs")
    make_study(folder, [make_run(folder, model, grids=False) for model in MODELS])
    return folder


# --- tables --------------------------------------------------------------------------------------------


def test_a_run_tells_its_epochs_by_the_images_that_it_trained_on(tmp_path: Path) -> None:
    make_run(tmp_path, "N", grids=False, images=1000)
    assert tidy_table(tmp_path)["epochs"].tolist() == pytest.approx([12.8, 25.6, 51.2, 102.4])


def test_runs_of_before_tell_theirs_by_their_data(runs: Path, tmp_path: Path) -> None:
    assert tidy_table(runs).groupby("steps")["epochs"].max().tolist() == pytest.approx(DIGITS)
    make_run(tmp_path, "XL", budgets=(400_000,), every=50_000, batch_size=256, protocol=PAPER_PROTOCOL, grids=False)
    table = tidy_table(tmp_path)
    assert table["epochs"].tolist() == pytest.approx([400_000 * 256 / IMAGENET_TRAIN])
    config = next(tmp_path.glob("*/config.yaml"))
    config.write_text(config.read_text().replace("name: imagenet", "name: my-store"))
    described = config.with_name("run.json")
    described.write_text(described.read_text().replace('"data": "imagenet"', '"data": "my-store"'))
    assert tidy_table(tmp_path)["epochs"].isna().all()


def test_published_points_have_epochs_of_imagenet() -> None:
    points = published()
    assert points["epochs"].to_numpy() == pytest.approx(points["steps"] * 256 / IMAGENET_TRAIN)


def test_the_printed_table_and_the_csv_have_them(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plots.main(["--runs", str(runs), "--study", "demo", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert " 800 71.2 " in " ".join(said.split())
    assert pd.read_csv(tmp_path / "table.csv")["epochs"].max() == pytest.approx(DIGITS[-1])
    for name in ("fid_vs_steps", "fid_vs_training_flops", "fid_vs_forward_gmacs", "fid_vs_heldout_loss"):
        assert pd.read_csv(tmp_path / f"{name}.csv")["epochs"].max() == pytest.approx(DIGITS[-1])


def test_a_report_s_results_say_their_budgets_in_epochs(tmp_path: Path) -> None:
    make_run(tmp_path, "N", grids=False)
    assert (
        "Epochs: 8.9 at 100, 17.8 at 200, 35.6 at 400, 71.2 at 800."
        in results_table(tidy_table(tmp_path), "fid", "p").notes
    )
    make_run(tmp_path, "M", grids=False, batch_size=64, budgets=(100, 200))
    notes = results_table(tidy_table(tmp_path), "fid", "p").notes
    assert "Epochs of FCDM-M: 4.45 at 100, 8.9 at 200." in notes


# --- figures -------------------------------------------------------------------------------------------


def test_an_axis_above_counts_epochs_where_one_step_is_as_many_for_all(runs: Path, tmp_path: Path) -> None:
    with plt.style.context(STYLE):
        drawn = fid_against(tidy_table(runs), "steps")
        assert drawn is not None
        drawn[0].canvas.draw()
        (axes,) = drawn[0].axes
        (above,) = axes.child_axes
        assert above.get_xlabel() == "Epochs"
        assert above.get_xlim() == pytest.approx(np.array(axes.get_xlim()) * 128 / DIGITS_TRAIN)
        shown = [text.get_text() for text in above.get_xticklabels()]
        assert len(shown) >= 2
        assert above.xaxis.label.get_window_extent().y1 < axes._right_title.get_window_extent().y0  # type: ignore[attr-defined]
        other = [make_run(tmp_path, "N", grids=False), make_run(tmp_path, "M", grids=False, batch_size=64)]
        assert len(other) == 2
        table = tidy_table(tmp_path)
        for axis, count in (("steps", 0), ("images", 1), ("train_flops", 0)):
            drawn = fid_against(table, axis)
            assert drawn is not None
            assert len(drawn[0].axes[0].child_axes) == count
        drawn = fid_against(table.assign(epochs=np.nan), "images")
        assert drawn is not None
        assert not drawn[0].axes[0].child_axes
    plt.close("all")


# --- laws ----------------------------------------------------------------------------------------------


def test_laws_of_points_beyond_ten_epochs_say_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tidy_table(runs)
    assert MOST_EPOCHS == 10
    names = "DiT-M/2, DiT-N/2, FCDM-M, FCDM-N"
    line = f"12 of 16 points lie beyond 10 epochs ({names}; up to 71.2): laws take data to be fresh"
    assert seen_often(table) == [line]
    assert scaling.main(["--runs", str(runs)]) == 0
    assert f"  {line}.\n" in capsys.readouterr().out
    assert all(f"{line}." in law.notes for law in fit_tables(table, "p"))
    with plt.style.context(STYLE):
        for figure_of in (frontier_figure, residuals_figure):
            drawn = figure_of(table)
            assert drawn is not None
            assert line in drawn[1].attrs["left_out"]
    plt.close("all")


def test_fresh_data_and_unknown_ones_are_not_flagged(runs: Path) -> None:
    table = tidy_table(runs)
    assert seen_often(table.assign(epochs=table["epochs"] / 8)) == []
    assert seen_often(table.assign(epochs=np.nan)) == []
    assert seen_often(table.drop(columns="epochs")) == []
    assert "(FCDM-N; up to 71.2)" in seen_often(table[table["label"] == "FCDM-N"])[0]


def test_the_counts_of_images_need_no_numpy() -> None:
    """Plans and launchers ask for them before anything heavy is imported."""
    code = "import sys, fcdm.data.image_counts; print(sorted({'numpy', 'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment()
    )
    assert done.stdout == "[]\n"
