"""`evaluation.features=[a,b]`: several evaluations of one run, however the list is said; wrong lists are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcdm.config.schema import Config
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study
from fcdm.runs.protocol import sharing_samples
from fcdm.runs.reader import read_study
from fcdm.sweep.each_space import in_each_space, said_spaces
from fcdm.sweep.expand import choices_of
from fcdm.sweep.points import configs_of
from tests.support.commands import TINY, composing

BOTH = "evaluation.features=[pixels,digits-cnn]"
RUN = ("model=N", "steps=[2,4]", *TINY)


def points(*arguments: str) -> list[Config]:
    with composing(*arguments) as composer:
        return configs_of(composer, choices_of(composer.loader, composer.master, list(arguments)))


def features(job: Job) -> list[str]:
    return [part.config.evaluation.features for part in job.parts]


def sweep_file(folder: Path, text: str) -> str:
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return f"hydra.searchpath=[file://{folder}]"


@pytest.mark.parametrize("words", [[BOTH], ["evaluation={features: [pixels, digits-cnn]}"]])
def test_a_list_is_several_parts_of_one_run(words: list[str], tmp_path: Path) -> None:
    """The first named is the study's headline; the samples of both are the same."""
    (job,) = make_jobs(points(*RUN, *words, f"runs_dir={tmp_path}"))
    assert features(job) == ["pixels", "digits-cnn"]
    assert len({part.protocol_id for part in job.parts}) == 2
    assert sharing_samples(job.parts) == [list(job.parts)]
    record_study([job], ["a", "command"])
    study = read_study(tmp_path, "default")
    assert study.headline(job.id) == job.parts[0].protocol_id
    assert study.asked(job.id) == {part.protocol_id: (2, 4) for part in job.parts}


def test_in_a_sweep_and_its_file_each_run_has_both(tmp_path: Path) -> None:
    for text in (
        "evaluation:\n  features: [pixels, digits-cnn]",
        "grids:\n  - model: N\n    evaluation.features: [[pixels, digits-cnn]]",
        "grids:\n  - model: N\n    evaluation.features: [pixels, digits-cnn]",  # values of a grid: the same request
    ):
        folder = tmp_path / str(len(text))
        folder.mkdir()
        words = (sweep_file(folder, text), "+sweeps=mine", "seed=0,1", f"runs_dir={tmp_path}", *TINY, "steps=2")
        jobs = make_jobs(points(*words, *([] if "model" in text else ["model=N"])))
        assert [features(job) for job in jobs] == [["pixels", "digits-cnn"]] * 2


def test_what_is_said_for_one_of_them_is_left_out_at_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["model=N", "evaluation.reference=ref.npz", "seed=1", "evaluation.features=[inception,digits-cnn]"]
    assert said_spaces(choice) == [
        ["model=N", "evaluation.reference=ref.npz", "seed=1", "evaluation.features=inception"],
        ["model=N", "seed=1", "evaluation.features=digits-cnn"],
    ]
    names = ["classifier", "digits-cnn"]
    assert all("evaluation.reference=ref.npz" in one for one in in_each_space(choice, names)), "refused, not dropped"
    own = ["model=N", "+evaluation.features_options.k=1", "evaluation.features=[my.Edges,pixels]"]
    assert ["features_options" in " ".join(one) for one in said_spaces(own)] == [True, False]
    with pytest.raises(
        UserError, match=r"evaluation\.reference=ref\.npz has no effect at evaluation\.features=digits-cnn"
    ):
        points(*RUN, "evaluation.features=[digits-cnn]", "evaluation.reference=ref.npz")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("[]", r"evaluation.features=\[\] asks for nothing"),
        ("[pixels,pixels]", r"evaluation.features=\[pixels,pixels\] says pixels twice"),
        ("[pixels,nope]", "evaluation.features=nope is not known: say one of "),
        ("[pixels,3]", "3 is no name of a space of features"),
        ("[digits-cnn,inception]", "evaluation.features=inception does not fit data=digits: use digits-cnn or pixels"),
        ("null", "evaluation.features=None is not known"),
    ],
)
def test_wrong_lists_are_one_line(value: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        points(*RUN, f"evaluation.features={value}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_of_one_is_that_one_and_other_samples_are_not_shared() -> None:
    (alone,) = points(*RUN, "evaluation.features=[pixels]")
    (plain,) = points(*RUN, "evaluation.features=pixels")
    assert alone == plain
    (job,) = make_jobs(points(*RUN, BOTH, "evaluation.seed=0,1"))
    assert [len(group) for group in sharing_samples(job.parts)] == [2, 2]


@pytest.mark.parametrize("value", ["3", "True", "1.5"])
def test_a_value_that_is_no_name_is_one_line(value: str) -> None:
    with pytest.raises(UserError, match=rf"evaluation.features={value} is not known: say one of classifier, .*"):
        points("model=N", f"evaluation.features={value.lower()}")
