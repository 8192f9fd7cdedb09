"""A tracking server's password: it lets records in, and stands nowhere afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from fcdm import credentials, sync
from fcdm.analysis import report
from fcdm.errors import UserError
from fcdm.tracking.forward import Forwarder
from fcdm.tracking.mlflow_store import Store, store_uri
from tests.support.commands import TINY, composed, environment
from tests.support.fake_runs import make_run, make_study
from tests.support.guarded_server import PASSWORD, QUOTED, USER
from tests.support.mlflow_server import Server

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves its connections to the collector
]
VARIABLES = (credentials.URI, credentials.USER, credentials.PASSWORD, credentials.TOKEN)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests; those that a test puts into the environment go with it."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def refuse_secrets(texts: Iterable[str | bytes]) -> None:
    for text in texts:
        raw = text if isinstance(text, bytes) else text.encode()
        for secret in (PASSWORD, QUOTED, f"{USER}:"):
            assert secret.encode() not in raw, raw[:2000]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def arguments_of_children(pid: int) -> set[bytes]:
    """Of all processes below one; one that has only begun still has its parent's."""
    parents: dict[int, int] = {}
    words: dict[int, bytes] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {words[child] for child in found - {pid}} - {words.get(pid, b"")}


def test_a_password_on_the_command_line_lets_records_in_and_is_written_nowhere(
    tmp_path: Path, guarded: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study of two runs with forwarding, its report, and every process that they start."""
    uri = f"http://{USER}:{QUOTED}@{guarded}/"
    own = [word for word in TINY if not word.startswith("mlflow_uri")]
    command = ["-m", "fcdm.train", "-m", "model=N", "seed=0,1", "steps=4", "study=secret", *own, f"mlflow_uri={uri}"]
    seen: set[bytes] = set()
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path / "home")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        while process.poll() is None:
            seen |= arguments_of_children(process.pid)
            time.sleep(0.05)
        assert process.stdout is not None
        output = process.stdout.read()
    assert process.returncode == 0, output
    runs = tmp_path / "runs"
    files = files_below(runs)
    assert {path.name for path in files} >= {"secret.json", "mlflow.log", "config.yaml", "records.jsonl"}
    assert any(b"fcdm.sync" in words for words in seen)
    refuse_secrets([output, *seen, *files.values()])
    assert b"note: everybody on this machine can read a command line" in output
    assert f'mlflow_uri="http://{guarded}/"'.encode() in files[runs / "studies" / "secret.json"].replace(b"\\", b"")

    with sqlite3.connect(server.database) as stored:
        (count,) = stored.execute("select count(distinct run_uuid) from metrics where key = 'loss'").fetchone()
    stored.close()
    assert count == 2  # both were let in
    refuse_secrets([server.database.read_bytes(), *files_below(server.folder / "artifacts").values()])

    os.environ.pop("MLFLOW_TRACKING_USERNAME", None)
    page = tmp_path / "page.html"
    assert report.main(["secret", "--runs", str(runs), "--out", str(page), "--mlflow", uri]) == 0
    told = capsys.readouterr()
    refuse_secrets([told.out, told.err, page.read_bytes()])
    assert "in MLflow at http://" in told.out


def test_a_server_that_asks_for_a_user(
    tmp_path: Path, guarded: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "N")
    assert sync.once(tmp_path, f"http://{guarded}") == 1
    error = capsys.readouterr().err
    assert "401" in error
    assert "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in error
    assert "~/.mlflow/credentials" in error
    # What it says to do works: the file, then the variables.
    file = tmp_path / "home" / ".mlflow" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text(f"[mlflow]\nmlflow_tracking_username = {USER}\nmlflow_tracking_password = {PASSWORD}\n")
    assert sync.once(tmp_path, f"http://{guarded}") == 0
    file.unlink()
    monkeypatch.setenv(credentials.USER, USER)
    monkeypatch.setenv(credentials.PASSWORD, PASSWORD)
    assert sync.once(tmp_path, f"http://{guarded}") == 0
    monkeypatch.setenv(credentials.PASSWORD, "another")
    assert report_of(tmp_path, guarded, capsys) == 1
    assert "MLFLOW_TRACKING_USERNAME" in capsys.readouterr().err


def report_of(runs: Path, guarded: str, capsys: pytest.CaptureFixture[str]) -> int:
    make_study(runs, [path.parent for path in runs.glob("*/run.json")])
    out = str(runs / "page.html")
    return report.main(["demo", "--runs", str(runs), "--out", out, "--mlflow", f"http://{guarded}"])


def test_the_environments_uri_is_taken_apart_too(
    tmp_path: Path, guarded: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "N")
    monkeypatch.setenv(credentials.URI, f"http://{USER}:{QUOTED}@{guarded}")
    assert sync.once(tmp_path) == 0
    told = capsys.readouterr()
    assert f"1 runs in http://{guarded}" in told.out
    refuse_secrets([told.out, told.err])


def test_sync_of_a_uri_with_a_password(tmp_path: Path, guarded: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "N")
    assert sync.main([str(tmp_path), "--uri", f"http://{USER}:{QUOTED}@{guarded}"]) == 0
    told = capsys.readouterr()
    refuse_secrets([told.out, told.err])
    assert "note: everybody on this machine can read a command line" in told.err


def test_a_store_that_is_down_is_told_without_its_password(tmp_path: Path) -> None:
    make_run(tmp_path, "N")
    for uri in (
        f"http://{USER}:{QUOTED}@127.0.0.1:1/prefix",
        f"postgresql+nosuchdriver://{USER}:{QUOTED}@127.0.0.1:1/x",
    ):
        with pytest.raises(UserError) as caught:
            Forwarder(tmp_path, uri).forward()
        refuse_secrets([str(caught.value)])
        assert "127.0.0.1:1" in str(caught.value)


def test_a_database_is_reached_by_its_whole_uri() -> None:
    """Which is in the environment, and shown nowhere: MLflow has no other variables for a database."""
    for whole in (f"postgresql://{USER}:{QUOTED}@host/db", f"mysql+pymysql://host/db?user={USER}&password={QUOTED}"):
        shown = store_uri("runs", whole)
        refuse_secrets([shown])
        assert credentials.whole(shown) == os.environ[credentials.URI] == whole
        assert credentials.whole("postgresql://host/another") == "postgresql://host/another"
        assert credentials.variables(shown) == credentials.variables(None) == [credentials.URI]


def test_a_configuration_holds_no_password(tmp_path: Path) -> None:
    config = composed("model=N", f"mlflow_uri='http://{USER}:{QUOTED}@host/prefix'")
    assert config.mlflow_uri == "http://host/prefix"
    assert (os.environ[credentials.USER], os.environ[credentials.PASSWORD]) == (USER, PASSWORD)
    assert Store(tmp_path, config.mlflow_uri).uri == "http://host/prefix"
    assert composed("model=N", "mlflow_uri=https://only@host").mlflow_uri == "https://host"
    assert (os.environ[credentials.USER], os.environ[credentials.PASSWORD]) == ("only", PASSWORD)


@pytest.mark.parametrize("uri", ["sqlite:////runs/a@b.db", "http://host:5000/a@b", "file:///x", "databricks", "off"])
def test_what_holds_no_password_stays_what_it_is(uri: str) -> None:
    assert composed("model=N", f"mlflow_uri='{uri}'").mlflow_uri == uri
    assert not {credentials.USER, credentials.URI} & os.environ.keys()


def test_old_files_tell_no_password_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study file as a version before wrote it."""
    folder = make_run(tmp_path, "N")
    uri = f"mlflow_uri=http://{USER}:{QUOTED}@host"
    make_study(tmp_path, [folder])
    file = tmp_path / "studies" / "demo.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "commands": [f"python -m fcdm.train {uri}"], "command": ["python", uri]}))
    assert report.main(["demo", "--runs", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    refuse_secrets([capsys.readouterr().out, (tmp_path / "page.html").read_text()])


def test_a_configuration_of_a_version_before_is_sent_without_its_secrets(tmp_path: Path, empty_database: Path) -> None:
    """Neither as parameters nor as config.yaml; what is no secret is sent as it stands."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    inner = [{"api_key": PASSWORD}, {"api_key": [PASSWORD]}]
    options = {"token": 4096, "hf_token": PASSWORD, "access_token": [PASSWORD], "password": 87654321, "inner": inner}
    folder = make_run(tmp_path, "N", grids=False, keys={"options": options})
    before = (folder / "config.yaml").read_bytes()
    Forwarder(tmp_path).forward()
    assert (folder / "config.yaml").read_bytes() == before
    (sent,) = (tmp_path / "mlflow-artifacts").rglob("config.yaml")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        params = dict(database.execute("select key, value from params").fetchall())
    for text in (sent.read_text(), str(params)):
        refuse_secrets([text])
        assert "87654321" not in text
        assert "4096" in text
