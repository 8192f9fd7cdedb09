"""What `fcdm.runs.reader` makes of folders: whole, torn, damaged, read by several protocols."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.analysis.reporting.study_facts import study_facts
from fcdm.errors import UserError
from fcdm.jobstatus.collect import what_is_asked
from fcdm.runs.protocol import TRAINED_ONLY
from fcdm.runs.reader import RunView, list_runs, list_studies, read_study, run_folders
from tests.support.fake_branches import make_cooled
from tests.support.fake_runs import FLOOR, MODELS, PROTOCOL, START, evaluate, fid_at, make_run, make_study, protocol_id

OTHER = {**PROTOCOL, "sampling_steps": 10}


def append(folder: Path, text: str) -> None:
    with open(folder / "records.jsonl", "a") as records:
        records.write(text)


def test_reading_needs_neither_torch_nor_mlflow_nor_pandas() -> None:
    code = "import sys, fcdm.runs.reader; sys.exit(any(m in sys.modules for m in ('torch', 'mlflow', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fields_of_a_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "dit/N-2", seed=3)
    (view,) = list_runs(tmp_path)
    assert (view.name, view.model, view.family, view.seed) == (folder.name, "dit/N-2", "dit", 3)
    assert (view.data, view.resolution, view.batch_size) == ("digits", 8, 128)
    assert view.cost["parameters"] == MODELS["dit/N-2"][0]
    assert view.config["optimiser"]["lr"] == 4e-3
    assert view.flat_config["optimiser.betas"] == "[0.9, 0.999]"


def test_scalars_have_no_doubles_though_evaluations_stand_in_records_and_in_files(tmp_path: Path) -> None:
    view = RunView(make_run(tmp_path))
    scalars = list(view.scalars())
    assert len({(s.step, s.key) for s in scalars}) == len(scalars)
    fids = {s.step: s.value for s in scalars if s.key == "fid"}
    assert fids == {step: fid_at("N", step) for step in (100, 200, 400, 800)}
    assert sum(s.key == "loss" for s in scalars) == 16


def test_a_value_written_twice_keeps_the_first(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    append(folder, json.dumps({"step": 50, "time": START + 9999, "loss": 123.0, "extra": 1.5}) + "\n")
    found = {s.key: s.value for s in RunView(folder).scalars() if s.step == 50}
    assert found["loss"] == pytest.approx(0.3 + 2 / 50**0.5)
    assert found["extra"] == 1.5


@pytest.mark.parametrize("tail", ['{"step": 85', '{"step": 850, "time": 1.0, "loss": 9.0}', '{"st\n', "\0\0\0\n"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: str) -> None:
    folder = make_run(tmp_path)
    before = list(RunView(folder).scalars())
    append(folder, tail)
    assert list(RunView(folder).scalars()) == before


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"time": 3.0}', '{"step": "7", "time": 3.0}'])
def test_a_damaged_line_before_others_is_named(tmp_path: Path, line: str) -> None:
    folder = make_run(tmp_path)
    records = folder / "records.jsonl"
    lines = records.read_text().splitlines()
    lines[4] = line
    records.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"records\.jsonl, line 5 "):
        list(RunView(folder).scalars())


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    line = {"step": 850, "time": START, "loss": "NaN", "grad_norm": "Infinity", "note": "text", "flag": True}
    append(folder, json.dumps(line) + "\n")
    found = {s.key: s.value for s in RunView(folder).scalars() if s.step == 850}
    assert found.keys() == {"loss", "grad_norm"}
    assert math.isnan(found["loss"])
    assert found["grad_norm"] == math.inf


def test_another_protocols_metrics_carry_its_id(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    evaluate(folder, "N", 800, START, OTHER)
    make_study(tmp_path, [folder], created=2.0)
    make_study(tmp_path, [folder], "later", protocol=OTHER, created=3.0)
    (view,) = list_runs(tmp_path)
    assert view.headline == protocol_id(PROTOCOL)
    at_end = {s.key: s.value for s in view.scalars() if s.step == 800}
    assert at_end["fid"] == fid_at("N", 800)
    assert at_end[f"fid@{protocol_id(OTHER)}"] == 1.5 * fid_at("N", 800)
    turned = {s.key: s.value for s in view.scalars(protocol_id(OTHER)) if s.step == 800}
    assert turned["fid"] == 1.5 * fid_at("N", 800)


def test_in_a_study_of_several_protocols_fid_is_what_was_asked_of_the_run(tmp_path: Path) -> None:
    old, both = make_run(tmp_path, "N"), make_run(tmp_path, "M")
    make_study(tmp_path, [old, both], budgets=(100, 200))
    make_study(tmp_path, [both], budgets=(800,), protocol=OTHER, more=True)
    study = read_study(tmp_path, "demo")
    one, two = (next(view for view in list_runs(tmp_path) if view.folder == folder) for folder in (old, both))
    assert (one.headline, two.headline) == (protocol_id(PROTOCOL), protocol_id(OTHER))
    assert {s.key for s in one.scalars() if s.key.startswith("fid@")} == set()
    assert study.asked(one.id) == {protocol_id(PROTOCOL): (100, 200)}
    assert list(study.asked(two.id).items()) == [(protocol_id(OTHER), (800,)), (protocol_id(PROTOCOL), (100, 200))]
    assert study.budgets(two.id) == (100, 200, 800)


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ({"completed": False, "error": "UserError: the loss is not finite"}, "UserError: the loss is not finite"),
        ({"completed": False, "stopped": "SIGTERM"}, None),
        ({"completed": False, "error": "Stopped: stopped by SIGTERM"}, None),
        ({"completed": True}, None),
    ],
)
def test_why_the_last_segment_failed(tmp_path: Path, end: dict[str, object], error: str | None) -> None:
    folder = make_run(tmp_path)
    append(folder, json.dumps({"step": 800, "time": START + 1e5, "segment": "end", **end}) + "\n")
    assert RunView(folder).error == error
    append(folder, json.dumps({"step": 800, "time": START + 2e5, "segment": "start"}) + "\n")
    assert RunView(folder).error is None


def test_without_a_study_the_first_protocol_is_the_headline(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    evaluate(folder, "N", 100, START - 5, OTHER)
    assert RunView(folder).headline == protocol_id(OTHER)


def test_an_evaluation_that_stands_in_records_only(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for path in (folder / "evaluations").iterdir():
        path.unlink()
    evaluations = RunView(folder).evaluations
    assert [e.step for e in evaluations] == [100, 200, 400, 800]
    assert evaluations[0].metrics["fid"] == fid_at("N", 100)
    assert evaluations[0].floor == {}


def test_evaluations_know_their_floor_and_grid(tmp_path: Path) -> None:
    folder = make_run(tmp_path, budgets=(100,))
    (evaluation,) = RunView(folder).evaluations
    assert evaluation.floor["fid"] == FLOOR
    assert evaluation.grid is not None
    assert evaluation.grid.suffix == ".png"
    assert evaluation.protocol == PROTOCOL


def test_segments_and_training_time_leave_out_the_queue_and_the_evaluation(tmp_path: Path) -> None:
    view = RunView(make_run(tmp_path))  # dies at 400 of 800 steps, waits an hour, two seconds each 50 steps
    first, second = view.segments
    assert (first.first_step, first.last_step, first.ended) == (0, 400, False)
    assert (second.first_step, second.last_step, second.ended) == (400, 800, True)
    assert first.seconds == pytest.approx(8 * 2 + 3 * 12)
    assert first.device_seconds == first.seconds
    assert second.start - first.end == pytest.approx(3600)
    assert view.training_seconds(800) == pytest.approx(32)
    assert view.training_seconds(425) == pytest.approx(17)
    assert view.training_seconds(50) == pytest.approx(2)
    assert view.training_seconds(801) is None


def test_steps_replayed_after_a_death_cost_time(tmp_path: Path) -> None:
    folder = make_run(tmp_path, evaluated=False)
    start = {"segment": "start", "world_size": 4}
    rows = [
        {"step": 0, "time": 0.0, **start},
        {"step": 50, "time": 10.0, "loss": 1.0},
        {"step": 0, "time": 100.0, **start},
        {"step": 100, "time": 120.0, "loss": 1.0},  # step 50 stood already and was not written again
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = RunView(folder)
    assert view.training_seconds(50) == 10.0
    assert view.training_seconds(100) == 30.0
    assert view.segments[1].device_seconds == 80.0


def test_a_branchs_time_holds_its_parents_until_it_left(tmp_path: Path) -> None:
    parent, branch = make_cooled(tmp_path, ends=(800,))  # leaves at 640, on two devices
    view = RunView(branch)
    assert view.branched_from == (parent.name, 640)
    assert view.training_seconds(800) == pytest.approx(32.0)
    assert view.training_device_seconds(800) == pytest.approx(25.6 + 2 * 6.4)
    assert view.training_seconds(720) == pytest.approx(25.6 + 3.2)
    assert view.training_seconds(801) is None
    assert RunView(parent).branched_from is None


def test_a_branch_whose_parent_is_gone_tells_no_time_rather_than_too_small_a_one(tmp_path: Path) -> None:
    parent, branch = make_cooled(tmp_path, ends=(800,))
    lines = (parent / "records.jsonl").read_text().splitlines(keepends=True)
    (parent / "records.jsonl").write_text("".join(lines[:3]))  # of step 100
    assert RunView(branch).training_seconds(800) is None
    shutil.rmtree(parent)
    view = RunView(branch)
    assert view.training_seconds(800) is view.training_device_seconds(800) is None
    assert [segment.seconds for segment in view.segments] == [pytest.approx(6.4 + 24.0)]


def test_a_branch_that_died_before_its_first_checkpoint_and_began_again(tmp_path: Path) -> None:
    parent, branch = make_cooled(tmp_path, ends=(800,))
    start = {"segment": "start", "world_size": 1}
    rows = [
        {"step": 600, "time": 0.0, **start, "branched_from": f"{parent.name}@600"},
        {"step": 620, "time": 5.0, "loss": 1.0},
        {"step": 640, "time": 100.0, **start, "branched_from": f"{parent.name}@640"},
        {"step": 700, "time": 110.0, "loss": 1.0},
        {"step": 700, "time": 200.0, **start},  # with a checkpoint of its own
        {"step": 800, "time": 220.0, "loss": 1.0},
    ]
    (branch / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = RunView(branch)
    assert view.branched_from == (parent.name, 640)
    assert view.training_seconds(620) == pytest.approx(24.0 + 5.0)
    assert view.training_seconds(700) == pytest.approx(25.6 + 5.0 + 10.0)
    assert view.training_seconds(800) == pytest.approx(25.6 + 5.0 + 10.0 + 20.0)


def test_a_branch_was_trained_where_its_parent_was_too(tmp_path: Path) -> None:
    parent, branch = make_cooled(tmp_path, ends=(800,))
    lines = [json.loads(line) for line in (parent / "records.jsonl").read_text().splitlines()]
    for place, step in (("A", 0), ("B", 400)):
        for line in lines:
            if line.get("segment") == "start" and line["step"] == step:
                line["device"] = place
    (parent / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert RunView(parent).places == ["A", "B"]
    assert RunView(branch).places == ["A", "B", "cpu (1 thread)"]
    early, *_ = make_cooled(tmp_path / "early", ends=(400, 800))[1:]
    (tmp_path / "early" / parent.name / "records.jsonl").write_text((parent / "records.jsonl").read_text())
    assert RunView(early).places == ["A", "cpu (1 thread)"]  # left at 320


def test_what_is_only_trained_is_nobodys_fid(tmp_path: Path) -> None:
    parent, branch = make_cooled(tmp_path, constant=False, ends=(800,))
    views = {view.folder: view for view in list_runs(tmp_path)}
    assert views[branch].headline == protocol_id(PROTOCOL)
    assert views[parent].headline is None
    evaluate(parent, "N", 640, START, OTHER)  # by hand
    (view,) = [view for view in list_runs(tmp_path) if view.folder == parent]
    assert view.headline == protocol_id(OTHER)
    assert "fid" in {scalar.key for scalar in view.scalars()}
    study = tmp_path / "studies" / "cooled.json"
    content = json.loads(study.read_text())
    for protocol in (protocol_id(PROTOCOL), TRAINED_ONLY):
        content["requests"].append({"run": parent.name, "id": view.id, "budgets": [640], "protocol_id": protocol})
    study.write_text(json.dumps(content | {"protocol_id": "another"}))
    (view,) = [view for view in list_runs(tmp_path) if view.folder == parent]
    assert view.headline == protocol_id(PROTOCOL)


def test_a_run_that_has_not_started(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / "records.jsonl").unlink()
    (folder / "evaluations").rename(folder / "gone")
    view = RunView(folder)
    assert list(view.scalars()) == []
    assert (view.segments, view.headline, view.training_seconds(1)) == ([], None, None)


def test_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for name in ("studies", ".new-1234", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / ".new-1234" / "run.json").write_text("{")  # a folder that is being made
    assert run_folders(tmp_path) == [folder]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        list_runs(tmp_path / "nothing")
    folder = make_run(tmp_path)
    (folder / "evaluations" / f"step-00000100-{protocol_id(PROTOCOL)}.json").write_text('{"step": 100}')
    with pytest.raises(UserError, match=r"step-00000100.*'time'"):
        _ = RunView(folder).evaluations
    (folder / "run.json").write_text('{"id": "x"}')
    with pytest.raises(UserError, match=r"run\.json lacks or garbles 'model'"):
        list_runs(tmp_path)


def test_studies(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    make_study(tmp_path, [folder], budgets=(100, 400))
    study = read_study(tmp_path, "demo")
    assert list_studies(tmp_path) == [study]
    assert study.budgets(RunView(folder).id) == (100, 400)
    assert study.budgets("another") == ()
    path = tmp_path / "studies" / "demo.json"
    content = json.loads(path.read_text())
    for request in content["requests"]:
        del request["protocol_id"]
    path.write_text(json.dumps(content))
    assert read_study(tmp_path, "demo") == study  # a request without a protocol has the study's
    with pytest.raises(UserError, match=r"no study 'dem' in .*; there: demo"):
        read_study(tmp_path, "dem")


@pytest.mark.parametrize(("name", "file"), [("team/x", "team-x"), ("team/x", "team"), ("Größe", "g"), ("demo", "demo")])
def test_a_study_is_found_by_its_own_name(tmp_path: Path, name: str, file: str) -> None:
    """Wherever one is named: the file may be called otherwise. The line meant the study by the name that it refused."""
    folder = make_run(tmp_path)
    make_study(tmp_path, [folder])
    path = tmp_path / "studies" / "demo.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
    path.rename(path.with_name(f"{file}.json"))
    assert read_study(tmp_path, name).name == name
    assert what_is_asked(tmp_path, name).runs.keys() == {folder.name}
    assert len(tidy_table(tmp_path, name)) == 4
    assert study_facts(tmp_path, name).study.name == name
    with pytest.raises(UserError, match=rf"no study '{name}y' in .*did you mean '{name}'"):
        read_study(tmp_path, f"{name}y")
    with pytest.raises(UserError, match=rf"no study '{name}y' in .*did you mean '{name}'"):
        tidy_table(tmp_path, f"{name}y")
