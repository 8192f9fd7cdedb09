"""The tidy table, the step ratio and the figures, on made-up runs whose answers are known."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from fcdm.analysis import plots
from fcdm.analysis import table as table_command
from fcdm.analysis.data.labels import display_name
from fcdm.analysis.data.seed_curves import seed_curves
from fcdm.analysis.data.tidy_table import COLUMNS, LOSS_BINS, tidy_table
from fcdm.analysis.figures.axes import log_ticks
from fcdm.analysis.figures.fid_curves import fid_against
from fcdm.analysis.figures.sample_grid import _first_tiles
from fcdm.analysis.plots import next_commands, print_table, ratio_sentences
from fcdm.analysis.reporting.result_tables import results_table
from fcdm.analysis.stats.model_pairs import comparisons, sentence
from fcdm.analysis.stats.step_efficiency import RatioRange
from fcdm.errors import UserError
from fcdm.tracking.forward import Forwarder
from tests.support.fake_runs import FLOOR, MODELS, PROTOCOL, START, evaluate, fid_at, make_run, make_study, protocol_id

OTHER = {**PROTOCOL, "sampling_steps": 10}
BUDGETS = (100, 200, 400, 800, 1600)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    make_study(runs, [make_run(runs, model, budgets=BUDGETS, torn=True) for model in MODELS], budgets=BUDGETS)
    return runs


# --- the table ---------------------------------------------------------------------------------------


def test_one_row_per_run_and_evaluated_step(study: Path) -> None:
    table = tidy_table(study)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(MODELS) * len(BUDGETS)
    row = table[(table["model"] == "dit/M-2") & (table["steps"] == 800)].iloc[0]
    assert row["fid"] == fid_at("dit/M-2", 800)
    assert row["fid_pixels_heldout"] == pytest.approx(row["fid"] / 10 + 1)
    assert (row["label"], row["lr"], row["samples"], row["floor"]) == ("DiT-M/2", 4e-3, 1000, FLOOR)
    assert row["forward_gmacs"] == pytest.approx(0.0127)
    assert row["train_flops"] == pytest.approx(6 * 12_700_000 * 128 * 800)
    assert row["loss"] == pytest.approx(0.3 + 2 / 800**0.5)
    assert [row[name] for name in LOSS_BINS] == [0.1] * 10
    assert row["seconds"] == row["device_seconds"] == pytest.approx(32.0)
    assert row["device"] == "cpu (1 thread)"
    assert (row["floor_pixels"], row["floor_sd"]) == (0.4, 0.3)
    assert table.attrs["protocol"] == PROTOCOL
    assert row["images_per_s"] == pytest.approx(np.median([800 + 10 * np.sin(s) for s in range(50, 801, 50)]))


def test_how_old_the_weights_are_that_were_evaluated(study: Path, tmp_path: Path) -> None:
    """An average's age grows by one a step and is multiplied by its decay; raw weights have none, of others it is
    not told. Beside a report's results it stands as a share of the budget too."""
    table = tidy_table(study)
    for steps, rows in table.groupby("steps"):
        age = 0.0
        for _ in range(int(str(steps))):
            age = 0.999 * (age + 1)
        assert rows["lag"].tolist() == pytest.approx([age] * len(MODELS))
        assert rows["lag_share"].tolist() == pytest.approx([age / int(str(steps))] * len(MODELS))
    told = "95 (95 %) at 100, 181 (91 %) at 200, 329 (82 %) at 400, 550 (69 %) at 800, 797 (50 %) at 1.6K"
    assert (
        f"The average is behind, in steps and as a share of the budget: {told}."
        in results_table(table, "fid", "one").notes
    )
    for weights, expected in (("raw", 0.0), ("power:0.08", np.nan)):
        make_run(tmp_path / weights, "N", protocol={**PROTOCOL, "weights": weights}, grids=False)
        of_run = tidy_table(tmp_path / weights)
        assert of_run["lag"].tolist() == pytest.approx([expected] * len(of_run), nan_ok=True)
        assert not any("average is behind" in note for note in results_table(of_run, "fid", "one").notes)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mlflow_gives_the_same_table_and_so_does_the_folder(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    with pytest.raises(UserError, match="no MLflow store"):
        tidy_table(uri)
    Forwarder(study, uri).forward()
    for name in (None, "demo"):
        alone = ["grid", "grid_columns", *LOSS_BINS]  # the folder's
        here, there = (tidy_table(source, name).drop(columns=alone) for source in (study, uri))
        pd.testing.assert_frame_equal(here, there)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_mlflow_says_what_differs_and_how_evaluations_vary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'store.db'}"
    made = [make_run(runs, model, batch_size=size, grids=False) for model, size in (("N", 256), ("dit/N-2", 128))]
    make_study(runs, made)
    for seed, factor in ((1, 1.1), (2, 0.9)):
        protocol = {**PROTOCOL, "seed": seed}
        evaluate(made[0], "N", 800, START, protocol, grids=False)
        path = made[0] / "evaluations" / f"step-00000800-{protocol_id(protocol)}.json"
        content = json.loads(path.read_text())
        content["metrics"]["fid"] *= factor
        path.write_text(json.dumps(content))
    Forwarder(runs, uri).forward()
    for source in (runs, uri):
        table = tidy_table(source, "demo")
        (one,) = comparisons(table)
        assert one.differs == ("batch_size 256 against 128",)
        assert table["noise"].iloc[0] == pytest.approx(0.1)  # standard deviation of 0.9, 1 and 1.1
        assert table["noise_repeats"].iloc[0] == 2
        assert table.attrs["left_out"] == []


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_store_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs, store = tmp_path / "runs", tmp_path / "store.db"
    make_run(runs, budgets=(100,), grids=False)
    Forwarder(runs, f"sqlite:///{store}").forward()
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.execute("UPDATE tags SET value = '{torn' WHERE key = 'fcdm.forwarded'")
        database.commit()
    capfd.readouterr()
    for uri, part in (
        (f"sqlite:///{store}", "run 'N-digits-8px-"),
        ("http://127.0.0.1:1", "does not answer"),
        ("postgresql+nosuchdriver://127.0.0.1:1/x", "cannot be read"),
    ):
        assert table_command.main(["--runs", uri]) == 1
        said = capfd.readouterr()
        assert part in said.err
        assert said.err.count("\n") == 1, said.err
        assert said.out == ""


def test_protocols_are_not_mixed(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    evaluate(folder, "N", 800, START, OTHER)
    with pytest.raises(UserError, match=r"2 protocols.*sampling_steps: (25|10) in ddim.*--protocol ID"):
        tidy_table(tmp_path)
    assert tidy_table(tmp_path, protocol=protocol_id(OTHER))["steps"].tolist() == [800]
    make_study(tmp_path, [folder], budgets=(100, 800))
    make_study(tmp_path, [folder], "quick", budgets=(800,), protocol=OTHER)
    assert tidy_table(tmp_path, "demo")["fid"].tolist() == [fid_at("N", 100), fid_at("N", 800)]
    assert tidy_table(tmp_path, "quick")["fid"].tolist() == [1.5 * fid_at("N", 800)]
    with pytest.raises(UserError, match="2 protocols"):
        tidy_table(tmp_path)
    with pytest.raises(UserError, match="nothing was evaluated by 'ddpm250'"):
        tidy_table(tmp_path, protocol="ddpm250")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_study_of_two_protocols_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'store.db'}"
    old = [make_run(runs, model, budgets=(100, 200), grids=False) for model in ("M", "dit/N-2")]
    new = make_run(runs, "N", budgets=(100,), protocol=OTHER, grids=False)
    make_study(runs, old, budgets=(100, 200))
    make_study(runs, [new], budgets=(100,), protocol=OTHER, more=True)
    Forwarder(runs, uri).forward()
    asked, left = protocol_id(OTHER), protocol_id(PROTOCOL)
    differ = f"sampling_steps: 10 in {asked}, 25 in {left}"
    line = f"left out: 2 runs evaluated by {left} ({differ}): --protocol {left} draws them"
    for source in (runs, uri):
        table = tidy_table(source, "demo")
        assert set(table["protocol_id"]) == {asked}
        assert table.attrs["left_out"] == [line]
        chosen = tidy_table(source, "demo", left)
        assert (len(chosen), chosen.attrs["left_out"]) == (4, [])
    assert plots.main(["--runs", str(runs), "--study", "demo", "--out", str(tmp_path / "out")]) == 0
    assert line in capsys.readouterr().out.splitlines()
    (new / "records.jsonl").unlink()
    for path in (new / "evaluations").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f"evaluated by {asked} yet, only by {left}"):
        tidy_table(runs, "demo")


def test_a_study_holds_its_own_runs_and_budgets(study: Path) -> None:
    with pytest.raises(UserError, match=r"no study 'dmeo'.*there: demo"):
        tidy_table(study, "dmeo")
    assert len(tidy_table(study, "demo")) == 20


def test_an_empty_study_is_said_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "N", grids=False)
    make_study(tmp_path, [], "empty")
    assert table_command.main(["--runs", str(tmp_path), "--study", "empty"]) == 1
    said = capsys.readouterr()
    assert said.err == f"study 'empty' is there in {tmp_path} and empty: it asks for no run yet; launch it\n"
    assert said.out == ""


def test_the_table_names_what_nobody_has_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path, [make_run(tmp_path, "N", budgets=(100,), grids=False)], budgets=(100, 800))
    assert table_command.main(["--runs", str(tmp_path), "--study", "demo"]) == 0
    said = capsys.readouterr()
    assert "not evaluated yet: FCDM-N, seed 0, at 800" in said.err
    assert len(pd.read_csv(io.StringIO(said.out))) == 1


def test_runs_not_evaluated_yet(tmp_path: Path) -> None:
    make_run(tmp_path, evaluated=False)
    with pytest.raises(UserError, match="no run has been evaluated yet"):
        tidy_table(tmp_path)


def test_labels_tell_settings_apart_and_leave_seeds_together(tmp_path: Path) -> None:
    for seed in (0, 1):
        for lr in (1e-3, 4e-3):
            make_run(tmp_path, "N", seed=seed, lr=lr)
    make_run(tmp_path, "M")
    table = tidy_table(tmp_path)
    assert set(table["label"]) == {"FCDM-M", "FCDM-N lr=0.001", "FCDM-N lr=0.004"}
    by_label = {line.label: line for line in seed_curves(table)}
    line = by_label["FCDM-N lr=0.004"]
    assert line.seeds == 2
    both = [fid_at("N", 100, seed) for seed in (0, 1)]
    assert line.points["fid"].iloc[0] == pytest.approx(np.mean(both))
    assert line.points["fid_min"].iloc[0] == min(both)


@pytest.mark.parametrize(
    ("model", "family", "name"),
    [
        ("dit/XL-2", "dit", "DiT-XL/2"),
        ("XL", "fcdm", "FCDM-XL"),
        ("dit/N-2", "dit", "DiT-N/2"),
        ("mine", "MyUNet", "mine"),
    ],
)
def test_names_as_in_the_papers(model: str, family: str, name: str) -> None:
    assert display_name(model, family) == name


def test_a_thousand_runs_are_read_in_seconds(tmp_path: Path) -> None:
    first = make_run(tmp_path, every=8, grids=False)
    copies = {path: path.read_bytes() for path in first.rglob("*.*") if path.is_file()}
    described = json.loads((first / "run.json").read_text())
    for number in range(1, 1000):
        folder = tmp_path / f"N-digits-8px-{number:08x}"
        (folder / "evaluations").mkdir(parents=True)
        for path, content in copies.items():
            (folder / path.relative_to(first)).write_bytes(content)
        (folder / "run.json").write_text(json.dumps({**described, "id": f"{number:064x}"}))
    started = time.process_time()
    table = tidy_table(tmp_path)
    seconds = time.process_time() - started
    assert len(table) == 4000
    assert seconds < 15  # about 3; the bound catches a growth with the square


# --- what is said, and the figures ---------------------------------------------------------------------


def test_sentences_say_what_the_numbers_depend_on(study: Path) -> None:
    said = ratio_sentences(tidy_table(study))
    assert len(said) == 2
    assert "FCDM-N reaches FID" in said[0]
    assert "DiT-N/2 after" in said[0]
    for part in ("times fewer steps", "training FLOPs", "one seed", "1,000 samples", "floor 4.1", "both at lr 0.004"):
        assert part in said[0]
    assert "not tuned" in said[0]
    (first, _) = comparisons(tidy_table(study))
    assert isinstance(first.steps, RatioRange)
    assert first.steps.ratio == pytest.approx(200 / 90, rel=0.05)  # the made-up curves' own ratio


def test_the_best_learning_rate_of_each_is_compared(tmp_path: Path) -> None:
    for model, rates in (("N", (1e-3, 4e-3)), ("dit/N-2", (2e-3,))):
        for lr in rates:
            make_run(tmp_path, model, lr=lr)
    (one,) = comparisons(tidy_table(tmp_path))
    assert (one.a.lr, one.b.lr) == (4e-3, 2e-3)
    assert "lr 0.004 and 0.002, the best of 2 and 1 settings, chosen at 800 steps; best lr of FCDM-N" in sentence(one)


def test_not_reached_is_said_with_a_bound(tmp_path: Path) -> None:
    make_run(tmp_path, "N", budgets=(400,))
    make_run(tmp_path, "dit/N-2", budgets=(100, 500))
    (said,) = ratio_sentences(tidy_table(tmp_path))
    assert "not reached" in said
    assert "after 400 or fewer: more than 1.2 times fewer steps" in said


def test_a_table_without_a_pair(tmp_path: Path) -> None:
    make_run(tmp_path, "N")
    assert ratio_sentences(tidy_table(tmp_path))[0].startswith("No step ratio")


def test_every_figure_is_written_with_its_numbers(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    assert plots.main(["--runs", str(study), "--study", "demo", "--out", str(out)]) == 0
    names = ("fid_vs_steps", "fid_vs_training_flops", "fid_vs_device_hours", "fid_vs_forward_gmacs")
    names += (
        "fid_vs_parameters",
        "fid_vs_sampling_flops",
        "fid_vs_heldout_loss",
        "throughput",
        "frontier",
        "fit_residuals",
        "samples",
    )
    expected = {f"{name}.{suffix}" for name in names for suffix in ("png", "pdf", "csv")} | {"table.csv"}
    assert {path.name for path in out.iterdir()} == expected
    for name in names:
        with Image.open(out / f"{name}.png") as picture:
            assert picture.info["dpi"][0] >= 200
            inches = picture.width / picture.info["dpi"][0]
            assert inches == pytest.approx(5.5 if name in ("frontier", "fit_residuals", "samples") else 2.7, abs=0.02)
            assert np.asarray(picture.convert("L")).std() > 10  # something is drawn
    numbers = pd.read_csv(out / "fid_vs_steps.csv")
    assert (numbers["origin"] == "these runs").sum() == 20
    assert len(pd.read_csv(out / "table.csv")) == 20
    said = capsys.readouterr().out
    for part in (
        "1,600",
        "images/s",
        str(out / "samples.png"),
        "times fewer steps",
        "make ui RUNS=",
    ):
        assert part in said
    assert max(map(len, said.split("Figures")[0].splitlines())) <= 80


@pytest.mark.parametrize("budgets", [(400,), (100, 107, 115, 123, 132, 141, 800)])
def test_few_or_crowded_budgets_and_several_seeds_draw_too(tmp_path: Path, budgets: tuple[int, ...]) -> None:
    for seed, model in product((0, 1), ("N", "M")):
        make_run(tmp_path, model, seed=seed, budgets=budgets, grids=seed == 1)
    written, _ = plots.draw(tidy_table(tmp_path), tmp_path / "out")
    # A fit needs four budgets, and a frontier two: of fewer there are none to draw.
    assert sum(path.suffix == ".png" for path in written) == 9 + 2 * (len(budgets) > 3)


def test_the_first_tiles_are_shown_in_order(tmp_path: Path) -> None:
    numbers = np.repeat(np.repeat(np.arange(24, dtype=np.uint8).reshape(3, 8), 4, 0), 4, 1)  # 3 rows of 8 tiles
    Image.fromarray(numbers).save(tmp_path / "grid.png")
    shown = _first_tiles(tmp_path / "grid.png", 8)
    assert shown.shape == (2 * 4 + 1, 5 * 4 + 4)
    assert shown[::5, ::5].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert (shown[4] == 255).all()


def test_a_run_that_diverged_and_one_without_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "N")
    make_run(tmp_path, "M")
    broken = make_run(tmp_path, "dit/N-2")
    for path in (broken / "evaluations").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "metrics": {**content["metrics"], "fid": "NaN"}}))
    table = tidy_table(tmp_path)
    assert table["fid"].isna().sum() == 4
    assert len(plots.draw(table, tmp_path / "out")[0]) == 1 + 11 * 3
    table[["train_flops", "forward_gmacs"]] = 0.0
    assert len(plots.draw(table, tmp_path / "out")[0]) == 1 + 5 * 3
    assert "no fid_vs_training_flops, fid_vs_forward_gmacs, frontier: " in capsys.readouterr().err
    assert len(plots.draw(table[table["fid"].isna()], tmp_path / "out")[0]) == 1


def test_a_floor_far_below_is_a_note_and_does_not_stretch_the_axis(tmp_path: Path) -> None:
    make_run(tmp_path, "N")
    table = tidy_table(tmp_path)
    for floor, below in ((FLOOR, False), (table["fid"].min() / 11, True)):
        made = fid_against(table.assign(floor=floor), "steps")
        assert made is not None
        (axes,) = made[0].axes
        (note,) = (text.get_text() for text in made[0].legends[0].get_texts() if "real images" in text.get_text())
        assert ("(below the axis)" in note) == below
        assert (axes.get_ylim()[0] < floor) == (not below)
        plt.close(made[0])


@pytest.mark.parametrize(
    ("fid_a", "fid_b", "reason"),
    [
        ([100.0, 50.0, 45.0], [90.0, 70.0, 40.0], "both sides of 1"),
        ([100.0, 95.0], [300.0, 200.0, 93.0], "both pass only"),
        ([100.0, 50.0], [200.0, 60.0], None),
    ],
)
def test_no_arrow_where_the_ratio_is_not_clear(fid_a: list[float], fid_b: list[float], reason: str | None) -> None:
    rows = []
    for model, family, fids in (("N", "fcdm", fid_a), ("dit/N-2", "dit", fid_b)):
        for place, fid in enumerate(fids):
            row = {"model": model, "family": family, "label": display_name(model, family), "variant": "", "fid": fid}
            steps = 100 * 2**place
            row |= {"run": model, "seed": 0, "lr": 1e-3, "steps": steps, "train_flops": steps, "forward_gmacs": 1.0}
            rows.append(
                {
                    **row,
                    "floor": np.nan,
                    "samples": 1000,
                    "device_seconds": np.nan,
                    "device": "",
                    "data": "digits",
                    "resolution": 8,
                }
            )
    table = pd.DataFrame(rows)
    (said,) = ratio_sentences(table)
    made = fid_against(table, "steps")
    assert made is not None
    (axes,) = made[0].axes
    title = axes.get_title("right")
    plt.close(made[0])
    assert len(axes.texts) == (reason is None)
    assert ("FCDM-N against DiT-N/2: no clear ratio" in title) == (reason is not None)
    assert said.count("no clear ratio") == 2 * (reason is not None)
    assert (reason or "times fewer") in said


def test_a_pipe_gets_the_whole_table(study: Path) -> None:
    table = tidy_table(study)
    table["label"] += " lr=0.001 weight_decay=0.01 kernel_size=7 blocks=[1, 1, 2, 1, 1] expansion=3 grn=True ema=0.999"
    console = Console(file=io.StringIO(), width=80)
    print_table(table, console)
    assert isinstance(console.file, io.StringIO)
    for label in set(table["label"]):
        assert label in console.file.getvalue()


def test_what_to_type_next(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.prefix", "/usr")
    assert any(line.startswith("python train.py -m") for line in next_commands(study, "demo"))
    assert "    # continues 'demo'" in next(
        line for line in next_commands(study, "demo") if f" runs_dir={study} " in line
    )
    assert not any("train.py" in line for line in next_commands(study, None))
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert any(line.startswith(".venv/bin/python train.py -m") for line in next_commands(study, "demo"))
    assert any(line.startswith(".venv/bin/python -m fcdm.train") for line in next_commands(study, "digits"))
    monkeypatch.setenv("PATH", f"{tmp_path / '.venv' / 'bin'}:/usr/bin")
    assert any(line.startswith("python train.py -m") for line in next_commands(study, "demo"))


def test_without_pictures_there_is_no_sample_figure(tmp_path: Path) -> None:
    make_run(tmp_path, grids=False)
    assert not any("samples" in path.name for path in plots.draw(tidy_table(tmp_path), tmp_path / "out")[0])


@pytest.mark.parametrize("there", [True, False])
def test_no_runs_is_one_line_and_exit_code_1(tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    if there:
        runs.mkdir()
    assert plots.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert str(runs) in said.err
    assert not (tmp_path / "out").exists()


def test_an_out_folder_that_cannot_be_made(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert plots.main(["--runs", str(study), "--out", str(tmp_path / "file" / "figures")]) == 1
    assert "choose another --out" in capsys.readouterr().err


def test_analysis_imports_nothing_of_the_engine() -> None:
    code = (
        "import sys, fcdm.analysis.plots, fcdm.analysis.data.tidy_table, fcdm.analysis.data.mlflow_curves\n"
        "bad = [m for m in sys.modules if m.startswith(('torch', 'mlflow', 'hydra', 'fcdm.engine', 'fcdm.models'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.floats(1e-5, 1e5), st.floats(1.05, 1e7))
def test_ticks_are_some_and_not_too_many(low: float, span: float) -> None:
    ticks = log_ticks(low, low * span, 7)
    assert len(ticks) <= 7
    assert all(low <= tick <= low * span for tick in ticks)
    if span > 1.3:
        assert len(ticks) >= 2
