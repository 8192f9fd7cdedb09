"""Names of checkpoints and evaluations: written and parsed alike, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcdm.runs.run_paths import (
    checkpoint_name,
    evaluation_files,
    evaluation_name,
    folders_of_runs,
    run_facts,
    step_of,
    unfinished_evaluations,
)


@pytest.mark.parametrize("step", [0, 400, 7_000_000, 123_456_789_012])
def test_a_step_comes_back_from_its_name(step: int) -> None:
    assert step_of(checkpoint_name(step)) == step


def test_the_names_are_those_of_every_version() -> None:
    assert checkpoint_name(400) == "step-00000400"
    assert evaluation_name(400, "ddim25-1000-3f2a91bc") == "step-00000400-ddim25-1000-3f2a91bc.json"
    for other in ("step-", "step-4x", ".tmp-step-00000400-1-ab", "step-00000400-ddim25-1000-3f2a91bc.json", "ema"):
        assert step_of(other) is None


def test_evaluations_are_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    wanted = [(step, "ddim25-8-ab", tmp_path / evaluation_name(step, "ddim25-8-ab")) for step in (50, 400)]
    for _, _, path in reversed(wanted):
        path.write_text("{}")
        path.with_suffix(".png").write_bytes(b"")
    (tmp_path / f".{wanted[0][2].stem}-rank0.npz").write_bytes(b"")
    (tmp_path / ".tmp-step-00000400-ddim25-8-ab.json-1-ab").write_text("")
    (tmp_path / "holders").mkdir()
    assert evaluation_files(tmp_path) == wanted
    assert [path.name for path in unfinished_evaluations(tmp_path)] == [f".{wanted[0][2].stem}-rank0.npz"]
    assert evaluation_files(tmp_path / "none") == []


def test_a_run_without_a_whole_run_json_has_no_facts(tmp_path: Path) -> None:
    for name, text in (("a-1", '{"id": "1"}'), ("b-2", '{"id"'), ("c-3", "[]"), (".new-4", '{"id": "4"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "studies").mkdir()
    folders = folders_of_runs(tmp_path)
    assert [folder.name for folder in folders] == ["a-1", "b-2", "c-3"]
    assert [run_facts(folder) for folder in folders] == [{"id": "1"}, {}, {}]
    assert folders_of_runs(tmp_path / "none") == []
