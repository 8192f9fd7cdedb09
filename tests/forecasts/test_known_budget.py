"""What is known of a budget decides the kind of its forecast, and whether it is one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fcdm.errors import UserError
from fcdm.forecasts.known_budget import kind_of, known_since
from fcdm.runs.folder import Run
from fcdm.runs.reader import RunView
from tests.support.fake_runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trained to 400 and evaluated at 100 and 400; nothing of its weights is left."""
    folder = make_run(tmp_path, budgets=(100, 400), grids=False)
    return Run(folder, json.loads((folder / "run.json").read_text())["id"])


def test_a_run_that_is_not_there_is_predicted_and_a_begun_one_continued(run: Run, tmp_path: Path) -> None:
    new = Run(tmp_path / "new", "0")
    assert kind_of(new, 100) == "prediction"
    assert kind_of(new, 100, inside=True) == "interpolation"
    assert kind_of(new, 100, parent=run) == "continuation", "a branch of it has begun"
    assert kind_of(run, 401) == "continuation"
    assert kind_of(run, 401, inside=True) == "interpolation"
    opened = Run(tmp_path / "opened", "0")
    opened.folder.mkdir()
    opened.records.write_text(json.dumps({"step": 0, "time": 0.0, "segment": "start"}) + "\n")
    assert kind_of(opened, 100) == "prediction", "opened, and no step done"


def test_whatever_tells_of_a_budget_or_of_one_beyond_forbids_its_forecast(run: Run) -> None:
    with pytest.raises(UserError, match=r"at step 400 is no forecast any more: it has been measured at step 400"):
        kind_of(run, 400)
    with pytest.raises(UserError, match="it has been measured at step 400"):
        kind_of(run, 150)
    for path in run.evaluations.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"its training has recorded step 200 \(.*records.jsonl\)"):
        kind_of(run, 160, inside=True)
    for folder in (run.checkpoints, run.snapshots):
        (folder / "step-00000800").mkdir(parents=True)
        with pytest.raises(UserError, match="weights of step 800 are there"):
            kind_of(run, 600)
        (folder / "step-00000800").rmdir()


def test_since_when_it_is_known_say_records_and_evaluations_by_any_protocol(run: Run) -> None:
    """The records come before the evaluation of the step, that of another protocol before that of one's own."""
    records = [(fields["step"], fields["time"]) for _, fields in RunView(run.folder).records]
    for steps in (150, 400):
        assert known_since(RunView(run.folder), steps) == min(time for step, time in records if step >= steps)
    assert known_since(RunView(run.folder), 401) == math.inf
    run.records.unlink()
    evaluations = RunView(run.folder).evaluations
    assert known_since(RunView(run.folder), 150) == evaluations[-1].time
    other = evaluations[-1].time - 5
    (path,) = run.evaluations.glob("*400-*.json")
    content = json.loads(path.read_text()) | {"time": other, "protocol_id": "other"}
    path.with_name("step-00000400-other.json").write_text(json.dumps(content))
    assert known_since(RunView(run.folder), 150) == other
