"""The setting that a tuning study chose for each model, and what it says where the choice is not a fair one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fcdm.analysis import claims, tuning
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.stats.tuned_budgets import best_lines, moved_lines, tune_each
from fcdm.analysis.stats.tuning_trials import decides, tune, tuned_as, tuning_cost, unfair, untuned
from fcdm.errors import UserError
from tests.support.fake_runs import fid_at, make_run, make_study

MODELS, RATES, SEEDS = ("N", "dit/N-2"), (1e-3, 4e-3, 1e-2), (100, 101)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models over three learning rates and two seeds; then fresh seeds at the best rate of the made-up law."""
    folder = tmp_path_factory.mktemp("runs")
    grid = [(model, lr, seed) for model in MODELS for lr in RATES for seed in SEEDS]
    made = [make_run(folder, m, lr=lr, seed=seed, budgets=(400, 800), grids=False) for m, lr, seed in grid]
    make_study(folder, made, "tune", budgets=(800,))
    again = [(model, seed) for model in MODELS for seed in (10, 11)]
    fresh = [make_run(folder, m, lr=1e-2, seed=seed, budgets=(200, 400, 800), grids=False) for m, seed in again]
    make_study(folder, fresh, "fresh", budgets=(200, 400, 800))
    return folder


def test_the_lowest_mean_over_seeds_is_chosen(runs: Path) -> None:
    fcdm, dit = tune(tidy_table(runs, "tune"))
    assert (fcdm.name, dit.name, fcdm.steps, fcdm.seeds) == ("FCDM-N", "DiT-N/2", 800, SEEDS)
    assert fcdm.best is not None
    assert fcdm.best.values == {"optimiser.lr": "0.01"}
    assert fcdm.best.mean == pytest.approx(sum(fid_at("N", 800, seed, 1e-2) for seed in SEEDS) / 2)
    assert [trial.values["optimiser.lr"] for trial in fcdm.trials] == ["0.01", "0.004", "0.001"]


def test_losses_decide_where_no_sample_was_drawn(runs: Path) -> None:
    table = tidy_table(runs, "tune")
    losses = table.assign(heldout_loss=table["fid"] / 100, fid=np.nan)
    assert (decides(table), decides(losses)) == ("fid", "heldout_loss")
    for ours, theirs in zip(tune(losses), tune(table), strict=True):
        assert [trial.values for trial in ours.trials] == [trial.values for trial in theirs.trials]
    assert [one.best is None for one in tune_each(losses)] == [False] * len(tune_each(table))


def test_a_best_setting_at_the_edge_of_the_grid_is_said(runs: Path) -> None:
    told = unfair(tune(tidy_table(runs, "tune")))
    assert told == [f"{name}: best optimiser.lr=0.01 is the highest of the 3 tried" for name in ("FCDM-N", "DiT-N/2")]


def test_another_grid_trials_and_seeds_are_said(tmp_path: Path) -> None:
    for model, lr, seed in (("N", 1e-3, 0), ("N", 4e-3, 0), ("N", 4e-3, 1), ("dit/N-2", 1e-3, 0), ("dit/N-2", 2e-3, 0)):
        make_run(tmp_path, model, lr=lr, seed=seed, grids=False)
    make_run(tmp_path, "N", lr=8e-3, seed=0, grids=False)
    found = tune(tidy_table(tmp_path))
    told = "\n".join(unfair(found))
    assert "grids differ: DiT-N/2 has no optimiser.lr=0.004; optimiser.lr=0.008, which FCDM-N has" in told
    assert "grids differ: FCDM-N has no optimiser.lr=0.002, which DiT-N/2 has" in told
    assert "trials differ: FCDM-N 3, DiT-N/2 2" in told
    assert "seeds differ: FCDM-N 0, 1, DiT-N/2 0" in told
    assert "not chosen from: FCDM-N optimiser.lr=0.008, which lacks seed 1" in told
    assert found[0].best is not None
    assert found[0].best.values["optimiser.lr"] == "0.004"  # 0.008 has the lower FID, and one seed only


def test_a_setting_that_diverged_is_named_and_never_chosen(tmp_path: Path) -> None:
    for lr in RATES:
        folder = make_run(tmp_path, "N", lr=lr, grids=False)
    for path in (folder / "evaluations").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "metrics": {**content["metrics"], "fid": "NaN"}}))
    (found,) = tune(tidy_table(tmp_path))
    assert found.best is not None
    assert found.best.values["optimiser.lr"] == "0.004"
    told = unfair([found])
    assert "diverged: FCDM-N optimiser.lr=0.01, seed 0 (FID nan)" in told
    assert any("nothing to compare it with" in line for line in told)


def test_a_budget_nobody_was_evaluated_at(runs: Path) -> None:
    assert tune(tidy_table(runs, "fresh"), steps=400)[0].steps == 400
    with pytest.raises(UserError, match="no run was evaluated at 123 steps; there: 800"):
        tune(tidy_table(runs, "tune"), steps=123)


def test_the_claim_s_runs_are_held_against_the_tuning(runs: Path) -> None:
    tuned, fresh = tune(tidy_table(runs, "tune")), tidy_table(runs, "fresh")
    lines = tuned_as(fresh, tuned)
    assert lines[0] == (
        "tuned: FCDM-N: optimiser.lr=0.01, the best of 3 settings on seeds 100, 101; "
        "these runs use it on other seeds (10, 11)"
    )
    assert all(line.startswith("tuned on the claim's own seeds") for line in tuned_as(fresh.assign(seed=100), tuned))
    other = fresh.assign(variant=fresh["variant"].str.replace("optimiser.lr=0.01", "optimiser.lr=0.004"))
    assert all(line.startswith("not as tuned") for line in tuned_as(pd.concat([fresh, other]), tuned))


def test_models_without_trials_are_named_and_an_absent_study_is_said_first(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = tidy_table(runs, "fresh")
    only_fcdm = [one for one in tune(tidy_table(runs, "tune")) if one.model == "N"]
    assert untuned(fresh, only_fcdm) == ["not tuned: DiT-N/2 has no trials there"]
    assert claims.main(["--runs", str(runs), "--study", "fresh", "--tuning", "absent"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no study 'absent'" in said.err


def test_what_the_tuning_took_is_counted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """25 steps a second: 800 steps take 32 s. Three settings by two seeds, and two runs of the claim, of each model."""
    assert claims.main(["--runs", str(runs), "--study", "fresh", "--tuning", "tune"]) == 0
    said = capsys.readouterr().out
    assert "one setting of each, tuned: FCDM-N: optimiser.lr=0.01, the best of 3 settings" in said
    assert "not tuned here" not in said
    assert said.count("missing") == 1  # the paper's claims without runs: one line, after these runs' own
    assert said.index("FCDM-N against DiT-N/2") < said.index(
        "claims of the paper not told: runs are missing of FCDM-XL"
    )
    assert said.count("floor 4.1") == 1  # what a pair rests on stands once for each distance
    assert said.count("and wall time of training on") == 4
    assert said.count("evaluation's noise not measured") == 4
    hours = 32 / 3600
    for name in ("FCDM-N", "DiT-N/2"):
        assert (
            f"tuning of {name}: 3 settings, 6 runs, {6 * hours:.3g} device-hours, "
            f"{8 * hours:.3g} with 2 runs of the claim"
        ) in said
    trials, fresh = tidy_table(runs, "tune"), tidy_table(runs, "fresh")
    lines = tuning_cost(trials.assign(device_seconds=float("nan")), fresh, tune(trials))
    assert lines[0] == "tuning of FCDM-N: 3 settings, 6 runs, device-hours not recorded"


def test_of_a_csv_it_is_said_what_cannot_be_checked(runs: Path) -> None:
    """Its label names no setting where all runs have one: the learning rate stands in a column, the rest nowhere."""
    tuned = tune(tidy_table(runs, "tune"))
    read = tidy_table(runs, "fresh").assign(label=lambda rows: rows["label"].str.split().str[0])
    read = read.assign(variant=read["label"])
    assert tuned_as(read, tuned)[0].startswith("tuned: FCDM-N: optimiser.lr=0.01")
    assert "these runs use it on other seeds" in tuned_as(read, tuned)[0]
    assert tuned_as(read.assign(lr=4e-3), tuned)[0].startswith("not as tuned: FCDM-N")
    for trial in tuned[0].trials:
        trial.values["ema.rampup"] = "0.03"
    assert "(as far as this table says, which lacks ema.rampup)" in tuned_as(read, tuned)[0]


def test_the_commands(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuning.main(["--runs", str(runs), "--study", "tune"]) == 0
    said = capsys.readouterr().out
    assert "chosen: model=N optimiser.lr=0.01\nchosen: model=dit/N-2 optimiser.lr=0.01\n" in said
    assert "FCDM-N: FID at 800 steps, 3 settings, seeds 100, 101" in said
    assert claims.main(["--runs", str(runs), "--study", "fresh", "--tuning", "tune"]) == 0
    assert "tuned: DiT-N/2: optimiser.lr=0.01, the best of 3 settings on seeds 100, 101" in capsys.readouterr().out
    assert tuning.main(["--runs", str(runs), "--study", "no"]) == 1
    assert "no study 'no'" in capsys.readouterr().err


def test_a_study_at_work_says_that_the_choice_may_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [make_run(tmp_path, "N", lr=lr, grids=False, evaluated=lr < 2e-3) for lr in RATES]
    make_study(tmp_path, made, "tune", budgets=(800,))
    assert tuning.main(["--runs", str(tmp_path), "--study", "tune"]) == 0
    said = capsys.readouterr().out
    assert "best so far, the study is not finished: model=N" in said
    assert said.count("not evaluated yet: FCDM-N") == 2
    fresh = [make_run(tmp_path, "N", lr=1e-3, seed=10, grids=False)]
    make_study(tmp_path, fresh, "fresh", budgets=(800,))
    assert claims.main(["--runs", str(tmp_path), "--study", "fresh", "--tuning", "tune"]) == 0
    said = capsys.readouterr().out
    assert "the best so far (the tuning is not finished) of 1 setting" in said
    assert said.count("tuning 'tune': not evaluated yet: FCDM-N") == 2


def test_the_same_model_at_two_resolutions_is_tuned_twice(tmp_path: Path) -> None:
    for lr in RATES[:2]:
        make_run(tmp_path, "N", lr=lr, grids=False)
    small = tidy_table(tmp_path)
    large = small.assign(resolution=16, fid=100 / small["fid"])  # there, the other setting is the better one
    both = pd.concat([small, large], ignore_index=True)
    both.attrs = small.attrs
    found = tune(both)
    assert [one.name for one in found] == ["FCDM-N on digits at 8 px", "FCDM-N on digits at 16 px"]
    assert [one.best.values["optimiser.lr"] for one in found if one.best] == ["0.004", "0.001"]
    assert len(tuned_as(small, found)) == 1
    assert not any("grids differ" in line for line in unfair(found))


# --- several budgets and sizes -------------------------------------------------------------------------


def grid(best: dict[tuple[str, float], float], rates: Sequence[float], by: str = "steps") -> pd.DataFrame:
    """A made-up tuning table: FID is lowest at the best rate of each (model, budget), of steps or of FLOPs."""
    gmacs = {"N": 1.0, "M": 4.0, "dit/N-2": 2.0, "dit/M-2": 8.0}
    rows, settings = [], {}
    for (model, budget), at in best.items():
        for lr in rates:
            label = f"{model} lr={lr:g}"
            settings[label] = {"optimiser.lr": f"{lr:g}"}
            steps = int(budget) if by == "steps" else round(budget / (6e9 * gmacs[model]))
            row = {"run": label, "model": model, "label": label, "seed": 0, "lr": lr, "steps": steps}
            row |= {"family": "dit" if "/" in model else "fcdm", "data": "digits", "resolution": 8}
            row |= {"fid": 10 + abs(np.log(lr / at)), "forward_gmacs": gmacs[model], "epochs": steps / 100}
            rows.append({**row, "train_flops": 6e9 * gmacs[model] * steps})
    table = pd.DataFrame(rows)
    table.attrs = {"settings": settings}
    return table


STILL = {(model, steps): 2e-3 for model in ("N", "M", "dit/N-2") for steps in (400, 800)}


def test_each_budget_of_each_model_says_its_best_setting_and_where_in_the_grid_it_lies() -> None:
    table = grid({**STILL, ("M", 800): 4e-3}, (1e-3, 2e-3, 4e-3))
    assert best_lines(tune_each(table)) == [
        "FCDM-N at 400 steps (4 epochs): optimiser.lr=0.002, inside the 3 tried (0.001 to 0.004)",
        "FCDM-M at 400 steps (4 epochs): optimiser.lr=0.002, inside the 3 tried (0.001 to 0.004)",
        "DiT-N/2 at 400 steps (4 epochs): optimiser.lr=0.002, inside the 3 tried (0.001 to 0.004)",
        "FCDM-N at 800 steps (8 epochs): optimiser.lr=0.002, inside the 3 tried (0.001 to 0.004)",
        "FCDM-M at 800 steps (8 epochs): optimiser.lr=0.004, the highest of the 3 tried (0.001 to 0.004)",
        "DiT-N/2 at 800 steps (8 epochs): optimiser.lr=0.002, inside the 3 tried (0.001 to 0.004)",
    ]
    assert [one.steps for one in tune_each(table, steps=400)] == [400] * 3
    assert [one.at for one in tune(table)] == [800.0] * 3


def test_a_line_for_each_family_says_whether_the_best_rate_moved() -> None:
    rates = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    assert moved_lines(tune_each(grid(STILL, rates))) == [
        "FCDM: the best learning rate did not move with size (0.002), and did not move with the budget (0.002)",
        "DiT: the best learning rate did not move with the budget (0.002)",
    ]
    moved = {**STILL, ("M", 400): 1e-3, ("M", 800): 5e-4}
    assert moved_lines(tune_each(grid(moved, rates)))[0] == (
        "FCDM: the best learning rate moved with size (at 400 steps: 0.002 (FCDM-N) to 0.001 (FCDM-M), x 0.5; "
        "at 800 steps: 0.002 (FCDM-N) to 0.0005 (FCDM-M), x 0.25), and moved with the budget "
        "(of FCDM-M: 0.001 (400 steps) to 0.0005 (800 steps), x 0.5), and in 1 of 2 cases did not; "
        "at an edge of its grid, so that a better one may lie outside: FCDM-M at 800 steps"
    )
    of_size = {**STILL, ("M", 400): 1e-3, ("M", 800): 1e-3}
    assert (
        "did not move with the budget (0.002 of FCDM-N, 0.001 of FCDM-M)"
        in moved_lines(tune_each(grid(of_size, rates)))[0]
    )


def test_rates_of_a_rule_that_differ_by_less_than_a_step_of_the_grid_did_not_move() -> None:
    """`lr_rule` gives each size a grid of its own: the rate that comes out counts, not what it was asked as."""
    small, large = (
        grid({(model, 400): rates[1]}, rates)
        for model, rates in (("N", (1e-3, 2e-3, 4e-3)), ("M", (7e-4, 1.4e-3, 2.8e-3)))
    )
    both = pd.concat([small, large], ignore_index=True)
    both.attrs = {"settings": small.attrs["settings"] | large.attrs["settings"]}
    (line,) = moved_lines(tune_each(both))
    assert line == "FCDM: the best learning rate did not move with size (0.0014 to 0.002, within a step of the grids)"


def test_budgets_in_flops_are_one_budget_for_models_of_different_steps() -> None:
    best = {(model, flops): 2e-3 for model in ("N", "M") for flops in (1.2e13, 4.8e13)}
    table = grid(best, (1e-3, 2e-3, 4e-3), by="flops")
    each = tune_each(table)
    assert [(one.name, one.steps) for one in each] == [
        *(("FCDM-N", 2000), ("FCDM-M", 500)),
        *(("FCDM-N", 8000), ("FCDM-M", 2000)),
    ]
    assert each[1].budget == "1.2e+13 FLOPs (500 steps, 5 epochs)"
    assert [(one.name, one.steps) for one in tune(table)] == [("FCDM-N", 8000), ("FCDM-M", 2000)]  # of a claim


def test_the_command_shows_what_moved(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuning.main(["--runs", str(runs), "--study", "tune"]) == 0
    assert "Best at each budget" not in capsys.readouterr().out
    made = [make_run(tmp_path, model, lr=lr, budgets=(400, 800), grids=False) for model in MODELS for lr in RATES]
    make_study(tmp_path, made, "tune", budgets=(400, 800))
    assert tuning.main(["--runs", str(tmp_path), "--study", "tune"]) == 0
    said = capsys.readouterr().out
    assert "  FCDM-N at 400 steps (35.6 epochs): optimiser.lr=0.01, the highest of the 3 tried (0.001 to 0.01)" in said
    assert "FCDM: the best learning rate did not move with the budget (0.01); at an edge of its grid" in said
    assert tuning.main(["--runs", str(tmp_path), "--study", "tune", "--steps", "400"]) == 0
    assert "Best at each budget" not in capsys.readouterr().out
