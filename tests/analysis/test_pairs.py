"""`--pair A B`: any two models, by name, label or settings; what means nothing or too much is one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fcdm.analysis import claims, plots
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.stats.model_pairs import comparisons
from fcdm.analysis.stats.step_efficiency import RatioRange
from fcdm.errors import UserError
from tests.support.fake_runs import make_run, make_study, make_two_resolutions


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    made = [make_run(folder, model, lr=lr, grids=False) for model in ("N", "M", "dit/N-2") for lr in (1e-3, 4e-3)]
    make_study(folder, made)
    return folder


@pytest.fixture(scope="module")
def table(runs: Path) -> pd.DataFrame:
    return tidy_table(runs, "demo")


@pytest.mark.parametrize(
    ("a", "b", "labels"),
    [
        ("FCDM-N", "FCDM-M", ("FCDM-N lr=0.004", "FCDM-M lr=0.004")),  # each at its best setting
        ("model=N", "model=M", ("FCDM-N lr=0.004", "FCDM-M lr=0.004")),
        ("FCDM-N lr=0.001", "FCDM-N lr=0.004", ("FCDM-N lr=0.001", "FCDM-N lr=0.004")),
        ("model=N,lr=1e-3", "model=N,optimiser.lr=0.004", ("FCDM-N lr=0.001", "FCDM-N lr=0.004")),
        ("DIT/n-2", "fcdm-n LR=0.004", ("DiT-N/2 lr=0.004", "FCDM-N lr=0.004")),
        ("dit/N-2", "FCDM-N", ("DiT-N/2 lr=0.004", "FCDM-N lr=0.004")),  # the other way round
        ("family=dit", "N blocks=[1,1,2,1,1]", ("DiT-N/2 lr=0.004", "FCDM-N lr=0.004")),
    ],
)
def test_what_a_pattern_means(table: pd.DataFrame, a: str, b: str, labels: tuple[str, str]) -> None:
    (one,) = comparisons(table, [(a, b)])
    assert (one.a.label, one.b.label) == labels


def test_several_pairs_in_their_order(table: pd.DataFrame) -> None:
    found = comparisons(table, [("FCDM-M", "DiT-N/2"), ("FCDM-N", "FCDM-M")])
    assert [(one.a.name, one.b.name) for one in found] == [("FCDM-M", "DiT-N/2"), ("FCDM-N", "FCDM-M")]


def test_one_setting_of_two_differs_in_what_it_says(table: pd.DataFrame) -> None:
    (one,) = comparisons(table, [("FCDM-N lr=0.001", "FCDM-N lr=0.004")])
    assert one.differs == ("optimiser.lr 0.001 against 0.004",)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("FCDM-XL", "FCDM-N", "nothing here is 'FCDM-XL': no model 'FCDM-XL', did you mean FCDM-"),
        ("FCDM-N", "model=N,lr=7", "nothing here is 'model=N,lr=7': no run has lr=7: lr is 0.001, 0.004 here; there: "),
        ("FCDM-N", "M optimizer.lr=0.004", "no run has the key optimizer.lr: did you mean optimiser.lr?"),
        ("lr=0.001", "FCDM-N", "'lr=0.001' means FCDM-N lr=0.001, FCDM-M lr=0.001, DiT-N/2 lr=0.001: add model="),
        ("FCDM-N", "model=N,lr=0.004", "are the same, FCDM-N lr=0.004"),
        (" ", "FCDM-N", "an empty pattern names no model"),
    ],
)
def test_a_pattern_that_means_nothing_or_too_much_is_one_line(
    runs: Path, table: pd.DataFrame, a: str, b: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as raised:
        comparisons(table, [(a, b)])
    assert says in str(raised.value)
    for command, more in ((claims, []), (plots, ["--out", str(tmp_path / "out")])):
        assert command.main(["--runs", str(runs), "--study", "demo", "--pair", a, b, *more]) == 1
        said = capsys.readouterr()
        assert says in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_settings_are_chosen_among_those_of_the_other_sides_batch(tmp_path: Path) -> None:
    """At equal steps batch 512 has the lower FID, of four times the images; DiT has 128 alone."""
    for model, batch, lr in (("N", 512, 4e-3), ("N", 128, 1e-3), ("dit/N-2", 128, 4e-3), ("M", 64, 4e-3)):
        make_run(tmp_path, model, batch_size=batch, lr=lr, grids=False)
    table = tidy_table(tmp_path)
    (one,) = comparisons(table)
    assert (one.a.batch_size, one.b.batch_size) == (128, 128)
    assert isinstance(one.steps, RatioRange)
    assert one.tried == (1, 1)
    assert one.not_compared == ("FCDM-N batch_size=512 lr=0.004 (batch 512)",)
    (one,) = comparisons(table, [("batch_size=512", "FCDM-N batch_size=128 lr=0.001")])
    assert (one.a.batch_size, one.b.batch_size) == (512, 128)
    (one,) = comparisons(table, [("FCDM-N", "FCDM-M")])  # none in common: the smaller of as many settings
    assert (one.a.batch_size, one.b.batch_size) == (128, 64)


def test_two_resolutions_are_compared_each_by_itself_and_never_across(tmp_path: Path) -> None:
    table = tidy_table(make_two_resolutions(tmp_path / "runs"), "demo")
    assert [one.a.resolution for one in comparisons(table, [("model=N", "model=M")])] == [8, 16]
    (one,) = comparisons(table, [("model=N,resolution=16", "model=M")])
    assert one.a.resolution == one.b.resolution == 16
    with pytest.raises(UserError, match="have no data and resolution in common: distances of two scales"):
        comparisons(table, [("model=N,resolution=16", "model=N,resolution=8")])


def test_the_commands_speak_of_the_pairs_that_were_asked_for(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = ["--pair", "FCDM-N", "FCDM-M", "--pair", "FCDM-N lr=0.001", "FCDM-N lr=0.004"]
    assert claims.main(["--runs", str(runs), "--study", "demo", *pairs]) == 0
    said = capsys.readouterr().out
    assert "FCDM-N lr=0.004 against FCDM-M lr=0.004, 8 px: steps to equal FID" in said
    assert "FCDM-N lr=0.001 against FCDM-N lr=0.004, 8 px: steps to equal FID" in said
    assert "against DiT-N/2 lr" not in said
    assert plots.main(["--runs", str(runs), "--study", "demo", "--out", str(tmp_path / "out"), *pairs]) == 0
    said = capsys.readouterr().out
    assert "FCDM-M lr=0.004 after" in said
    assert "FCDM-N lr=0.001 reaches FID" in said
    assert "DiT-N/2 lr=0.004 after" not in said
    assert claims.main(["--pair", "FCDM-N", "FCDM-M"]) == 1
    assert "say which with --runs DIR" in capsys.readouterr().err
