"""`--pair A B`: any two models, by name, label or settings; what means nothing or too much is one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from fcdm.analysis import claims, plots
from fcdm.analysis.data.labels import display_name, in_order_of_size
from fcdm.analysis.data.seed_curves import seed_curves
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.figures.styles import line_styles
from fcdm.analysis.reporting.result_tables import results_table
from fcdm.analysis.stats.model_pairs import comparisons
from fcdm.analysis.stats.step_efficiency import RatioRange
from fcdm.analysis.stats.study_laws import fits_of
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


# --- sizes of a ladder ---------------------------------------------------------------------------------


def test_names_of_a_ladder_are_the_papers() -> None:
    names = {"fcdm/64M": "FCDM-64M", "fcdm/w96": "FCDM-w96", "dit/2GMACs": "DiT-2GMACs", "dit/2GMACs-4": "DiT-2GMACs/4"}
    assert {model: display_name(model, model.partition("/")[0]) for model in names} == names


def ladder(table: pd.DataFrame, *sizes: str) -> pd.DataFrame:
    """The rows of one FCDM and one DiT under the names of a ladder: a new model for each name."""
    first = table[table["lr"] == 4e-3]
    rows = []
    for place, size in enumerate(sizes):
        family = size.partition("/")[0]
        of = first[first["model"] == ("N" if family == "fcdm" else "dit/N-2")]
        name = display_name(size, family)
        rows.append(of.assign(model=size, label=name, variant=name, forward_gmacs=of["forward_gmacs"] * (1 + place)))
    whole = pd.concat(rows, ignore_index=True)
    whole.attrs = table.attrs
    return whole


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (("fcdm/2GMACs", "dit/2GMACs"), [("FCDM-2GMACs", "DiT-2GMACs")]),
        (("fcdm/64M", "dit/64M-4", "dit/64M"), [("FCDM-64M", "DiT-64M")]),  # the smallest patch, as ever
        (("fcdm/64M", "dit/64M-4"), [("FCDM-64M", "DiT-64M/4")]),
        (("fcdm/64M", "dit/64MMACs", "dit/640M"), []),
        (("fcdm/w96", "dit/w96"), []),  # as wide, and not as large
    ],
)
def test_an_fcdm_and_the_dit_of_its_size_are_a_pair_by_name(
    table: pd.DataFrame, sizes: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    assert [(one.a.name, one.b.name) for one in comparisons(ladder(table, *sizes))] == expected


def test_sizes_of_a_ladder_are_in_order_of_their_size_not_of_their_letters(table: pd.DataFrame) -> None:
    sizes = ("fcdm/8M", "fcdm/64M", "fcdm/128M", "dit/2GMACs", "dit/16GMACs")
    mixed = in_order_of_size(ladder(table, *sizes).sample(frac=1, random_state=0), "label", "steps")
    assert list(dict.fromkeys(mixed["model"])) == list(sizes)
    names = [display_name(size, size.partition("/")[0]) for size in sizes]
    assert [row[0] for row in results_table(mixed, "fid", "p").rows] == names
    assert list(fits_of(mixed)) == names
    lines = seed_curves(mixed)
    assert [line.name for line in lines] == names
    light = {name: sum(to_rgb(style["color"])) for name, style in line_styles(lines).items()}
    assert light["FCDM-8M"] > light["FCDM-64M"] > light["FCDM-128M"]
    assert light["DiT-2GMACs"] > light["DiT-16GMACs"]
