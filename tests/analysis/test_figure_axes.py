"""FID against what else a model is or costs: numbers by closed forms and published tables, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.figures.draw_step_efficiency import size_figure
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.heldout_loss import fid_against_loss
from fcdm.analysis.figures.model_size import fid_against_size, sampling_flops
from fcdm.analysis.figures.recipes import hours_refused, recipes
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.published import published
from tests.support.known_surface import BATCH, study

DIT_TABLE_4 = {  # arXiv 2212.09748, 400K steps without guidance: GMACs and FID-50K
    **{"S/8": (0.36, 153.60), "S/4": (1.41, 100.41), "S/2": (6.06, 68.40), "B/8": (1.42, 122.74)},
    **{"B/4": (5.56, 68.38), "B/2": (23.01, 43.47), "L/8": (5.01, 118.87), "L/4": (19.70, 45.64)},
    **{"L/2": (80.71, 23.33), "XL/8": (7.39, 106.41), "XL/4": (29.05, 43.01), "XL/2": (118.64, 19.47)},
}


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with plt.style.context(STYLE):
        yield
    plt.close("all")


@pytest.fixture
def table() -> pd.DataFrame:
    """Four sizes of two families, two seeds, three budgets."""
    return study(2, sizes=(1e8, 3e8, 9e8, 27e8), budgets=(1_000, 4_000, 16_000))


def changed(table: pd.DataFrame, **columns: object) -> pd.DataFrame:
    new = table.assign(**columns)
    new.attrs = dict(table.attrs)
    return new


# --- size ---------------------------------------------------------------------------


def test_a_power_law_correlates_perfectly_and_it_is_said_on_which_points(table: pd.DataFrame) -> None:
    exact = changed(table, fid=3.0 * table["forward_gmacs"] ** -0.7 * table["steps"] ** -0.2)
    drawn = fid_against_size(exact, "forward_gmacs")
    assert drawn is not None
    figure, numbers = drawn
    found = numbers[numbers["origin"] == "correlation"]
    assert len(found) == 6  # two families, three budgets
    assert found["correlation"].to_numpy() == pytest.approx(-1.0)
    assert set(found["models"]) == {4}
    assert figure.axes[0].get_title("right").split("\n") == [
        "log-log correlation at 16K steps:",
        "FCDM −1.00, DiT −1.00 (4 models each)",
    ]
    two = exact[exact["label"].isin(["FCDM-01", "FCDM-02"])]
    two.attrs = exact.attrs
    drawn = fid_against_size(two, "forward_gmacs")
    assert drawn is not None
    assert drawn[0].axes[0].get_title("right") == ""  # of two points it is always 1


def test_the_correlation_of_dits_twelve_models_is_that_of_its_table_4() -> None:
    gmacs, fid = np.log(np.array(list(DIT_TABLE_4.values()))).T
    gmacs, fid = gmacs - gmacs.mean(), fid - fid.mean()
    by_hand = (gmacs @ fid) / np.sqrt((gmacs @ gmacs) * (fid @ fid))
    points = published().query("series == 'DiT paper, Table 4' and steps == 400000")
    told = size_figure(points, None)[1]
    assert f"DiT {by_hand:.2f}".replace("-", "−") + " (12 models, published)" in told


@pytest.mark.parametrize(("scale", "passes"), [(1.0, 1), (1.5, 2)])
def test_sampling_costs_a_forward_pass_a_step_and_two_with_guidance(
    table: pd.DataFrame, scale: float, passes: int
) -> None:
    known = changed(table, guidance_scale=scale)
    known.attrs["protocol"] = {"sampling_steps": 25}
    drawn = fid_against_size(known, "sampling_flops")
    assert drawn is not None
    points = drawn[1][drawn[1]["origin"] == "these runs"]
    flops = points.groupby("name")["sampling_flops"].first()
    assert flops["FCDM-01"] == pytest.approx(2 * 1e8 * 25 * passes)
    assert flops["DiT-04/2"] == pytest.approx(2 * 27e8 * 25 * passes)
    assert fid_against_size(table, "sampling_flops") is None  # how many steps is not recorded
    assert "sampling steps" in str(recipes(table)["fid_vs_sampling_flops"][1])


def test_sampling_is_counted_by_the_passes_of_the_sampler(table: pd.DataFrame) -> None:
    macs = 1e9 * table["forward_gmacs"].to_numpy()
    known = changed(table)
    known.attrs["protocol"] = {"sampler": "heun", "sampling_steps": 25}
    assert sampling_flops(known).to_numpy() == pytest.approx(2 * 2 * 25 * macs)  # two calls a step
    for unknown in ({"sampler": "dopri5", "sampling_steps": None}, {"sampling_steps": 25, "guidance_weak": "ab@1"}):
        known.attrs["protocol"] = unknown
        assert sampling_flops(known).isna().all()


def test_quality_against_parameters_takes_the_best_setting_of_each_model(table: pd.DataFrame) -> None:
    worse = changed(table, fid=table["fid"] * 2, label=table["label"] + " lr=0.1", variant="worse", lr=0.1)
    both = pd.concat([table, worse], ignore_index=True)
    both.attrs = table.attrs
    drawn = fid_against_size(both, "parameters")
    assert drawn is not None
    points = drawn[1][drawn[1]["origin"] == "these runs"]
    assert len(points) == 8 * 3
    assert not points["label"].str.contains("lr=").any()
    assert any("best of their model at no budget" in line for line in drawn[1].attrs["left_out"])


# --- held-out loss ---------------------------------------------------------------------------


def test_rank_correlation_of_fid_and_loss_is_of_each_family(table: pd.DataFrame) -> None:
    """1 of what rises together; 1 - 6 sum(d^2) / (n (n^2 - 1)) else: here the last two of five are exchanged."""
    table = study(1, sizes=(1e8,), budgets=(1_000, 2_000, 4_000, 8_000, 16_000), of_seed=0, of_evaluation=0)
    loss = table["fid"].rank()
    dit = table["family"] == "dit"
    last = dit & (table["steps"] == 16_000)
    before = dit & (table["steps"] == 8_000)
    loss[last], loss[before] = float(loss[before].iloc[0]), float(loss[last].iloc[0])
    drawn = fid_against_loss(changed(table, heldout_loss=loss))
    assert drawn is not None
    figure, numbers = drawn
    found = numbers[numbers["origin"] == "rank correlation"].set_index("label")
    assert found["correlation"]["FCDM"] == pytest.approx(1)
    assert found["correlation"]["DiT"] == pytest.approx(1 - 6 * 2 / (5 * 24))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["FCDM: Spearman's ρ 1.00 (5 points)", "DiT: Spearman's ρ 0.90 (5 points)"]


def test_points_without_a_loss_are_named_and_few_points_have_no_correlation(table: pd.DataFrame) -> None:
    some = changed(table, heldout_loss=table["heldout_loss"].where(table["label"] == "FCDM-01"))
    drawn = fid_against_loss(some)
    assert drawn is not None
    assert len(drawn[1]) == 3
    assert "too few points" in drawn[0].legends[0].get_texts()[0].get_text()
    assert any("FCDM-02: 3 budgets without a held-out loss" in line for line in drawn[1].attrs["left_out"])
    assert fid_against_loss(changed(table, heldout_loss=np.nan)) is None


# --- time, and images ---------------------------------------------------------------------------


def test_device_hours_are_seconds_over_3600_and_refused_across_devices(table: pd.DataFrame) -> None:
    drawn = fid_against(table, "device_seconds")
    assert drawn is not None
    figure, numbers = drawn
    assert figure.axes[0].get_xlabel() == "Training time (device-hours)"
    hours = sorted(numbers.loc[numbers["label"] == "FCDM-01", "device_hours"])
    assert hours == pytest.approx([1e8 * BATCH * steps / 1e11 / 3600 for steps in (1_000, 4_000, 16_000)])
    assert hours_refused(table) is None
    for devices, why in (
        (np.where(table["family"] == "dit", "A100", "H100"), "different devices (A100; H100)"),
        ("2 x A100 + 1 x H100", "different devices"),
        ("", "not recorded"),
    ):
        other = changed(table, device=devices)
        make, reason = recipes(other)["fid_vs_device_hours"]
        assert why in str(reason)
        assert make() is None


def test_images_are_an_axis_where_batches_differ(table: pd.DataFrame) -> None:
    make, reason = recipes(table)["fid_vs_images"]
    assert make() is None
    assert reason is None  # the same figure as against steps: not missed
    mixed = changed(table, batch_size=np.where(table["family"] == "dit", 4 * BATCH, BATCH))
    drawn = recipes(mixed)["fid_vs_images"][0]()
    assert drawn is not None
    points = drawn[1][drawn[1]["origin"] == "these runs"].groupby("label")["images"].max()
    assert points["FCDM-01"] == 16_000 * BATCH
    assert points["DiT-01/2"] == 16_000 * 4 * BATCH
    steps = fid_against(mixed, "steps")
    assert steps is not None
    # The same FIDs after four times the images: the ratio of images is four times that of steps.
    of_images, of_steps = (one[1].dropna(subset="ratio")["ratio"].to_numpy() for one in (drawn, steps))
    assert len(of_images) > 0
    if len(of_steps):
        assert of_images == pytest.approx(4 * of_steps)
