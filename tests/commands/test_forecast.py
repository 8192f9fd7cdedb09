"""`python -m fcdm.forecast` as its user meets it: forecasts on disk before the run, refused after it, and scored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcdm.forecast import main
from fcdm.forecasts.chain import entry_path, read_ledger
from fcdm.forecasts.law_file import read_laws
from fcdm.jobs.job import Job
from tests.support.commands import ROOT, python_in
from tests.support.measured_study import asked_jobs, measure, measured_study
from tests.support.simple_teller import SimpleTeller

Forecast = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("study") / "runs"
    measured_study(runs)
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def forecast(runs: Path, capsys: pytest.CaptureFixture[str]) -> Forecast:
    """The command in this process: (exit code, stdout, stderr)."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main([*words, f"runs_dir={runs}"], SimpleTeller())
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


def job(runs: Path, *words: str) -> Job:
    (found,) = asked_jobs(runs, *words)
    return found


def scores(forecast: Forecast) -> list[dict[str, Any]]:
    code, out, _ = forecast("--score", "--json")
    assert code == 0
    return list(json.loads(out)["forecasts"])


def test_a_forecast_is_written_once_before_the_run_and_scored_after_it(runs: Path, forecast: Forecast) -> None:
    code, out, err = forecast("demo", "model=M", "steps=1600", "seed=7")
    assert (code, err) == (0, "")
    target = job(runs, "model=M", "steps=1600", "seed=7")
    fid, loss = read_ledger(runs / "forecasts").forecasts
    assert (fid.metric, loss.metric) == ("fid", "heldout_loss")
    assert (fid.run.id, fid.run.name, fid.steps, fid.run.seed) == (target.id, target.name, 1600, 7)
    assert (fid.protocol_id, fid.protocol) == (target.parts[0].protocol_id, target.parts[0].protocol)
    assert (fid.kind, fid.run.data_checksum) == ("prediction", target.config.data.checksum)
    assert (fid.fit["points"], len(fid.fit["points_sha256"])) == (12, 64)
    assert f"entry 1: prediction (no checkpoint of the run existed): {target.name} at 1,600 steps" in out
    assert not target.is_begun, "a forecast begins nothing"
    assert [one["state"] for one in scores(forecast)] == ["unscored", "unscored"]

    code, out, _ = forecast("demo", "model=M", "steps=1600", "seed=7")
    assert (code, out.count("there already")) == (0, 2)
    measure(target, 1600, factor=1.1)
    first, second = scores(forecast)
    assert first["measured"] == pytest.approx(
        json.loads(target.run.evaluation(1600, fid.protocol_id).read_text())["metrics"]["fid"]
    )
    assert first["score"]["log_error"] < 0, "the run came out worse than its forecast"
    assert {*first["scores_of_baselines"]} == {"last value", "last two points"}
    assert second["state"] in ("held", "failed")
    code, out, _ = forecast("--score")
    assert "1 prediction of FID: " in out
    assert "of 1 (" in out


def test_what_of_a_run_exists_decides_the_kind(runs: Path, forecast: Forecast) -> None:
    """N's seed 0 is measured until 400 steps, its seed 5 does not exist, and 32 channels are beyond the study."""
    code, out, err = forecast("demo", "model=N,fcdm/w32", "seed=0,5", "steps=[300,800]", "--metric=fid")
    assert (code, err.count("fcdm.forecast: ")) == (1, 1)
    assert "at step 300 is no forecast any more: it has been measured at step 400" in err
    entries = read_ledger(runs / "forecasts").forecasts
    kinds = {(one.run.model, one.run.seed, one.steps): one.kind for one in entries}
    assert kinds == {
        ("N", 0, 800): "continuation",
        ("N", 5, 300): "interpolation",
        ("N", 5, 800): "prediction",
        **{("fcdm/w32", seed, steps): "prediction" for seed in (0, 5) for steps in (300, 800)},
    }
    assert out.count("within what was measured: interpolated") == 1


def test_a_hold_out_is_of_what_was_measured_from_what_lies_below(runs: Path, forecast: Forecast) -> None:
    words = ("demo", "model=N,M", "steps=[400,3200]", "--metric=fid", "--hold-out=both")
    code, _, err = forecast(*words)
    assert (code, err.count("\n")) == (1, 3)
    assert "--hold-out=both leaves no point: the study has nothing below this run" in err
    assert err.count("--hold-out=both is for a budget that was measured, and ") == 2
    (held_out,) = read_ledger(runs / "forecasts").forecasts
    assert (held_out.kind, held_out.run.model, held_out.fit["points"]) == ("hold-out", "M", 4), "N's first two budgets"
    assert scores(forecast)[0]["state"] in ("held", "failed", "uninformative")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demmo", "model=N", "steps=800"), "no study 'demmo' in .* (did you mean 'demo'?)"),
        (("demo", "model=N", "stepz=800"), "stepz"),
        (("demo", "model=dit/N-2", "steps=800"), "study 'demo' has no run of family dit to fit"),
        (
            ("demo", "model=N", "steps=800", "batch_size=32"),
            "is not as the runs of study 'demo' are: batch_size=32 (theirs 128)",
        ),
        (("demo", "model=N", "steps=800", "evaluation.samples=30"), "nothing was evaluated by"),
        (("demo", "model=N", "steps=80000"), "is further than the validated x16"),
        (("model=N", "steps=800"), "the study comes first"),
        ((), "say which study"),
        (("demo", "--score"), "demo: --score is of the whole ledger"),
        (("--score", "--runs", "elsewhere"), "one folder of runs at a time"),
        (("demo", "model=N", "--config-dir", "nowhere"), "--config-dir nowhere: there is no such folder"),
        (("--score", "--force"), "--force has no effect here"),
        (("--score", "--least-steps", "0"), "--least-steps has no effect here"),
        (("--score", "--config-dir", "."), "--config-dir has no effect here"),
        (("demo", "--config-dir", "."), "--config-dir has no effect here"),
        (("demo", "model=N", "steps=800", "--withdraw", "0"), "demo: --withdraw is of the whole ledger"),
        (("--score", "--publish"), "--score and --publish: one at a time"),
        (("--withdraw", "1"), "needs --why TEXT"),
        (("--withdraw", "1", "--why", "x"), "entry 1 is no forecast of this ledger; forecasts: none yet"),
        (("--hold-out=x", "demo", "model=N"), "invalid choice"),
    ],
)
def test_what_cannot_be_is_one_line(forecast: Forecast, runs: Path, words: tuple[str, ...], said: str) -> None:
    code, out, err = forecast(*words)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert all(part in err for part in said.split(".*")), err
    assert not list((runs / "forecasts").glob("0*"))


def test_what_is_forced_is_marked(forecast: Forecast) -> None:
    code, out, _ = forecast("demo", "model=N", "steps=80000", "batch_size=32", "--force", "--metric=fid")
    assert code == 0
    assert "  forced: x23.2 the compute" in out
    assert "  forced: not as the study's runs: batch_size=32 (theirs 128)" in out
    told = forecast("--score")[1]
    assert "prediction (forced)" in told
    assert "1 prediction (1 forced) of FID: " in told


def test_a_dry_run_writes_nothing_and_several_budgets_are_several_entries(forecast: Forecast, runs: Path) -> None:
    code, out, _ = forecast("demo", "model=N", "seed=3,4", "steps=[800,1600]", "--metric=fid", "--dry-run")
    assert (code, out.count("not written: prediction")) == (0, 4)
    assert not (runs / "forecasts").exists()


def test_withdrawing_is_an_entry_of_its_own_and_comes_before_anything_is_known(forecast: Forecast, runs: Path) -> None:
    forecast("demo", "model=N", "seed=3", "steps=[800,1600]", "--metric=fid")
    target = job(runs, "model=N", "seed=3", "steps=800")
    target.open()
    target.run.records.write_text(json.dumps({"step": 800, "time": 1.0}) + "\n")
    code, out, _ = forecast("--withdraw", "2", "--why", "the study's rates were wrong")
    assert (code, out) == (0, "entry 3: forecast 2 is withdrawn; it stays in the ledger and is counted\n")
    assert [one["state"] for one in scores(forecast)] == ["unscored", "withdrawn"]
    assert forecast("--withdraw", "2", "--why", "x")[2].startswith("fcdm.forecast: entry 2 is withdrawn already: the")
    code, _, err = forecast("--withdraw", "1", "--why", "x")
    assert (code, err.count("\n")) == (1, 1)
    assert "entry 1 stays: its training has recorded step 800" in err
    assert "1 withdrawn" in forecast("--score")[1]


def test_a_hold_out_is_never_taken_back(forecast: Forecast) -> None:
    forecast("demo", "model=M", "steps=400", "--metric=fid", "--hold-out=both")
    assert "entry 1 is a hold-out: " in forecast("--withdraw", "1", "--why", "x")[2]


def test_an_edited_entry_ends_every_command_that_reads_the_ledger(
    forecast: Forecast, runs: Path, tmp_path: Path
) -> None:
    forecast("demo", "model=N", "seed=3", "steps=800", "--metric=fid")
    public = tmp_path / "public"
    assert forecast("--publish", str(public))[1] == f"1 new entry in {public}\n"
    path = entry_path(runs / "forecasts", 1)
    text = path.read_text()
    path.write_text(text.replace('"seed": 3', '"seed": 4'))
    for words in (("--score",), ("--score", "--json"), ("demo", "model=N", "seed=3", "steps=1600", "--metric=fid")):
        code, out, err = forecast(*words)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "000001.json was changed since it was written" in err
    code, out, _ = forecast("--score", "--ledger", str(public))
    assert (code, "unscored" in out) == (0, True), "published copies are read by the same code"


def test_a_study_alone_writes_its_laws(forecast: Forecast, runs: Path) -> None:
    code, out, _ = forecast("demo")
    assert code == 0
    fid, loss = read_laws(runs / "forecasts")
    assert (fid.study, fid.metric, loss.metric) == ("demo", "fid", "heldout_loss")
    assert fid.common["model.family"] == "fcdm"
    assert str(runs / "forecasts" / "demo.law.json") in out
    assert "fid of fcdm = " in out


def test_a_law_that_a_study_tells_no_more_is_not_left_for_plans(forecast: Forecast, runs: Path) -> None:
    """A fit may lose its hold-outs with later points; here all evaluations but those of one budget are gone."""
    forecast("demo")
    for path in runs.glob("*/evaluations/*.json"):
        if "-00000400-" not in path.name:
            path.unlink()
    code, _, err = forecast("demo", "--metric=fid", "--dry-run")
    assert (code, err) == (1, "fcdm.forecast: fid: fid has one budget, and a law needs two\n")
    assert len(read_laws(runs / "forecasts")) == 2
    code, out, err = forecast("demo", "--metric=fid")
    assert (code, out) == (1, f"{runs / 'forecasts' / 'demo.law.json'}\n")
    assert err == "fcdm.forecast: fid: fid has one budget, and a law needs two (demo.law.json has no such law)\n"
    (loss,) = read_laws(runs / "forecasts")
    assert loss.metric == "heldout_loss"


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "mlflow", "pandas", "hydra", "numpy", "scipy", "omegaconf")
    code = (
        "import sys\nfrom fcdm.forecast import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        f"assert not {{*{heavy}}} & {{*sys.modules}}"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "STUDY model=... steps=..." in done.stdout


def test_the_command_line_alone_scores(runs: Path) -> None:
    done = python_in(ROOT, "-m", "fcdm.forecast", "--score", "--runs", str(runs))
    assert done.stdout == "the ledger holds no forecast yet\n"
