"""Records: appended only, torn lines cut, no (key, step) twice, full disks survived. And whole files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcdm.atomic import plain, remove_unfinished, write_atomic, write_json
from fcdm.errors import UserError
from fcdm.runs.records import RecordWriter


def lines(path: Path) -> list[dict[str, object]]:
    """The records without their time, parsed as strictly as other languages do."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_text()
    assert text.endswith("\n") or not text
    records = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    for record in records:
        assert record.pop("time") > 1.7e9
    return records


def test_replayed_steps_are_written_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.segment_start(0, host="a", device="cpu")
        assert writer.write(50, {"loss": 1.5})
        assert writer.write(100, {"loss": 1.25})
        assert not writer.write(100, {"loss": 9.0})
    with RecordWriter(path) as writer:
        writer.segment_start(50, host="b", device="cpu")
        assert not writer.write(100, {"loss": 9.0})
        assert writer.write(100, {"loss": 9.0, "grad_norm": 2.0}), "a key that is new at this step is written"
        assert writer.write(150, {"loss": 1.0, "shares": [1, 2]})
        writer.segment_end(150)
    assert lines(path) == [
        {"step": 0, "segment": "start", "host": "a", "device": "cpu"},
        {"step": 50, "loss": 1.5},
        {"step": 100, "loss": 1.25},
        {"step": 50, "segment": "start", "host": "b", "device": "cpu"},
        {"step": 100, "grad_norm": 2.0},
        {"step": 150, "loss": 1.0, "shares": [1, 2]},
        {"step": 150, "segment": "end"},
    ]


def test_an_evaluation_by_another_protocol_is_another_value(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        assert writer.write(100, {"protocol": "ddim25-aa", "fid": 8.5})
    with RecordWriter(path) as writer:
        assert not writer.write(100, {"protocol": "ddim25-aa", "fid": 8.0})
        assert writer.write(100, {"protocol": "ddpm250-bb", "fid": 7.5})
    with RecordWriter(path) as writer:
        assert not writer.write(100, {"protocol": "ddpm250-bb", "fid": 7.0})
        assert not writer.write(200, {"protocol": "ddpm250-bb"}), "a protocol without a value is no record"
    assert lines(path) == [
        {"step": 100, "protocol": "ddim25-aa", "fid": 8.5},
        {"step": 100, "protocol": "ddpm250-bb", "fid": 7.5},
    ]


GOOD = '{"step": 50, "time": 1800000000.0, "loss": 1.5}\n'


@pytest.mark.parametrize(
    "torn",
    [
        b'{"step": 100, "ti',
        b'{"step": 100, "time": 1800000000.0, "loss": 2.5}',  # whole but for its newline
        b'{"step": 100, "lo\n',
        b"\x00\x00\x00\x00",  # what ext4 leaves after a power cut
        b"\xff\xfe\n",
        b"[1, 2]\n",
        b'{"loss": 2.5}\n',
    ],
)
def test_a_torn_last_line_is_cut_and_can_be_written_again(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(GOOD.encode() + torn)
    with RecordWriter(path) as writer:
        assert path.read_text() == GOOD
        assert not writer.write(50, {"loss": 0.0})
        assert writer.write(100, {"loss": 3.5})
    assert lines(path) == [{"step": 50, "loss": 1.5}, {"step": 100, "loss": 3.5}]


def test_every_cut_of_the_file_resumes_to_the_same_records(tmp_path: Path) -> None:
    """Wherever a crash ends the file, replaying gives each (key, step) once and none is lost."""
    path = tmp_path / "records.jsonl"

    def replay() -> None:
        with RecordWriter(path) as writer:
            for step in (50, 100, 150):
                writer.write(step, {"loss": step / 2, "grad_norm": 1.0})

    replay()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        replay()
        assert lines(path) == [{"step": s, "loss": s / 2, "grad_norm": 1.0} for s in (50, 100, 150)], length


def test_a_broken_line_in_the_middle_is_told_and_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    content = GOOD + '{"step": 100, "lo\n' + GOOD
    path.write_text(content)
    with pytest.raises(UserError, match=r"records\.jsonl, line 2: not a record"):
        RecordWriter(path)
    assert path.read_text() == content


def test_numbers_that_json_lacks_are_strings(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.write(1, {"loss": float("nan"), "bins": [1.0, float("inf"), -float("inf")]})
    assert lines(path) == [{"step": 1, "loss": "NaN", "bins": [1.0, "Infinity", "-Infinity"]}]
    assert float("Infinity") == float("inf")
    assert plain({"a": (1, float("nan"))}) == {"a": [1, "NaN"]}


def test_each_line_is_one_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        calls: list[bytes] = []
        real = os.write

        def counted(descriptor: int, raw: bytes) -> int:
            calls.append(bytes(raw))
            return real(descriptor, raw)

        monkeypatch.setattr(os, "write", counted)
        writer.write(1, {"loss": 1.0, "note": "x" * 100_000})
        monkeypatch.undo()
    assert len(calls) == 1
    assert calls[0].endswith(b"\n")


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.write(50, {"loss": 1.5})
        real = os.write
        left = [10]

        def fills_up(descriptor: int, raw: bytes) -> int:
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(descriptor, raw[: left[0]])
            left[0] -= written
            return written

        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(UserError, match=r"records\.jsonl: the disk is full \(.* GB free\) while writing") as caught:
            writer.write(100, {"loss": 2.5})
        monkeypatch.undo()
        assert "\n" not in str(caught.value)
        assert lines(path) == [{"step": 50, "loss": 1.5}]
        assert writer.write(100, {"loss": 2.5}), "what was not written does not count as standing"
    assert lines(path) == [{"step": 50, "loss": 1.5}, {"step": 100, "loss": 2.5}]


def test_a_real_file_size_limit(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from fcdm.errors import UserError
from fcdm.runs.records import RecordWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with RecordWriter(Path(sys.argv[1])) as writer:
    try:
        for step in range(100):
            writer.write(step, {"loss": 1.0})
    except UserError as error:
        print(error)
"""
    path = tmp_path / "records.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "larger than is allowed while writing" in done.stdout
    steps = [record["step"] for record in lines(path)]
    assert steps == list(range(len(steps)))
    assert 900 < path.stat().st_size <= 1000


def test_a_writer_killed_at_any_moment_leaves_at_most_one_torn_line(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from fcdm.runs.records import RecordWriter
writer = RecordWriter(Path(sys.argv[1]))
for step in range(10**9):
    writer.write(step, {"loss": step / 7})
    if step == 200:
        print("going", flush=True)
"""
    path = tmp_path / "records.jsonl"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.kill()
        with RecordWriter(path):
            records = lines(path)
        assert [record["step"] for record in records] == list(range(len(records)))
        assert len(records) > 200


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/records.jsonl", r"file is a file, not a folder"),
        ("missing/records.jsonl", r"no such file or folder"),
        ("folder", r"a folder stands where a file should be"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_clear_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        RecordWriter(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_atomic_replaces_whole_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"fid": float("nan")})
    assert json.loads(path.read_text()) == {"fid": "NaN"}
    before = os.umask(0o027)
    try:
        write_atomic(path, "old")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640, "the umask decides who may read, not a temporary file's 600"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(UserError, match=r"a\.json is a file, not a folder"):
        write_atomic(path / "b.json", "x")
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="a folder stands where a file should be"):
        write_atomic(tmp_path / "d", "x")
    assert sorted(left.name for left in tmp_path.iterdir()) == ["a.json", "d"]


def test_a_file_that_a_holder_took_for_a_dead_writers_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a launcher freezes a job in a run's folder at the moment that another job claims the run."""
    real = os.fsync
    times: list[int] = []

    def fsync(descriptor: int) -> None:
        real(descriptor)
        times.append(descriptor)
        if len(times) == 1:
            remove_unfinished(tmp_path)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a.json", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "x"
