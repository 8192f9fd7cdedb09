"""What people type, read as it is meant: Hydra's grammar is not theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcdm import benchmark, train
from fcdm.errors import UserError
from fcdm.paths import home_expanded
from fcdm.sweep.command_line import readable, text_of
from fcdm.sweep.grammar import quoted
from tests.support.commands import composed

TEXT_KEYS = ("init_from", "data.path", "evaluation.reference", "evaluation.decoder", "runs_dir", "study", "mlflow_uri")


@pytest.mark.parametrize("key", TEXT_KEYS)
@pytest.mark.parametrize(
    "value",
    [
        "epoch=20-step=20.pt",
        "Größe",
        "a b",
        "/it's/here",
        "a(1)",
        "a{b}",
        "x;y!#*",
        "1e3",
        "1_000",
        "true",
        'say "a"',
        "~/x",
    ],
)
def test_a_texts_value_is_what_was_typed(key: str, value: str) -> None:
    (word,) = readable([f"{key}={value}"])
    assert text_of(word) == (home_expanded(value) if key == "mlflow_uri" else value)
    assert readable([word]) == [word]  # once more changes nothing


def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = composed(*readable(["model=N", "study=Größe", "init_from=epoch=20-step=20.pt", "runs_dir=~/my runs"]))
    assert (config.study, config.init_from) == ("Größe", "epoch=20-step=20.pt")
    assert config.runs_dir == f"{tmp_path}/my runs"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_quotes_keep_every_text(text: str) -> None:
    if "${" not in text:
        assert text_of(f"x={quoted(text)}") == text


@pytest.mark.parametrize(
    "word",
    [
        "steps=[1,2]",
        "seed=range(1,3)",
        "seed=0,1",
        "model=N,dit/N-2",
        "init_from=null,a.pt",
        "study=choice(a,b)",
        "data.path=${oc.env:HOME}/x",
        "data.path='a b'",
        "evaluation.guidance_interval=[0.1,0.5]",
        "+model.options.a={b: 1}",
        "hydra.launcher.setup=[module load x]",
        'hydra.launcher.partition="main,high"',
        "+slurm=h100x4",
        "'+sweeps=[a,b]'".strip("'"),
    ],
)
def test_what_hydra_reads_rightly_stays(word: str) -> None:
    assert readable([word]) == [word]


def test_a_sweep_of_paths_and_a_path_with_a_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert readable(["init_from=~/a.pt,b=c.pt"]) == ['init_from="~/a.pt","b=c.pt"']
    assert readable(["init_from=a,b.pt"]) == ["init_from=a,b.pt"]
    Path("a,b.pt").touch()
    assert readable(["init_from=a,b.pt"]) == ['init_from="a,b.pt"']  # a file that is there wins


def test_a_list_as_slurm_takes_it_is_no_sweep() -> None:
    assert readable(["hydra.launcher.partition=main,high"]) == ['hydra.launcher.partition="main,high"']
    assert readable(["resources.partition=main,high"]) == ["resources.partition=main,high"]


def test_folders_of_hydras_own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--config-dir", "~/c", "--config-dir=~/c", "-cd", "~/c", "--cfg", "job", "-m", "model=N"]
    given = [word.replace("~", str(tmp_path)) for word in words]
    assert readable(words) == given


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("batch_size=3=4", "batch_size=3=4 cannot be read: batch_size is a whole number"),
        ("optimiser.lr=(1)", "optimiser.lr is a number"),
        ("compile=~yes", "compile is true or false"),
        ("optimiser.betas=[0.9;0.99]", "optimiser.betas is a list such as [1,2]"),
        ("hydra.launcher.setup=[export A=b]", 'a list such as \'["one text","another=1"]\''),
        ("stduy=Größe", "unknown key 'stduy': did you mean study?"),
        ("Größe", "Größe gives no key a value: write key=value"),
    ],
)
def test_what_cannot_be_is_one_line_of_ours(word: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        readable([word])
    assert told in str(caught.value)


def test_what_the_line_advises_can_be_read() -> None:
    for word in ('hydra.launcher.setup=["one text","another=1"]', "optimiser.betas=[1,2]"):
        assert readable([word]) == [word]


@pytest.mark.parametrize("command", [train.main, benchmark.main])
@pytest.mark.parametrize(
    ("word", "said"), [("batch_size=3=4", "batch_size is a whole number"), ("--cfg=job", "Only one of --run")]
)
def test_the_commands_say_it_so(
    command: Callable[[], int],
    word: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr("sys.argv", ["fcdm", "-m", word, "model=N"])
    assert command() == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


MISTAKES = [
    (["model=dit/N-2", "model.kernel_size=3"], "model.kernel_size is an option of model.family=fcdm alone"),
    (["model=N", "=3"], "=3 gives no key a value"),
    (["model=N", "~seed"], "~seed takes a key away"),
    (["model=S", "data.path=/nowhere/x", "data.name=../../x"], "data.name='../../x' is no name for a file"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES)
def test_mistakes_name_what_was_typed(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("sys.argv", ["train", *words])
    assert train.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


SWEEP_FILES = {
    "twice": ("# @package _global_\ngrids:\n  - model: N\n    seed: 0\n    seed: 1\n", "line 5: found duplicate key"),
    "torn": ("# @package _global_\ngrids:\n  - model: [N\n    seed: 0\n", "twice.yaml, line"),
    "bare": ("grids:\n  - model: N\n", "sweeps/bare.yaml: its first line must be `# @package _global_`"),
}


@pytest.mark.parametrize("name", SWEEP_FILES)
def test_a_sweep_file_that_cannot_be_read_says_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, told = SWEEP_FILES[name]
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / f"{name}.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("sys.argv", ["train", "-m", "--config-dir", str(tmp_path), f"+sweeps={name}"])
    assert train.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told.replace("twice.yaml", f"{name}.yaml") in line
