"""Paths and words are treated alike, by their fields, wherever they are said."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fcdm.config.check import checked
from fcdm.config.keys import config_keys, keys_of
from fcdm.config.texts import refuse_secrets
from fcdm.config.when import BY_COMMANDS
from fcdm.errors import UserError
from fcdm.paths import home_expanded, place
from fcdm.slurm.options import SlurmOptions
from fcdm.sweep.compose import configured
from fcdm.sweep.expand import expand
from fcdm.sweep.plan_launcher import show_plan
from fcdm.sweep.slurm_launcher import launcher_options
from tests.support.commands import composed, composing

ON_DIGITS, ON_LATENTS = ("model=N", "evaluation.guidance_scale=2"), ("model=S",)
PATHS = [key for key, item in config_keys().items() if item.is_path]


def test_which_keys_are_paths() -> None:
    assert set(PATHS) == {
        "data.path",
        "data.vae",
        "evaluation.decoder",
        "evaluation.dinov2",
        "evaluation.guidance_weak",
        "evaluation.guidance_weak_path",
        "evaluation.reference",
        "init_from",
        "init_path",
        "mlflow_uri",
        "runs_dir",
    }
    assert [key for key, item in keys_of(SlurmOptions).items() if item.is_path] == ["slurm_conf"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("key", [key for key in PATHS if BY_COMMANDS not in config_keys()[key].needs])
def test_the_home_folder_in_every_path(key: str, home: Path) -> None:
    """On a command line, and as a sweep file's grid says it."""
    where = ON_DIGITS if key == "evaluation.guidance_weak" else ON_LATENTS
    where = (*where, *(["evaluation.features=dinov2"] if key == "evaluation.dinov2" else []))
    for words in ([f"{key}='~/x=1'"], *expand([], [{key: "~/x=1"}])):
        found: object = composed(*where, *words)
        for name in key.split("."):
            found = getattr(found, name)
        assert found == f"{home}/x=1"


def test_the_home_folder_in_yaml(home: Path, tmp_path: Path) -> None:
    """`runs_dir: ~/runs` made a folder named `~`."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text("# @package _global_\nruns_dir: ~/runs\nmlflow_uri: off\n")
    words = ["model=N", "+sweeps=mine"]
    with composing(f"hydra.searchpath=[file://{tmp_path}]", *words) as composer:
        config = configured(composer.composed(words), composer.said(words))
    assert config.runs_dir == f"{home}/runs"
    assert config.mlflow_uri == "off"


def test_places(home: Path) -> None:
    assert home_expanded("sqlite:///~/mlflow.db") == f"sqlite:///{home}/mlflow.db"
    assert home_expanded("file://~/x") == f"file://{home}/x"
    assert home_expanded("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    assert place("a~b") == Path("a~b")
    assert launcher_options({"slurm_conf": None})[0].slurm_conf is None
    with pytest.raises(UserError, match=f"slurm_conf={home}/none is not there"):
        launcher_options({"slurm_conf": "~/none"})


@pytest.mark.parametrize("word", ["off", "Off", "no", "false", "False"])
def test_off_is_a_word(word: str) -> None:
    """YAML 1.1 reads it as false, which a text's field makes 'False'."""
    assert composed("model=N", f"mlflow_uri={word}").mlflow_uri == "off"
    for choice in expand([], [{"mlflow_uri": False}]):
        assert composed("model=N", *choice).mlflow_uri == "off"


def test_on_is_no_store() -> None:
    with pytest.raises(UserError, match="mlflow_uri=True is no store"):
        composed("model=N", "mlflow_uri=true")


@pytest.mark.parametrize("key", ["study", "data.path", "init_from", "evaluation.reference", "data.name", "model.name"])
def test_a_truth_value_is_no_word(key: str) -> None:
    for choice in expand([], [{key: True}]):
        with pytest.raises(UserError, match=f"{key}=True is a truth value, and a word belongs there"):
            composed("model=N", *choice)


def test_a_truth_value_among_choices_is_told_the_choices() -> None:
    with pytest.raises(UserError, match=r"data.flip=False is not known: .*none"):
        composed("model=N", "data.flip=false")


@pytest.mark.parametrize("key", ["partition", "constraint", "comment", "qos", "account"])
def test_truth_values_of_launchers(key: str) -> None:
    for launch in (launcher_options, lambda values: show_plan([], values)):
        with pytest.raises(UserError, match=rf"hydra.launcher.{key}=True is a truth value"):
            launch({key: "True"})


def test_a_models_options_hold_no_secret() -> None:
    """They are written into the run's folder, and are part of its id."""
    refuse_secrets({"cls_token": True, "tokens": 4096, "token_width": 4096, "inner": [{"api_key": "$KEY"}]})
    refuse_secrets({"token": 4096, "inner": {"token": [1024, 2048], "token_dropout": 0.5, "drop_token": 0.5}})
    for options in (
        {"inner": {"api_key": "abcdef"}},
        {"token": "hf_0123456789abcdef"},
        {"token": "hf_short"},
        {"hf_token": "hf_short"},
        {"access_token": "abc123"},
        {"password": 12345678},
        {"nested": [{"api_key": "abcdef"}]},
        {"nested": [[{"api_key": "abcdef"}]]},
        {"api_key": ["abcdef"]},
    ):
        with pytest.raises(UserError, match=r"model.options\.\S+ looks like a secret.*environment variable"):
            refuse_secrets(options)
    with composing() as composer:
        composed = OmegaConf.to_container(composer.composed(["model=N"]))
    assert isinstance(composed, dict)
    model = {"family": "custom", "name": "x", "target": "a.B", "options": {"api_key": "abcdef"}, "source": None}
    with pytest.raises(UserError, match="looks like a secret"):
        checked(OmegaConf.create({**composed, "model": model}))


@pytest.mark.parametrize("study", ["team/x", "-x", "", "a b"])
def test_a_studys_name_is_a_files(study: str) -> None:
    with pytest.raises(UserError, match="is no name for a file: letters, digits, dots, - and _ only"):
        composed("model=N", f"study='{study}'")
