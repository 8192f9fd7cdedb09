"""Distances by their names, other spaces beside the headline's, kernel distances, and two classifiers that disagree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import claims as claims_command
from fcdm.analysis import plots, report, scaling, tuning
from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.data.seed_curves import dropped, seed_curves
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.figures.axes import fid_label
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.published import published
from fcdm.analysis.reporting.claim_tables import Split, findings
from fcdm.analysis.reporting.result_tables import results_table
from fcdm.analysis.stats.claim_sides import pairs_of
from fcdm.analysis.stats.paper_claims import claims, claims_frame
from fcdm.analysis.stats.step_ratios import equal_fid, same_budget
from fcdm.analysis.stats.two_classifiers import NO_RESULT, disagreement
from tests.support.fake_runs import PROTOCOL, START, evaluate, make_run, make_study, protocol_id

BUDGETS = (100, 200, 400, 800)
DINO = {**PROTOCOL, "features": "dinov2@12345678"}
CLASSIFIER = {**PROTOCOL, "features": "classifier@12345678"}
Change = Callable[[str, int, dict[str, float]], Mapping[str, float]]
"""Of (model, budget, metrics): other metrics."""


def study(
    runs: Path, protocol: dict[str, Any], change: Change, beside: dict[str, Any] | None = None, later: int = 0
) -> Path:
    """FCDM-N and DiT-N/2, whose evaluations by `protocol` say what `change` makes of them; by `beside` as they are.

    later: the DiT's budgets are so many steps after FCDM's.
    """
    folders = []
    for model in ("N", "dit/N-2"):
        budgets = [step + (later if model != "N" else 0) for step in BUDGETS]
        folder = make_run(runs, model, budgets=budgets, every=100, protocol=beside or protocol, grids=False)
        for step in budgets:
            metrics = evaluate(folder, model, step, START, protocol, grids=False)
            path = folder / "evaluations" / f"step-{step:08d}-{protocol_id(protocol)}.json"
            content = json.loads(path.read_text())
            content["metrics"] = dict(change(model, step, metrics))
            if "fid" not in content["metrics"]:
                content["floor"] = {"kid_heldout_against_train": 0.002}
            path.write_text(json.dumps(content))
        if beside is None:  # the records say what the files say
            (folder / "records.jsonl").write_text(
                "".join(
                    line + "\n"
                    for line in (folder / "records.jsonl").read_text().splitlines()
                    if "protocol" not in json.loads(line)
                )
            )
        folders.append(folder)
    make_study(runs, folders, budgets=sorted({*BUDGETS, *budgets}), protocol=beside or protocol)
    if beside is not None:
        make_study(runs, folders, budgets=BUDGETS, protocol=protocol, more=True)
        path = runs / "studies" / "demo.json"
        content = json.loads(path.read_text()) | {"protocol_id": protocol_id(beside), "protocol": beside}
        path.write_text(json.dumps(content))
    return runs


def only_kid(model: str, step: int, metrics: dict[str, float]) -> dict[str, float]:
    kept = {"heldout_loss": metrics["heldout_loss"]}
    return {"kid": metrics["fid"] / 1000, "kid_se": 1e-4, "kid_heldout": metrics["fid"] / 900, **kept}


def told(capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], object], *words: str) -> str:
    capsys.readouterr()
    assert command([*words]) == 0
    return capsys.readouterr().out


def test_another_space_is_a_row_a_panel_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In DINOv2's the DiT is ahead, so both rankings are told, each by the name of its distance."""
    runs = study(tmp_path / "runs", DINO, turned, beside=PROTOCOL)
    where = ("--runs", str(runs), "--study", "demo")
    said = told(capsys, claims_command.main, *where)
    assert "FCDM-N against DiT-N/2, 8 px, in FD-DINOv2: steps to equal FD-DINOv2 [equal distance]" in said
    assert "FCDM-N against DiT-N/2, 8 px: steps to equal FID [equal distance]" in said
    drawn = told(capsys, plots.main, *where, "--out", str(tmp_path / "figures"))
    (line,) = (line for line in drawn.splitlines() if line.startswith("in FD-DINOv2: "))
    assert "FCDM-N reaches FD-DINOv2" in line
    assert "times more steps" in line
    numbers = pd.read_csv(tmp_path / "figures" / "spaces.csv")
    assert list(dict.fromkeys(numbers["distance"])) == ["FID", "FD-DINOv2"]
    assert set(numbers["label"]) == {"FCDM-N", "DiT-N/2"}
    assert (tmp_path / "figures" / "spaces.png").stat().st_size > 0
    told(capsys, report.main, "demo", "--runs", str(runs), "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "The same samples in other features" in page
    assert "in FD-DINOv2: steps to equal FD-DINOv2" in page
    assert "FD-DINOv2-1k after so many training steps" in page
    assert "FD-DINOv2 against training steps" in page


def turned(model: str, step: int, metrics: dict[str, float]) -> dict[str, float]:
    """The first model's distances as high as they are for a third of the steps."""
    return {**metrics, "fid": metrics["fid"] * (5.0 if model == "N" else 1.0)}


def test_a_kernel_distance_is_shown_instead_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = study(tmp_path / "runs", DINO, only_kid)
    table = tidy_table(runs, "demo")
    assert distance_of(table) == "KDD"
    assert fid_label(table) == "KDD-1k"
    assert table["fid"].tolist() == table["kid"].tolist()
    assert set(table["kid_se"]) == {1e-4}
    assert set(table["floor_heldout"]) == {0.002}
    assert table["floor"].isna().all()
    where = ("--runs", str(runs), "--study", "demo")
    assert "FCDM-N reaches KDD" in plots.ratio_sentences(table)[0]
    with plt.style.context(STYLE):
        drawn = fid_against(table, "steps")
    assert drawn is not None
    assert drawn[0].axes[0].get_ylabel() == "KDD-1k"
    plt.close(drawn[0])
    said = told(capsys, claims_command.main, *where)
    assert "FCDM-N against DiT-N/2, 8 px: steps to equal KDD [equal distance]" in said
    assert "steps to equal KDD to held-out images" in said
    assert "shown: KDD (with its standard error in kid_se): 1,000 samples, or the real images" in said
    told(capsys, report.main, "demo", "--runs", str(runs), "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "KDD-1k after so many training steps" in page
    assert "KDD to held-out images after so many" in page
    assert "shown: KDD" in page
    assert "FID against" not in page


NOT_FID = ("FD-classifier", "kernel distance (classifier)")


@pytest.mark.parametrize("distance", NOT_FID)
def test_nothing_calls_another_distance_fid(distance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words, names of files and columns; but for what is said of the papers, whose distance is FID."""
    kernel = distance != "FD-classifier"
    runs = study(tmp_path / "runs", CLASSIFIER, only_kid if kernel else seconds(1.05))
    where = ("--runs", str(runs), "--study", "demo")
    out = tmp_path / "figures"
    said = told(capsys, plots.main, *where, "--out", str(out))
    for command in (scaling.main, tuning.main):
        said += told(capsys, command, *where)
    rows = claims_frame([one for one in claims(tidy_table(runs, "demo"), published()) if "|" in one.key])
    said += rows.drop(columns=["key", "published", "published_rests_on"]).to_csv()
    told(capsys, report.main, "demo", "--runs", str(runs), "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    page = re.sub(r"<summary>The paper(’|'|&#x27;)s claims.*?</details>", "", page, flags=re.DOTALL)
    said += re.sub(r'src="[^"]*"', "", page)
    said += "".join(path.read_text() for path in out.glob("*.csv") if path.name != "table.csv")
    said += " ".join(path.name for path in out.iterdir())
    assert distance in said
    found = [said[max(0, at.start() - 60) : at.end() + 20] for at in re.finditer(r"(?<![a-z])FIDs?\b|\bfid", said)]
    found = [text for text in found if "the paper's claim is of FID" not in text]
    assert not found, "\n".join(found)
    assert (out / "distance_vs_steps.png").exists()
    numbers = pd.read_csv(out / "distance_vs_steps.csv")
    assert set(numbers["distance"]) == {distance}
    assert {"value", "value_min", "value_max", "ratio_at_value"} <= set(numbers)
    table = pd.read_csv(out / "table.csv")  # by the keys of an evaluation's file
    assert table["fid"].isna().all() == table["fid_heldout"].isna().all() == kernel
    assert set(table["distance"]) == {distance}


def seconds(of_n: float) -> Change:
    """Metrics with those of the second classifier: as the first's for the DiT, so many times it for FCDM-N."""

    def change(model: str, step: int, metrics: dict[str, float]) -> dict[str, float]:
        factor = of_n if model == "N" else 1.0
        kept = {key: metrics[key] for key in ("fid", "fid_heldout")}
        return {**kept, **{f"{key}_second": value * factor for key, value in kept.items()}}

    return change


@pytest.mark.parametrize(("factor", "flips"), [(1.05, False), (8.0, True)])
def test_a_ranking_that_flips_between_two_classifiers_is_no_result(factor: float, flips: bool, tmp_path: Path) -> None:
    (pair,) = pairs_of(tidy_table(study(tmp_path, CLASSIFIER, seconds(factor)), "demo"))
    for side in (equal_fid(pair, "steps"), equal_fid(pair, "train_flops"), same_budget(pair, 400)):
        assert side.text.startswith(NO_RESULT) == flips
        assert np.isnan(side.value) == flips


def test_everything_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = study(tmp_path / "runs", CLASSIFIER, seconds(8.0))
    says = f"{NO_RESULT}: at 800 steps FCDM-N has the lower FD-classifier by one, DiT-N/2 by the other"
    table = tidy_table(runs, "demo")
    assert says in plots.ratio_sentences(table)[0]
    assert "did not reach" not in plots.ratio_sentences(table)[0]
    assert says in told(capsys, claims_command.main, "--runs", str(runs), "--study", "demo")
    assert says in findings(Split.of(table).ours)[0]
    caption = results_table(table, "fid_second", "p").caption
    assert caption == "FD-classifier by the second classifier after so many training steps"
    with plt.style.context(STYLE):
        drawn = fid_against(table, "steps")
    assert drawn is not None
    assert "the two classifiers disagree" in drawn[0].axes[0].get_title("right").replace("\n", " ")
    plt.close(drawn[0])


def test_what_is_not_measured_twice_is_not_held_against_anybody(tmp_path: Path) -> None:
    def first_alone(model: str, step: int, metrics: dict[str, float]) -> dict[str, float]:
        return seconds(8.0)(model, step, metrics) if model == "N" else {"fid": metrics["fid"]}

    (pair,) = pairs_of(tidy_table(study(tmp_path, CLASSIFIER, first_alone), "demo"))
    assert pair.lines is not None
    assert disagreement(*pair.lines) is None


def test_where_no_budget_is_shared_steps_to_equal_distance_rank(tmp_path: Path) -> None:
    (pair,) = pairs_of(tidy_table(study(tmp_path, CLASSIFIER, seconds(6.0), later=50), "demo"))
    assert pair.lines is not None
    assert disagreement(*pair.lines, "steps") == f"{NO_RESULT}: FCDM-N takes fewer steps by one, DiT-N/2 by the other"


def test_a_kernel_distance_below_0_is_a_value_with_no_place_on_a_log_axis(tmp_path: Path) -> None:
    def near_the_data(model: str, step: int, metrics: dict[str, float]) -> dict[str, float]:
        first = metrics["fid"] if step < 800 or model == "dit/N-2" else -0.001
        return {"fid": first, "fid_second": 1000.0 if first < 0 else first / 2}

    table = tidy_table(study(tmp_path, CLASSIFIER, near_the_data), "demo")
    ours = next(line for line in seed_curves(table) if line.name == "FCDM-N")
    assert ours.points["fid"].iloc[-1] == pytest.approx(-0.001)
    assert not dropped(table)
    (pair,) = pairs_of(table)
    said = f"{NO_RESULT}: at 800 steps FCDM-N has the lower FD-classifier by one, DiT-N/2 by the other"
    assert equal_fid(pair, "steps").text == said
    with plt.style.context(STYLE):
        drawn = fid_against(table, "steps")
    assert drawn is not None
    plt.close(drawn[0])
    assert drawn[1]["fid"].min() > 0
    where = "left out: FCDM-N at 800 steps: -0.001 is not above 0: no difference is measurable"
    assert where in drawn[1].attrs["left_out"]
