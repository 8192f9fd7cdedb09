"""The published numbers: every row has a source, costs agree with fcdm.cost, MACs and FLOPs are apart."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.data.labels import display_name
from fcdm.analysis.published import COLUMNS, FOLDER, PUBLISHED, published, published_ablations, published_curve


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return published()


def row(table: pd.DataFrame, model: str, resolution: int, steps: int, **others: object) -> pd.Series:
    found = table[(table["model"] == model) & (table["resolution"] == resolution) & (table["steps"] == steps)]
    for key, value in others.items():
        found = found[found[key] == value]
    assert len(found) == 1, found
    return found.iloc[0]


@pytest.mark.parametrize("name", ["results", "models", "throughput", "ablations"])
def test_every_number_has_a_source_and_says_how_sure_it_is(name: str) -> None:
    content = pd.read_csv(FOLDER / f"{name}.csv")
    assert content["source"].str.len().min() > 5
    assert set(content["confidence"]) <= {"paper", "third-party", "derived"}
    of_fcdm = content[content["model"].str.startswith("FCDM") & (content["confidence"] != "derived")]
    assert set(of_fcdm["confidence"]) == {"third-party"}  # nobody here has read them in the paper itself


def test_the_headline_points(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    assert set(table["origin"]) == {PUBLISHED}
    assert row(table, "DiT-XL/2", 256, 7_000_000, guidance_scale=1.0)["fid"] == 9.62
    assert row(table, "DiT-XL/2", 256, 7_000_000, guidance_scale=1.5)["fid"] == 2.27
    assert row(table, "FCDM-XL", 256, 1_000_000)["fid"] == 7.91
    assert np.isnan(row(table, "FCDM-XL", 256, 2_000_000)["guidance_scale"])  # the source does not tell it
    assert row(table, "FCDM-XL", 512, 1_000_000)["images_per_s"] == 129.6


def test_counted_costs_are_those_of_fcdm_cost() -> None:
    """The published GMACs differ by rounding only; parameters as well."""
    models = pd.read_csv(FOLDER / "models.csv")
    command = [sys.executable, "-m", "fcdm.cost", "--model", "S,B,L,XL", "--resolution", "256,512", "--json"]
    dit = [f"dit/{size}-{patch}" for size in ["S", "B", "L", "XL"] for patch in (2, 4, 8)]
    command[command.index("S,B,L,XL")] += "," + ",".join(dit)
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(told) == 32
    for cost in told:
        family = "dit" if cost["model"].startswith("dit/") else "fcdm"
        name = display_name(cost["model"], family)
        found = models[(models["model"] == name) & (models["resolution"] == cost["resolution"])].iloc[0]
        assert found["forward_gmacs_counted"] == pytest.approx(cost["forward_macs"] / 1e9, abs=6e-6)
        assert found["parameters_m_counted"] == pytest.approx(cost["parameters"] / 1e6, abs=6e-3)
        if np.isfinite(found["forward_gmacs_published"]):
            assert found["forward_gmacs_published"] == pytest.approx(found["forward_gmacs_counted"], rel=0.01)


def test_training_flops_are_six_times_macs_times_images(table: pd.DataFrame) -> None:
    assert np.allclose(table["train_flops"], 6 * table["forward_gmacs"] * table["images"] * 1e9)
    dit = row(table, "DiT-XL/2", 256, 7_000_000, guidance_scale=1.0)
    assert dit["images"] == 7_000_000 * 256
    assert dit["train_flops"] == pytest.approx(1_275_417.5e15, rel=1e-6)
    assert table["forward_gmacs"].notna().all()


def test_a_curve_has_one_source_and_one_protocol(table: pd.DataFrame) -> None:
    for (model, resolution, series), points in table[table["series"] != ""].groupby(["model", "resolution", "series"]):
        assert points["steps"].is_unique, (model, resolution, series)
        for key in ("guidance_scale", "decoder", "framework", "sampler", "samples"):
            assert points[key].nunique(dropna=False) == 1
    dit = published_curve(table, "DiT-XL/2", 256)
    assert dit["steps"].tolist() == [400_000, 2_352_000, 7_000_000]
    assert dit["fid"].tolist() == [19.47, 10.67, 9.62]  # not 18.1, the PyTorch re-run
    assert published_curve(table, "FCDM-XL", 256)["fid"].tolist() == [10.72, 7.91]  # not 2.03, which has guidance
    assert published_curve(table, "FCDM-S", 256).empty


def test_ablations_keep_what_the_notes_disagree_on() -> None:
    kernels = published_ablations().query("change == 'kernel 5x5'")
    assert kernels["fid"].tolist() == [20.48, 21.07]
    assert set(kernels["remark"]) == {"notes disagree"}
