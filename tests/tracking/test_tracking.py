"""Forwarding to MLflow, on real stores: sqlite files and a real server that is killed and comes back."""

from __future__ import annotations

import json
import math
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fcdm import sync
from fcdm.analysis.data.tidy_table import tidy_table
from fcdm.errors import UserError
from fcdm.runs.reader import list_runs
from fcdm.runs.run_lock import claim
from fcdm.tracking.forward import Forwarder, metric_name
from fcdm.tracking.mlflow_store import StoreBusy, reason, store_lock, store_uri
from tests.support.fake_runs import PROTOCOL, START, evaluate, make_run, make_study, protocol_id
from tests.support.mlflow_server import Server

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves its connections to the collector
]

OTHER = {**PROTOCOL, "sampling_steps": 10}
Rows = set[tuple[str, str, int, int, float]]


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def runs(tmp_path: Path, empty_database: Path) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def query(database: Path, text: str) -> list[Any]:
    connection = sqlite3.connect(database, timeout=30)
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def stored(database: Path) -> list[tuple[str, str, int, int, float]]:
    """(run, key, step, timestamp, value) of every metric row; NaN as the number -1.5."""
    return query(
        database,
        "select r.name, m.key, m.step, m.timestamp, case when m.is_nan then -1.5 else m.value end "
        "from metrics m join runs r on r.run_uuid = m.run_uuid where m.key != 'train_seconds'",
    )


def expected(runs_dir: Path) -> Rows:
    """The same from records.jsonl and evaluations/, read here without the project's reader."""
    rows: Rows = set()
    for folder in (path.parent for path in runs_dir.glob("*/run.json")):
        for line in (folder / "records.jsonl").read_text().split("\n")[:-1]:
            fields = json.loads(line)
            if "protocol" in fields or "segment" in fields:
                continue
            for key in fields.keys() - {"step", "time"}:
                rows.add((folder.name, key, fields["step"], round(fields["time"] * 1000), float(fields[key])))
        for path in folder.glob("evaluations/*.json"):
            content = json.loads(path.read_text())
            suffix = "" if content["protocol_id"] == protocol_id(PROTOCOL) else f"/{content['protocol_id']}"
            for key, value in content["metrics"].items():
                stamp = round(content["time"] * 1000)
                rows.add((folder.name, key + suffix, content["step"], stamp, value))
    return rows


def check_once(database: Path, runs_dir: Path) -> None:
    rows = stored(database)
    assert len(rows) == len(set(rows))
    assert set(rows) == expected(runs_dir)
    names = query(database, "select name from runs")
    assert len(names) == len(set(names)) == len(list(runs_dir.glob("*/run.json")))


def tags(database: Path) -> dict[str, str]:
    return dict(query(database, "select key, value from tags"))


def append(folder: Path, **fields: Any) -> None:
    with open(folder / "records.jsonl", "a") as records:
        records.write(json.dumps(fields) + "\n")


def test_every_record_once_and_the_second_time_nothing(runs: Path) -> None:
    folders = [make_run(runs, "N", torn=True), make_run(runs, "dit/N-2", budgets=(100, 1600))]
    evaluate(folders[0], "N", 800, START + 1e6, OTHER)
    make_study(runs, folders, budgets=(100,))
    first = Forwarder(runs).forward()
    assert (first.runs, first.problems) == (2, [])
    check_once(runs / "mlflow.db", runs)
    assert Forwarder(runs).forward().points == 0
    check_once(runs / "mlflow.db", runs)
    times = query(runs / "mlflow.db", "select step, value from metrics where key = 'train_seconds'")
    assert (100, 4.0) in times
    assert {status for (status,) in query(runs / "mlflow.db", "select status from runs")} == {"FINISHED"}


def test_what_an_mlflow_run_says_about_itself(runs: Path) -> None:
    folder = make_run(runs, "dit/N-2", budgets=(100, 200))
    make_study(runs, [folder], "demo", budgets=(100, 200))
    make_study(runs, [folder], "more", budgets=(200,))
    Forwarder(runs).forward()
    found = tags(runs / "mlflow.db")
    assert found["studies"] == "demo,more"
    assert found["study.demo"] == f"{protocol_id(PROTOCOL)}: 100,200"
    assert (found["model"], found["family"], found["revision"]) == ("dit/N-2", "dit", "abc1234")
    assert json.loads(found[f"protocol.{protocol_id(PROTOCOL)}"])["protocol"] == PROTOCOL
    params = dict(query(runs / "mlflow.db", "select key, value from params"))
    assert (params["optimiser.lr"], params["model.depth"], params["cost.forward_gmacs"]) == (
        "0.004",
        "6",
        "0.0076",
    )
    artifacts = sorted(path.name for path in (runs / "mlflow-artifacts").rglob("*.*"))
    pid = protocol_id(PROTOCOL)
    assert artifacts == ["config.yaml", f"step-00000100-{pid}.png", f"step-00000200-{pid}.png"]


def test_only_what_is_new_is_sent(runs: Path) -> None:
    folder = make_run(runs)
    forwarder = Forwarder(runs)
    forwarder.forward()
    assert forwarder.forward(changed_only=True).runs == 0
    append(folder, step=850, time=START + 1e5, loss=0.2, grad_norm=0.9)
    assert forwarder.forward(changed_only=True).points == 2
    evaluate(folder, "N", 850, START + 1e5 + 12)
    assert forwarder.forward(changed_only=True).points == 5 + 1  # train_seconds too
    check_once(runs / "mlflow.db", runs)


def test_a_deleted_store_is_filled_again(runs: Path, empty_database: Path) -> None:
    make_run(runs)
    forwarder = Forwarder(runs)
    points = forwarder.forward().points
    (runs / "mlflow.db").unlink()
    assert forwarder.forward(changed_only=True).points == points  # by a follower that had the old one open
    check_once(runs / "mlflow.db", runs)
    shutil.copy(empty_database, runs / "fresh.db")
    (runs / "fresh.db").replace(runs / "mlflow.db")
    assert Forwarder(runs).forward().points == points
    check_once(runs / "mlflow.db", runs)


def test_crashes_in_between_double_nothing(runs: Path) -> None:
    make_run(runs)
    store = Forwarder(runs).store
    (view,) = list_runs(runs)
    store.create(view.name, view.created, {"fcdm.run_id": view.id})  # died here: a run without metrics
    Forwarder(runs).forward()
    check_once(runs / "mlflow.db", runs)
    connection = sqlite3.connect(runs / "mlflow.db")
    with connection:  # died between the rows and the tag that counts them
        connection.execute("delete from tags where key = 'fcdm.forwarded'")
    connection.close()
    assert Forwarder(runs).forward().points > 0
    check_once(runs / "mlflow.db", runs)


def test_many_rows_go_in_batches_and_a_deadline_leaves_the_rest_for_the_next_pass(runs: Path) -> None:
    make_run(runs, every=1, budgets=(600,))  # 2,400 rows and more
    forwarder = Forwarder(runs)
    forwarder.store.find("fcdm.run_id", ["nothing"])
    send = forwarder.store.send

    def one_batch(*args: Any) -> int:
        forwarder.deadline = time.monotonic() - 1
        return send(*args)

    forwarder.store.send = one_batch  # type: ignore[method-assign]
    assert 800 < forwarder.forward().points <= 900
    assert Forwarder(runs).forward().points > 1400
    check_once(runs / "mlflow.db", runs)


def test_nan_is_kept_and_infinity_is_told_in_a_tag(runs: Path) -> None:
    folder = make_run(runs, budgets=(100,))
    append(folder, step=150, time=START + 1e5, loss="NaN", grad_norm="Infinity")
    Forwarder(runs).forward()
    late = {(key, value) for _, key, step, _, value in stored(runs / "mlflow.db") if step == 150}
    assert late == {("loss", -1.5)}
    assert tags(runs / "mlflow.db")["infinite"] == "grad_norm at step 150"


def test_fid_of_a_run_keeps_its_meaning(runs: Path) -> None:
    folder = make_run(runs, budgets=(100,))
    make_study(runs, [folder], budgets=(100,), created=START)
    Forwarder(runs).forward()
    make_study(runs, [folder], "older", protocol=OTHER, budgets=(200,), created=START - 1)
    evaluate(folder, "N", 200, START + 1e5, OTHER)
    Forwarder(runs).forward()
    fids = {(key, step) for _, key, step, _, _ in stored(runs / "mlflow.db") if key.split("/")[0] == "fid"}
    assert fids == {("fid", 100), (f"fid/{protocol_id(OTHER)}", 200)}


def test_a_run_deleted_in_mlflow_stays_deleted(runs: Path) -> None:
    folder = make_run(runs)
    forwarder = Forwarder(runs)
    forwarder.forward()
    ((run_id,),) = query(runs / "mlflow.db", "select run_uuid from runs")
    forwarder.store.client.delete_run(run_id)
    append(folder, step=850, time=START + 1e5, loss=0.2)
    assert forwarder.forward().points == 0
    assert query(runs / "mlflow.db", "select count(*) from runs") == [(1,)]


def test_a_damaged_run_keeps_no_other_from_being_forwarded(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = make_run(runs, "N"), make_run(runs, "M")
    (bad / "records.jsonl").write_text('{broken\n{"step": 1, "time": 1.0, "loss": 1.0}\n')
    assert sync.once(runs) == 1
    said = capsys.readouterr()
    assert f"{bad / 'records.jsonl'}, line 1 is damaged" in said.err
    assert {name for name, *_ in stored(runs / "mlflow.db")} == {good.name}


def test_status_follows_the_holder_and_the_study(runs: Path) -> None:
    folder = make_run(runs, budgets=(100, 200))
    make_study(runs, [folder], budgets=(100, 400))
    forwarder = Forwarder(runs)

    def status() -> str:
        forwarder.forward()
        ((found,),) = query(runs / "mlflow.db", "select status from runs")
        return str(found)

    assert status() == "SCHEDULED"  # 400 is asked for and not evaluated
    with claim(folder):
        assert status() == "RUNNING"
    make_study(runs, [folder], budgets=(100, 200))
    assert status() == "FINISHED"
    make_study(runs, [folder], budgets=(100, 400))
    text = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(text[:-1]))  # without the end of its segment: died
    assert status() == "FAILED"


def test_a_second_protocol_in_a_study_leaves_finished_runs_as_they_are(runs: Path) -> None:
    folder, other = make_run(runs, "N", budgets=(100,)), make_run(runs, "M", budgets=(100,), protocol=OTHER)
    make_study(runs, [folder], "default", budgets=(100,))
    Forwarder(runs).forward()
    make_study(runs, [other], "default", budgets=(100,), protocol=OTHER, more=True)
    Forwarder(runs).forward()
    assert {status for (status,) in query(runs / "mlflow.db", "select status from runs")} == {"FINISHED"}
    asked = query(
        runs / "mlflow.db",
        "select r.name, t.value from tags t join runs r on r.run_uuid = t.run_uuid where t.key = 'study.default'",
    )
    assert dict(asked) == {folder.name: f"{protocol_id(PROTOCOL)}: 100", other.name: f"{protocol_id(OTHER)}: 100"}
    assert {key for _, key, *_ in stored(runs / "mlflow.db") if key.split("/")[0] == "fid"} == {"fid"}


@pytest.mark.parametrize("started", [True, False])
def test_a_run_that_ended_with_an_error_has_failed_and_says_why(runs: Path, started: bool) -> None:
    folder = make_run(runs, budgets=(100,))
    make_study(runs, [folder], budgets=(100, 400))
    if not started:
        (folder / "records.jsonl").unlink()
    forwarder = Forwarder(runs)

    def status(**end: Any) -> str:
        append(folder, step=100, time=START + 1e5, segment="end", **end)
        forwarder.forward()
        ((found,),) = query(runs / "mlflow.db", "select status from runs")
        return str(found)

    error = "UserError: the loss at step 130 is not finite"
    assert status(completed=False, error=error) == "FAILED"
    assert tags(runs / "mlflow.db")["fcdm.error"] == error
    append(folder, step=100, time=START + 2e5, segment="start")
    assert status(completed=False, error="Stopped: stopped by SIGTERM") == "SCHEDULED"
    assert "fcdm.error" not in tags(runs / "mlflow.db")


def test_the_experiment_is_of_training_runs_not_of_traces(runs: Path) -> None:
    make_run(runs, budgets=(100,))
    forwarder = Forwarder(runs)
    forwarder.forward()
    found = forwarder.store.client.get_experiment_by_name("fcdm").tags
    assert found["mlflow.experimentKind"] == "custom_model_development"


def test_an_unreachable_server_is_one_line_once(tmp_path: Path) -> None:
    make_run(tmp_path, budgets=(100,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        out, err = (once := command(tmp_path, "--uri", uri)).communicate(timeout=60)
    assert (once.returncode, out) == (1, "")
    assert err == (
        f"MLflow at {uri} does not take the records (Connection refused). They are safe in the runs' folders; "
        f"forward them later: python -m fcdm.sync {tmp_path} --uri {uri}\n"
    )


def test_a_reason_is_not_cut_in_a_word() -> None:
    text = reason(ValueError("several words " * 50 + "\nand another line"))
    assert len(text) <= 160
    assert text.endswith(("several ...", "words ..."))


def test_a_param_is_not_logged_again_with_another_value(runs: Path) -> None:
    folder = make_run(runs)
    Forwarder(runs).forward()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("lr: 0.004", "lr: 0.1"))
    assert Forwarder(runs).forward().problems == []
    assert dict(query(runs / "mlflow.db", "select key, value from params"))["optimiser.lr"] == "0.004"


def test_one_forwarder_at_a_time(runs: Path) -> None:
    make_run(runs)
    with store_lock(runs, store_uri(runs), 0), pytest.raises(StoreBusy):
        Forwarder(runs).forward(wait=0.2)
    assert Forwarder(runs).forward().points > 0


@pytest.mark.parametrize("key", ["fid@ddim25-1000-d4fe8dfb", "loss", "a(b)"])
def test_metric_names_are_ones_that_mlflow_takes(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(metric_name(key))


def test_what_only_a_follower_does_is_refused_without(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--every", "5"], ["--parent", "1"]):
        assert sync.main(words) == 1
        assert "mean nothing without --follow" in capsys.readouterr().err


def test_no_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main([str(tmp_path / "nothing")]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "no such folder" in said.err


def test_help_imports_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, fcdm.sync, fcdm.tracking.forward\ntry: fcdm.sync.main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'torch', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def command(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "fcdm.sync", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, **options)


def test_two_at_once_on_a_store_that_does_not_exist(tmp_path: Path) -> None:
    for model in ("N", "M"):
        make_run(tmp_path, model)
    both = [command(tmp_path), command(tmp_path)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, ""), out
    check_once(tmp_path / "mlflow.db", tmp_path)


def wait_for(condition: Any, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_has_every_record_once(tmp_path: Path, server: Server) -> None:
    folder = make_run(tmp_path, budgets=(100, 200))
    append(folder, step=250, time=START + 9e4, loss="NaN")
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    follower = command(tmp_path, "--uri", server.uri, "--follow", "--parent", parent.pid, "--every", "0.5")
    try:
        count = len(expected(tmp_path))
        wait_for(lambda: len(stored(server.database)) == count)
        server.kill()
        append(folder, step=300, time=START + 1e5, loss=0.2)
        evaluate(folder, "N", 300, START + 1e5 + 9)

        # Once, with the server down: one line, not for long.
        started = time.monotonic()
        out, err = (alone := command(tmp_path, "--uri", server.uri)).communicate(timeout=60)
        assert (alone.returncode, out, err.count("\n")) == (1, "", 1)
        assert f"MLflow at {server.uri} does not take the records" in err
        assert "python -m fcdm.sync" in err
        assert time.monotonic() - started < 120  # MLflow's own waits: 246 s a call
        assert follower.poll() is None

        server.start()
        wait_for(lambda: len(stored(server.database)) == count + 6)
        append(folder, step=350, time=START + 2e5, loss=0.1)  # and the end comes at once: the last pass takes it
        parent.kill()
        parent.wait()
        _, err = follower.communicate(timeout=60)
        assert follower.returncode == 0
        assert err.count("does not take the records") == 1
        assert err.count("takes the records again") == 1
        rows = {(*row[:4], -1.5 if math.isnan(row[4]) else row[4]) for row in expected(tmp_path)}
        assert sorted(stored(server.database)) == sorted(rows)
        assert len(list((server.folder / "artifacts").rglob("*.png"))) == 3
    finally:
        for process in (parent, follower):
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_sigterm_ends_a_follower_soon_though_the_server_is_down(tmp_path: Path) -> None:
    make_run(tmp_path)
    with socket.socket() as silent:  # accepts and never answers: the worst kind of down
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        follower = command(tmp_path, "--uri", uri, "--follow", "--every", "0.5")
        assert follower.stderr is not None
        assert "does not take the records" in follower.stderr.readline()
        started = time.monotonic()
        follower.terminate()
        follower.communicate(timeout=60)
    assert time.monotonic() - started < sync.LAST_PASS_SECONDS + 5
    assert follower.returncode == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(UserError, match="does not take the records"):
        Forwarder(tmp_path, "sqlite:////proc/nowhere/mlflow.db").forward()


def test_a_database_without_its_driver_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # not installed, whatever this machine has
    make_run(tmp_path)
    assert sync.main([str(tmp_path), "--uri", "postgresql+psycopg2://127.0.0.1:1/db"]) == 1
    told = capsys.readouterr().err.strip()
    assert (
        told
        == "MLflow at postgresql+psycopg2://127.0.0.1:1/db needs the Python package 'psycopg2', which is not installed"
    )


@pytest.mark.parametrize("more", [[], ["--follow"]])
def test_off_is_no_store(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.nice", lambda more: 0)  # of this process
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    make_run(tmp_path / "runs")
    assert sync.main(["runs", "--uri", "off", *more]) == 1
    assert capsys.readouterr().err.startswith("--uri off is no store: a URI")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    assert sync.main(["runs", *more]) == 1
    assert capsys.readouterr().err.startswith("MLFLOW_TRACKING_URI off is no store")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_requests_that_were_withdrawn_leave_no_tag(runs: Path) -> None:
    folder = make_run(runs)
    make_study(runs, [folder])
    make_study(runs, [folder], "other", budgets=(100,))
    Forwarder(runs).forward()
    assert tags(runs / "mlflow.db")["studies"] == "demo,other"
    (runs / "studies" / "other.json").unlink()
    Forwarder(runs).forward()
    assert tags(runs / "mlflow.db")["studies"] == "demo"
    assert not {key for key in tags(runs / "mlflow.db") if "other" in key}
    (runs / "studies" / "demo.json").unlink()
    Forwarder(runs).forward()
    assert not {key for key in tags(runs / "mlflow.db") if key.startswith("stud")}


def test_what_each_distance_is_called_stands_in_a_tag(runs: Path) -> None:
    """`fid` is the headline's, `fid/<protocol>` another space's; a table out of the store names them alike."""
    dinov2, few = ({**PROTOCOL, "features": name} for name in ("dinov2-large-224-bicubic@12345678", "classifier@12"))
    folder = make_run(runs, "N", budgets=(100,))
    evaluate(folder, "N", 100, START + 1e6, dinov2)
    evaluate(folder, "N", 100, START + 2e6, few)
    path = folder / "evaluations" / f"step-00000100-{protocol_id(few)}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "metrics": {"kid": 0.01, "kid_se": 0.001}}))
    make_study(runs, [folder], budgets=(100,))
    assert Forwarder(runs).forward().problems == []
    said = tags(runs / "mlflow.db")["distances"].split("; ")
    others = {f"fid/{protocol_id(dinov2)}: FD-DINOv2", f"kid/{protocol_id(few)}: kernel distance (classifier)"}
    assert set(said) == {"fid: FID", *others}
    for protocol, name in ((PROTOCOL, "FID"), (dinov2, "FD-DINOv2"), (few, "kernel distance (classifier)")):
        for source in (runs, f"sqlite:///{runs / 'mlflow.db'}"):
            table = tidy_table(source, protocol=protocol_id(protocol))
            assert set(table["distance"]) == {name}
    assert table["fid"].tolist() == [0.01]
