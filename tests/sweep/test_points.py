"""Sweeps: where a key has no effect at some points it is one value there; a key given twice counts as the last says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.sweep import compose
from fcdm.sweep.expand import choices_of, expand, last_of_each
from fcdm.sweep.points import configs_of
from tests.support.commands import ROOT, composing

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
INTERVALS = "evaluation.guidance_interval=null,[0.1,0.8],[0.2,0.5]"


def points(*arguments: str) -> list[Config]:
    with composing(*arguments) as composer:
        return configs_of(composer, choices_of(composer.loader, composer.master, list(arguments)))


def test_scales_crossed_with_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    found = points("model=N", "evaluation.guidance_scale=1.0,1.5,2", INTERVALS)
    asked = [(config.evaluation.guidance_scale, config.evaluation.guidance_interval) for config in found]
    assert asked == [(1.0, None), *((scale, at) for scale in (1.5, 2.0) for at in (None, [0.1, 0.8], [0.2, 0.5]))]
    note = "evaluation.guidance_interval has no effect at evaluation.guidance_scale=1.0: 3 points are one"
    assert capsys.readouterr().err == f"note: {note}\n"


def test_several_keys_and_several_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    found = points(
        "model=N,S",
        "evaluation.guidance_scale=1,2",
        "evaluation.guidance_interval=[0,0.5]",
        "evaluation.reference=ref.npz",
        "data.latents=posterior,frozen",
    )
    assert len(found) == 2 + 4
    for config in found:
        assert (config.evaluation.reference is None) == (config.model.name == "N")
        assert (config.evaluation.guidance_interval is None) == (config.evaluation.guidance_scale == 1)
        assert config.data.latents == "posterior" or config.model.name == "S"
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "note: data.latents has no effect at data.downsample=1: 4 points are 2",
        "note: evaluation.guidance_interval has no effect at evaluation.guidance_scale=1.0: 4 points are 3",
        "note: evaluation.reference has no effect at evaluation.features=digits-cnn: 4 points are 2",
    ]


def test_an_option_of_some_families_goes_without_at_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    found = points("model=N,dit/N-2", "model.kernel_size=3,5", "model.expansion=2")
    asked = [(config.model.name, getattr(config.model, "kernel_size", None)) for config in found]
    assert asked == [("N", 3), ("N", 5), ("dit/N-2", None)]
    note = "model.expansion, model.kernel_size have no effect at model.family=dit: 2 points are one"
    assert capsys.readouterr().err == f"note: {note}\n"


def test_an_option_of_no_family_that_is_there_is_refused() -> None:
    says = "model.kernel_size=3 has no effect at model.family=dit: it is an option of fcdm alone"
    with pytest.raises(UserError, match=says):
        points("model=dit/N-2", "model.kernel_size=3,5")


def test_in_the_grids_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "evaluation.guidance_scale: [1.0, 1.5]\n    evaluation.guidance_interval: [[0.1, 0.8]]"
    found = points(sweep_file(tmp_path, f"grids:\n  - model: N\n    {text}"), "+sweeps=mine")
    assert [config.evaluation.guidance_interval for config in found] == [None, [0.1, 0.8]]
    assert "1 point does without" in capsys.readouterr().err


def sweep_file(folder: Path, text: str, name: str = "mine") -> str:
    """Written there; the word that lets Hydra find it."""
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return f"hydra.searchpath=[file://{folder}]"


@pytest.mark.parametrize("model", ["N", "M", "S", "dit/N-2", "dit/S-2"])
def test_a_file_that_chooses_groups_is_as_the_same_words(tmp_path: Path, model: str) -> None:
    """What the groups bring is nobody's saying, wherever they were chosen."""
    where = sweep_file(tmp_path, f"defaults: [override /model: {model}, _self_]\ngrids: [{{seed: [0, 1]}}]")
    found = points(where, "+sweeps=mine")
    assert [dataclasses.replace(config, grids=[]) for config in found] == points(f"model={model}", "seed=0,1")


def test_a_file_may_take_in_another_and_the_command_line_comes_first(tmp_path: Path) -> None:
    where = sweep_file(tmp_path, "defaults: [override /model: N, _self_]\nlog_every: 7", "inner")
    sweep_file(tmp_path, "defaults: [inner, _self_]\nthreads: 2")
    assert points(where, "+sweeps=mine") == points("model=N", "log_every=7", "threads=2")
    assert points(where, "+sweeps=mine", "model=S") == points("model=S", "log_every=7", "threads=2")


def test_what_a_file_with_groups_says_itself_is_said(tmp_path: Path) -> None:
    text = "defaults: [override /model: N, _self_]\nevaluation: {reference: x}\ngrids: [{seed: [0, 1]}]"
    where = sweep_file(tmp_path, text)
    with pytest.raises(UserError, match=r"evaluation.reference=x has no effect at evaluation.features=digits-cnn"):
        points(where, "+sweeps=mine")
    assert len(points(where, "+sweeps=mine", "evaluation.reference=null")) == 2


def test_texts_in_the_grids_of_a_file_stay_texts(tmp_path: Path) -> None:
    where = sweep_file(tmp_path, 'grids: [{model: N, study: ["1e3", "007", "a-${seed}"], seed: [3]}]')
    assert [config.study for config in points(where, "+sweeps=mine")] == ["1e3", "007", "a-3"]


@pytest.mark.parametrize("name", SWEEPS)
def test_all_sweep_files_compose_without_a_word(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """But of what sizes, matched widths and rules of size come to."""
    compose._note.cache_clear()  # each is said once a process, and other tests of this one may have had it
    assert points(f"+sweeps={name}")
    found = re.compile(r"note: model=\S+( model\.\w+=\S+)*: (width \d+[, ]|optimiser\.lr=)")
    assert [line for line in capsys.readouterr().err.splitlines() if not found.match(line)] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=N", "evaluation.guidance_interval=[0.1,0.8]"], "evaluation.guidance_interval=[0.1,0.8] has no effect"),
        (["model=N,M", "evaluation.reference=x"], "[model=N evaluation.reference=x]"),
        # At 1.5 it is said, and with the presets' value: what differs has an effect nowhere.
        (["model=N", "evaluation.guidance_scale=1", INTERVALS], "evaluation.guidance_interval=[0.1,0.8] has no effect"),
        # A mistyped word first, as without -m.
        (["model=S", "objective=flow", "evaluation.sampler=dopri", "evaluation.rtol=1e-4"], "did you mean dopri5?"),
        (["model=N", "evaluation.guidance_scale=-1", INTERVALS], "evaluation.guidance_scale=-1.0 cannot be"),
        (["model=N", "label_drop.probability=0", "evaluation.guidance_scale=1.5"], "never trains the null class"),
        (["+sweeps=kernel", "model=N"], "stands in a sweep file, and evaluation.reference=null takes it back"),
    ],
)
def test_what_has_an_effect_at_no_point_is_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError) as refused:
        points(*arguments)
    assert says in str(refused.value)


def test_a_point_that_does_without_is_as_if_it_was_never_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The preset's value there is nobody's saying: what follows from the other settings follows."""
    words = ("model=S", "evaluation.guidance_scale=1.5")
    found = points(*words, "evaluation.guidance_weak=null,x@1", "evaluation.guidance_channels=2")
    assert found[0].evaluation.guidance_channels == 2
    assert found[1:] == points(*words, "evaluation.guidance_weak=x@1")
    assert "evaluation.guidance_channels has no effect at evaluation.guidance_weak=x@1" in capsys.readouterr().err


def test_what_a_mapping_says_was_typed() -> None:
    with pytest.raises(UserError) as refused:
        points("model=N", "evaluation={guidance_interval: [0.1,0.2]}")
    assert "evaluation.guidance_interval=[0.1,0.2] has no effect" in str(refused.value)
    assert "sweep file" not in str(refused.value)


# --- a key that is given twice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twice", "once"),
    [
        (["model=N,M", "model=M,dit/N-2"], ["model=M,dit/N-2"]),
        (["model=N", "model=M,dit/N-2"], ["model=M,dit/N-2"]),
        (["model=N,M", "model=dit/N-2"], ["model=dit/N-2"]),
        (["seed=1", "seed=0,1,2"], ["seed=0,1,2"]),
        (["seed=1", "study=a", "seed=range(0,3)"], ["study=a", "seed=range(0,3)"]),
        (["steps=1,2", "steps=3"], ["steps=3"]),
        (["steps=[1,2]", "steps=3,4"], ["steps=3,4"]),
        (["steps=3", "steps=[1,2]"], ["steps=[1,2]"]),
        (["+model.options.a=1,2", "model.options.a=3"], ["+model.options.a=3"]),
        (["+model.options.a=1", "+model.options.a=3,4"], ["+model.options.a=3,4"]),
        (["++seed=1,2", "seed=3"], ["++seed=3"]),
        (["+sweeps=digits", "+sweeps=flow"], ["+sweeps=flow"]),
        (["hydra/launcher=local", "-m", "hydra/launcher=plan"], ["-m", "hydra/launcher=plan"]),
    ],
)
def test_the_last_wins(twice: list[str], once: list[str]) -> None:
    assert last_of_each(twice) == once
    assert last_of_each(once) == once
    if "-m" not in once:
        assert expand(twice, []) == expand(once, [])


def test_a_group_and_values_below_it_are_two_keys() -> None:
    words = ["evaluation=job", "evaluation={samples: 5}", "evaluation.samples=6", "data@x=a", "data=b", "~ema"]
    assert last_of_each(words) == words
    assert expand(words, []) == [words]


def test_words_keep_their_order_and_come_after_the_grids() -> None:
    """Hydra lets the last one win, also where a mapping says the same key."""
    assert expand(["optimiser.lr=1,2", "optimiser={lr: 3}"], []) == [
        ["optimiser.lr=1", "optimiser={lr: 3}"],
        ["optimiser.lr=2", "optimiser={lr: 3}"],
    ]
    grids = [{"evaluation": "job", "evaluation.samples": [4, 5]}]
    assert expand(["evaluation={samples: 6}"], grids) == [["evaluation=job", "evaluation={samples: 6}"]]
    (found,) = points("model=N", "optimiser.lr=1e-3,2e-3", "optimiser={lr: 3e-3}")
    assert found.optimiser.lr == 3e-3
