"""A job whose disk is so full that it cannot say why it failed says so by its exit code."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fcdm import atomic, job


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A job file that no job can be read from."""
    path = tmp_path / "N" / "jobs" / "1.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def test_where_there_is_room_the_error_stands_beside_the_job(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main([str(broken)]) == 1
    assert broken.with_suffix(".error.json").exists()
    assert "is no job file" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 28), (errno.EDQUOT, 28), (errno.EACCES, 1)])
def test_no_room_for_the_note(broken: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    def refuse(path: Path, raw: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(atomic, "write_new", refuse)
    assert job.main([str(broken)]) == code
    assert not broken.with_suffix(".error.json").exists()


def test_a_log_that_is_full_hides_neither(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stderr", full)
        assert job.main([str(broken)]) == 1
        monkeypatch.undo()
        # What stands in its buffer cannot be written when it is closed, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert broken.with_suffix(".error.json").exists()
