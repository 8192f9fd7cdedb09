"""The published numbers: every row has a source, costs agree with fcdm.cost, MACs and FLOPs are apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis.data.labels import display_name
from fcdm.analysis.published import COLUMNS, FOLDER, PUBLISHED, published, published_ablations, published_curve

ROOT = Path(__file__).resolve().parent.parent.parent


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
    assert [remark.split(":")[0] for remark in kernels["remark"]] == [
        "notes disagree; better supported",
        "notes disagree; less supported",
    ]


TABLE_6 = {  # change -> GMACs, FID, IS, as third-party notes quote the paper's Table 6
    "base": (48.3, 19.97, 69.19),
    "kernel 5x5": (48.2, 20.48, 66.69),
    "kernel 3x3": (48.1, 21.28, 64.11),
    "channel attention instead of GRN": (48.3, 23.85, 61.60),
    "extra feed-forward": (48.2, 28.52, 47.16),
    "no inverted bottleneck": (48.3, 28.76, 52.20),
    "ResNet block": (48.4, 31.14, 49.10),
}


def test_all_rows_of_table_6_are_there() -> None:
    told = published_ablations().dropna(subset="inception_score").set_index("change")
    found = {
        change: (row["forward_gmacs_published"], row["fid"], row["inception_score"]) for change, row in told.iterrows()
    }
    assert found == TABLE_6


def test_the_better_supported_kernels_are_those_whose_macs_fall_as_the_count_does() -> None:
    command = [sys.executable, "-m", "fcdm.cost", "model=L", "model.kernel_size=7,5,3", "resolution=256", "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    counted = np.array([cost["forward_macs"] / 1e9 for cost in told])
    quoted = np.array([TABLE_6[change][0] for change in ("base", "kernel 5x5", "kernel 3x3")])
    assert np.diff(counted) == pytest.approx(np.diff(quoted), abs=0.05)  # both are quoted to a decimal place


def test_throughputs_are_of_inference_and_imply_tflops(table: pd.DataFrame) -> None:
    timed = table[table["images_per_s"].notna()]
    assert set(timed["throughput_of"]) == {"inference"}
    dit = row(table, "DiT-XL/2", 256, 400_000, framework="JAX")
    assert dit["implied_tflop_per_s"] == pytest.approx(2 * 0.11862142 * 80.5, rel=1e-6)  # 19.1
    assert row(table, "FCDM-XL", 256, 400_000)["implied_tflop_per_s"] == pytest.approx(35.2, abs=0.05)
    assert table.loc[table["images_per_s"].isna(), "implied_tflop_per_s"].isna().all()


def test_labels_and_precision_are_known_or_said_to_be_unknown(table: pd.DataFrame) -> None:
    assert set(table["labels"]) == {"uniform", "unknown"}
    assert set(table["train_precision"]) == {"fp32", "unknown"}
    assert set(table.loc[table["family"] == "fcdm", "labels"]) == {"uniform"}
    assert row(table, "DiT-XL/2", 256, 400_000, framework="PyTorch")["labels"] == "uniform"
    assert row(table, "DiT-XL/2", 256, 2_352_000)["labels"] == "unknown"  # by the JAX code


def test_the_reverses_of_the_documents_are_published_numbers(table: pd.DataFrame) -> None:
    """Each row of the table in docs/experiments.md: FCDM's number, the other's, and FCDM is behind."""
    text = (ROOT / "docs" / "experiments.md").read_text().partition("### Where FCDM is behind")[2].partition("\n#")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:7] == "| FCDM-"
    ]
    assert len(rows) == 3

    def number(cell: str, metric: str) -> float:
        model, _, steps, value = re.fullmatch(r"(\S+) at (\d+) px, (\S+): ([\d.]+)", cell).groups()  # type: ignore[union-attr]
        resolution = int(cell.split(" at ")[1].split(" px")[0])
        found = row(table.dropna(subset=metric), model, resolution, steps_of(steps), guidance_scale=1.0)
        assert found[metric] == float(value)
        return float(value)

    for ours, theirs, metric in rows:
        better = number(theirs, metric) - number(ours, metric)
        assert better < 0 if metric == "fid" else better > 0


def steps_of(text: str) -> int:
    return int(float(text[:-1]) * {"K": 1e3, "M": 1e6}[text[-1]])
