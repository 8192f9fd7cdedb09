"""Cooldown branches in MLflow: what they leave, and that training alone is no evaluation that is still to come."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study
from fcdm.runs.branches import branches_of
from fcdm.runs.records import RecordWriter
from fcdm.tracking.forward import Forwarder
from tests.support.commands import composed

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves its connections to the collector
]


@pytest.fixture
def jobs(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """A trajectory that is trained to 8 and to 16 alone, and its branches to 10 and 20; asked for, and nothing done."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked = dataclasses.replace(
        composed("model=N"), steps=[10, 20], cooldown=0.2, runs_dir=str(tmp_path / "runs"), study="s"
    )
    made = make_jobs(branches_of(asked, []))
    record_study(made, ["python", "-m", "fcdm.train", "-m", "model=N", "cooldown=0.2"])
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    return made


def trained(job: Job, step: int, branched: str | None = None) -> None:
    """As a segment that ends there leaves it."""
    run = job.open()
    (run.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    with RecordWriter(run.records) as records:
        records.segment_start(0, **({"branched_from": branched} if branched else {}))
        records.write(step, {"loss": 0.5})
        records.segment_end(step, completed=True)


def evaluated(job: Job, step: int) -> None:
    run = job.open()
    run.evaluations.mkdir()
    for part in job.parts:
        content = {"step": step, "time": time.time(), "protocol_id": part.protocol_id, "protocol": part.protocol}
        run.evaluation(step, part.protocol_id).write_text(json.dumps({**content, "metrics": {"fid": 1.5}}))


def stored(jobs: list[Job], table: str) -> dict[str, dict[str, str]]:
    """Run's name -> the tags or params that the store has of it."""
    runs = jobs[0].folder.parent
    Forwarder(runs).forward()
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as store:
        rows = store.execute(f"select name, key, value from {table} natural join runs").fetchall()
        states = dict(store.execute("select name, status from runs"))
    found: dict[str, dict[str, str]] = {name: {"status": state} for name, state in states.items()}
    for name, key, value in rows:
        found[name][key] = value
    return found


def test_a_branch_says_what_it_leaves(jobs: list[Job]) -> None:
    parent, early, late = jobs
    for job in jobs:
        job.open()
    tags = stored(jobs, "tags")
    assert tags[early.name]["branched_from"] == f"{parent.name}@8"
    assert tags[late.name]["branched_from"] == f"{parent.name}@16"
    for branch in (early, late):
        told = tags[branch.name]
        assert (told["fcdm.parent_run_id"], told["cooldown"]) == (tags[parent.name]["fcdm.run_id"], "0.2")
    assert not {"branched_from", "fcdm.parent_run_id", "cooldown"} & tags[parent.name].keys()
    params = stored(jobs, "params")
    told = params[late.name]
    assert (told["optimiser.cooldown"], told["optimiser.cooldown_share"]) == ("[16, 20]", "0.2")
    assert params[parent.name]["optimiser.cooldown"] == "None"


def test_an_earlier_checkpoint_is_told_where_it_began_with_that(jobs: list[Job]) -> None:
    trained(jobs[2], 20, f"{jobs[0].name}@12")
    assert stored(jobs, "tags")[jobs[2].name]["branched_from"] == f"{jobs[0].name}@12"


def test_what_is_trained_alone_is_finished_once_it_is_trained(jobs: list[Job]) -> None:
    parent, early, late = jobs
    trained(parent, 12)
    trained(early, 10)
    evaluated(early, 10)
    trained(late, 20)
    tags = stored(jobs, "tags")
    assert {name: told["status"] for name, told in tags.items()} == {
        parent.name: "SCHEDULED",
        early.name: "FINISHED",
        late.name: "SCHEDULED",
    }
    assert tags[parent.name]["study.s"] == "trained: 8,16"
    protocol = early.parts[0].protocol_id
    assert {told["study_protocol.s"] for told in tags.values()} == {protocol}
    assert tags[early.name]["fcdm.headline"] == protocol
    trained(parent, 17)
    assert stored(jobs, "tags")[parent.name]["status"] == "FINISHED"
