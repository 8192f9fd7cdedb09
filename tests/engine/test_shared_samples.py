"""Several spaces of features of one run: samples are drawn once, each space is measured once; a kill costs little."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import fcdm.engine.evaluate as evaluating
from fcdm.engine.distributed import Ranks
from fcdm.engine.sampler import Sampler
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.jobs.job import EVALUATE, Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.run_job import do_job
from fcdm.runs.records import RecordWriter
from tests.support.commands import TINY, composing, evaluations
from tests.support.silent import Silent

BOTH = "evaluation.features=[digits-cnn,pixels]"
BATCHES = 2  # of 20 samples, 10 at a time


def job_of(folder: Path, *words: str) -> Job:
    with composing() as composer:
        choice = ["model=N", "model.width=8", "steps=[2,4]", f"runs_dir={folder}", *TINY, "threads=1", *words]
        (job,) = make_jobs([composer.config(one) for one in composer.each_space(choice)])
    job.open()
    return job


def worker(progress: Any = None, stop: StopSignal | None = None) -> Worker:
    return Worker(Ranks(0, 1, torch.device("cpu")), progress or Silent(), stop or StopSignal())


def measured(job: Job) -> dict[str, Any]:
    """Metrics by file."""
    return {name: content["metrics"] for name, content in evaluations(job.folder).items()}  # type: ignore[index]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often samples were drawn and the held-out loss was computed."""
    found = {"batches": 0, "heldout": 0}
    images, loss = Sampler.images, evaluating.heldout_loss

    def drawing(self: Sampler, *arguments: Any) -> Any:
        found["batches"] += 1
        return images(self, *arguments)

    def losing(*arguments: Any) -> Any:
        found["heldout"] += 1
        return loss(*arguments)

    monkeypatch.setattr(Sampler, "images", drawing)
    monkeypatch.setattr(evaluating, "heldout_loss", losing)
    return found


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each space measures alone."""
    folder, found = tmp_path_factory.mktemp("alone"), {}
    for name in ("digits-cnn", "pixels"):
        job = job_of(folder / name, f"evaluation.features={name}")
        do_job(job, worker())
        found |= measured(job)
    assert len(found) == 4
    return found


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, metrics in wanted.items():
        assert found[name] == pytest.approx(metrics, rel=1e-9), name


def test_training_draws_once_for_both(tmp_path: Path, wanted: dict[str, Any], counted: dict[str, int]) -> None:
    job = job_of(tmp_path, BOTH)
    do_job(job, worker())
    assert counted == {"batches": 2 * BATCHES, "heldout": 2}, "of two budgets"
    assert_same(measured(job), wanted)
    lines = [json.loads(line) for line in job.run.records.read_text().splitlines()]
    recorded = {(line["step"], line["protocol"]): line["fid"] for line in lines if "protocol" in line}
    assert len(recorded) == 4, "a line of the records for each"
    assert not list(job.run.evaluations.glob(".step*")), "nothing partial is left"


def test_a_space_that_is_added_later_draws_again_and_never_trains(
    tmp_path: Path, wanted: dict[str, Any], counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    do_job(job_of(tmp_path, "evaluation.features=digits-cnn"), worker())
    both = job_of(tmp_path, BOTH)
    before = both.run.records.read_text()
    first = {path: path.stat().st_mtime_ns for path in both.run.evaluations.glob("*.json")}
    counted |= {"batches": 0, "heldout": 0}
    do_job(Job(both.id, both.folder, both.parts, EVALUATE), worker())
    assert counted == {"batches": 2 * BATCHES, "heldout": 2}
    assert_same(measured(both), wanted)
    assert {path: path.stat().st_mtime_ns for path in first} == first, "what was there is not measured again"
    assert both.run.records.read_text() == before
    do_job(Job(both.id, both.folder, both.parts, EVALUATE), worker())
    assert counted["batches"] == 2 * BATCHES


class Killed(BaseException):
    """In the place of a kill -9."""


def test_a_kill_between_the_two_files_costs_no_sample(
    tmp_path: Path, wanted: dict[str, Any], counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before the second record nor between it and its file; and no line of the records stands twice."""
    job = job_of(tmp_path, BOTH)
    write = RecordWriter.write
    with monkeypatch.context() as patched:

        def dying(self: RecordWriter, step: int, fields: dict[str, Any]) -> Any:
            if fields.get("protocol") == job.parts[1].protocol_id:
                raise Killed
            return write(self, step, fields)

        patched.setattr(RecordWriter, "write", dying)
        with pytest.raises(Killed):
            do_job(job, worker())
    assert len(measured(job)) == 1
    assert counted["batches"] == BATCHES
    with monkeypatch.context() as patched:

        def dying_later(*arguments: Any) -> Any:
            raise Killed

        patched.setattr("fcdm.engine.evaluate_run.write_json", dying_later)
        with pytest.raises(Killed):
            do_job(job, worker())
    assert counted["batches"] == BATCHES, "what the second space had seen was kept"
    do_job(job, worker())
    assert counted["batches"] == 2 * BATCHES, "those of the second budget"
    assert_same(measured(job), wanted)
    lines = [json.loads(line) for line in job.run.records.read_text().splitlines()]
    keys = [(line["step"], line["protocol"]) for line in lines if "protocol" in line]
    assert len(keys) == len(set(keys)) == 4


class StopsSampling(Silent):
    def __init__(self, stop: StopSignal, at: int) -> None:
        self.stop, self.at = stop, at

    def sampling(self, step: int, done: int, samples: int) -> None:
        if done == self.at:
            self.stop.signum = signal.SIGTERM


@pytest.mark.parametrize("lost", [None, 0, 1])
def test_a_stop_keeps_what_each_has_seen_and_one_that_lost_it_catches_up(
    lost: int | None, tmp_path: Path, wanted: dict[str, Any], counted: dict[str, int]
) -> None:
    job, stop = job_of(tmp_path, BOTH), StopSignal()
    with pytest.raises(Stopped):
        do_job(job, worker(StopsSampling(stop, at=10), stop))
    partial = sorted(job.run.evaluations.glob(".step-00000002-*.npz"))
    assert len(partial) == 2
    if lost is not None:
        partial[lost].unlink()
    counted |= {"batches": 0, "heldout": 0}
    do_job(job, worker())
    assert counted == {"batches": 2 * BATCHES - (lost is None), "heldout": 2}
    assert_same(measured(job), wanted)


def test_a_reference_that_changed_costs_its_own_space_alone(
    tmp_path: Path, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, BOTH)
    changed = job.parts[0].config

    def looks(config: Any, protocol: Any) -> str | None:
        return "it has changed" if config is changed else None

    monkeypatch.setattr("fcdm.engine.evaluate_run.changed_since", looks)
    with pytest.raises(Exception, match="it has changed"):
        do_job(job, worker())
    assert_same(measured(job), {name: one for name, one in wanted.items() if job.parts[1].protocol_id in name})


def test_each_budget_of_each_space(tmp_path: Path, counted: dict[str, int]) -> None:
    """Two requests of one command may want a space at some budgets only."""
    with composing() as composer:
        words = ["model=N", "model.width=8", f"runs_dir={tmp_path}", *TINY, "threads=1"]
        asked = (["steps=[2,4]", "evaluation.features=digits-cnn"], ["steps=4", "evaluation.features=pixels"])
        (job,) = make_jobs([composer.config([*words, *more]) for more in asked])
    run = job.open()
    do_job(job, worker())
    assert counted["batches"] == 2 * BATCHES
    names = {path.name for path in run.evaluations.glob("*.json")}
    assert names == {run.evaluation(step, part.protocol_id).name for part in job.parts for step in part.budgets}


def test_a_space_that_cannot_be_opened_costs_itself_alone(
    tmp_path: Path, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, opening = job_of(tmp_path, BOTH), evaluating.open_measure

    def opened(config: Any, *arguments: Any) -> Any:
        if config.evaluation.features == "pixels":
            raise UserError("no such library")
        return opening(config, *arguments)

    monkeypatch.setattr(evaluating, "open_measure", opened)
    with pytest.raises(UserError, match=r"no such library.* cannot be evaluated"):
        do_job(job, worker())
    kept = next(part for part in job.parts if part.config.evaluation.features == "digits-cnn")
    assert_same(measured(job), {name: one for name, one in wanted.items() if kept.protocol_id in name})
