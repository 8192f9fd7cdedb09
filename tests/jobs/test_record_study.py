"""Requests: refused where they cannot be met, forgotten where nothing was begun for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fcdm.config.schema import NEVER
from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import recorded, refuse_lost_requests, study_file
from fcdm.runs.branches import branches_of
from fcdm.runs.protocol import TRAINED_ONLY, Part
from fcdm.runs.reader import RunView, list_studies
from tests.support.commands import composed

COMMAND = ["python", "-m", "fcdm.train", "-m", "model=N"]


def jobs_of(folder: Path, *steps: Sequence[int], **values: object) -> list[Job]:
    base = composed("model=N")
    asked = [
        dataclasses.replace(base, seed=seed, steps=list(some), runs_dir=str(folder), **values)  # type: ignore[arg-type]
        for seed, some in enumerate(steps)
    ]
    return make_jobs(asked)


def trained_to(job: Job, step: int) -> None:
    (job.open().checkpoints / f"step-{step:08d}").mkdir(parents=True)


def test_a_budget_that_training_has_passed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, [10, 40], [10])
    refuse_lost_requests(jobs)  # nothing is trained yet
    trained_to(jobs[0], 20)
    with pytest.raises(UserError) as refused:
        refuse_lost_requests(jobs)
    assert str(refused.value).startswith(
        f"{jobs[0].name}: steps=10 cannot be evaluated any more: the run is trained to 20"
    )
    assert str(refused.value).endswith("nothing is recorded or begun")
    refuse_lost_requests(jobs_of(tmp_path, [20, 40], [10]))


def test_one_that_its_study_has_already_is_in_nobodys_way(tmp_path: Path) -> None:
    """Its checkpoint was deleted since: the launcher's row says so, and the others go on."""
    jobs = jobs_of(tmp_path, [10, 40], [10])
    with recorded(jobs, COMMAND):
        pass
    trained_to(jobs[0], 20)
    refuse_lost_requests(jobs)
    with pytest.raises(UserError, match="steps=15 cannot"):
        refuse_lost_requests(jobs_of(tmp_path, [10, 15, 40]))


def asking(jobs: list[Job], command: list[str], do: Callable[[], object]) -> None:
    with recorded(jobs, command):
        do()


def refuse() -> None:
    raise UserError("Invalid account")


def test_what_was_refused_leaves_no_request_behind(tmp_path: Path) -> None:
    path = study_file(tmp_path, composed("model=N").study)
    seen = []

    def look_and_refuse() -> None:
        seen.append(path.exists())
        refuse()

    with pytest.raises(UserError, match="Invalid account"):
        asking(jobs_of(tmp_path, [10]), COMMAND, look_and_refuse)
    assert (seen, path.exists()) == ([True], False), "there for jobs that start at once"
    asking(jobs_of(tmp_path, [10]), COMMAND, dict)
    before = path.read_bytes()
    with pytest.raises(UserError):
        asking(jobs_of(tmp_path, [10, 20], [10]), [*COMMAND, "steps=10,20"], refuse)
    assert path.read_bytes() == before
    with pytest.raises(ZeroDivisionError):  # a bug, with jobs begun perhaps
        asking(jobs_of(tmp_path, [10, 20]), COMMAND, lambda: 1 // 0)
    assert json.loads(path.read_text())["requests"][0]["budgets"] == [10, 20]


def test_what_another_command_has_asked_in_between_stays(tmp_path: Path) -> None:
    def another_and_refuse() -> None:
        asking(jobs_of(tmp_path, [10, 20]), [*COMMAND, "steps=10,20"], dict)
        refuse()

    with pytest.raises(UserError):
        asking(jobs_of(tmp_path, [10]), COMMAND, another_and_refuse)
    (request,) = json.loads(study_file(tmp_path, composed("model=N").study).read_text())["requests"]
    assert request["budgets"] == [10, 20]


def test_what_killed_writers_left_beside_studies_is_removed(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / ".tmp-a.json-1-abcd").write_text("{")
    with recorded(jobs_of(tmp_path, [10]), COMMAND):
        pass
    assert not list((tmp_path / "studies").glob(".tmp-*"))


def test_a_second_study_that_is_damaged_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    jobs = [*jobs_of(tmp_path, [10], study="a"), *jobs_of(tmp_path, [10], study="b")]
    study_file(tmp_path, "b").parent.mkdir(parents=True)
    study_file(tmp_path, "b").write_text("{")
    with pytest.raises(UserError, match="no study any more"):
        asking(jobs, COMMAND, dict)
    assert not study_file(tmp_path, "a").exists()
    asking(jobs[:1], COMMAND, dict)
    before = study_file(tmp_path, "a").read_bytes()
    with pytest.raises(UserError, match="no study any more"):
        asking(jobs, [*COMMAND, "seed=0"], dict)
    assert study_file(tmp_path, "a").read_bytes() == before


def branches(folder: Path, *steps: int, said: Sequence[str] = ()) -> list[Job]:
    asked = dataclasses.replace(composed("model=N"), steps=list(steps), cooldown=0.2, runs_dir=str(folder))
    return make_jobs(branches_of(asked, said))


def test_what_is_only_trained_is_asked_of_a_branchs_parent(tmp_path: Path) -> None:
    """And means nothing as a protocol: `fid` is what the branches are evaluated by."""
    jobs = branches(tmp_path, 10, 20)
    asking(jobs, COMMAND, dict)
    (study,) = list_studies(tmp_path)
    parent, *others = jobs
    ema, raw = others[0].parts
    assert study.asked(parent.id) == {TRAINED_ONLY: (8, 16)}
    assert study.budgets(parent.id) == (8, 16)
    assert study.asked(others[0].id) == {ema.protocol_id: (10,), raw.protocol_id: (10,)}
    assert {study.headline(job.id) for job in jobs} == {study.protocol_id} == {ema.protocol_id}
    assert TRAINED_ONLY not in study.spaces
    assert study.weights == {ema.protocol_id: "ema", raw.protocol_id: "raw"}
    assert list(RunView(parent.open().folder, (study,)).scalars()) == []


def test_a_run_that_is_evaluated_is_never_called_trained(tmp_path: Path) -> None:
    """Whatever the order in which it was asked for, and by which protocol."""
    base = dataclasses.replace(composed("model=N"), steps=[10], runs_dir=str(tmp_path))
    never = dataclasses.replace(base, evaluation=dataclasses.replace(base.evaluation, where=NEVER))
    fewer = dataclasses.replace(base, evaluation=dataclasses.replace(base.evaluation, samples=50))
    for number, configs in enumerate([[base], [fewer], [never]]):
        asking(make_jobs(configs), [*COMMAND, f"seed={number}"], dict)
    (study,) = list_studies(tmp_path)
    last = Part(make_jobs([fewer])[0].config)
    assert (study.protocol_id, study.protocol) == (last.protocol_id, last.protocol)
    (identity,) = {request.id for request in study.requests}
    assert study.headline(identity) == last.protocol_id
    assert list(study.asked(identity))[-1] == TRAINED_ONLY
    raw = Part(dataclasses.replace(last.config, evaluation=dataclasses.replace(base.evaluation, weights="raw")))
    asking(make_jobs([dataclasses.replace(raw.config, seed=1)]), [*COMMAND, "seed=1"], dict)  # of another run
    (study,) = list_studies(tmp_path)
    assert study.protocol_id == raw.protocol_id
    assert study.headline(identity) == last.protocol_id, "the last one that was asked of it, and no training"


def test_a_study_that_evaluates_nothing_at_all(tmp_path: Path) -> None:
    jobs = branches(tmp_path, 10)[:1]
    asking(jobs, COMMAND, dict)
    (study,) = list_studies(tmp_path)
    assert (study.protocol_id, study.protocol, study.spaces) == (TRAINED_ONLY, {}, {})
    asking(branches(tmp_path, 10), COMMAND, dict)
    (study,) = list_studies(tmp_path)
    assert TRAINED_ONLY not in (study.protocol_id, study.headline(jobs[0].id))
    assert study.wanted == study.requests


def test_where_its_jobs_run_makes_no_other_command(tmp_path: Path) -> None:
    where = [
        "evaluation.resources.hours=2",
        "resources.gpus=2",
        "device=cpu",
        "threads=2",
        "runs_dir=/r",
        "mlflow_uri=off",
    ]
    asking(jobs_of(tmp_path, [10, 20]), COMMAND, dict)
    asking(jobs_of(tmp_path, [20]), [*COMMAND, *where], dict)
    study = json.loads(study_file(tmp_path, composed("model=N").study).read_text())
    assert list(study["asked_by"]) == [" ".join(COMMAND)]
    asking(jobs_of(tmp_path, [20]), [*COMMAND, "evaluation.samples=10"], dict)
    study = json.loads(study_file(tmp_path, composed("model=N").study).read_text())
    assert len(study["asked_by"]) == 2
