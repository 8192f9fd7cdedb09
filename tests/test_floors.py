"""docs/architecture.md's floors: a room imports only from its own floor and those below, lazily or not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TEXT = (TOP / "docs" / "architecture.md").read_text()

EXCEPTIONS = {
    ("fcdm/cost.py", "fcdm.cost_table"): "`python -m fcdm.cost` is that table; only where it is run as a command",
}


def floors() -> dict[str, int]:
    """Room -> floor, from the page's table."""
    found = {}
    for number, rooms in re.findall(r"^([0-5])  (.*)$", TEXT, re.MULTILINE):
        for room in re.findall(r"\b([a-z_]+)(?:/|\.py)(?= |$|;|\))", re.sub(r"\(.*?\)", "", rooms)):
            assert room not in found, room
            found[room] = int(number)
    return found


def imports(path: Path) -> Iterator[str]:
    """Dotted names of fcdm's own that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not read here"
            assert node.module is not None
            names = [node.module] if node.module != "fcdm" else [f"fcdm.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("fcdm."))


def test_every_room_stands_in_the_table() -> None:
    here = {path.stem for path in (TOP / "fcdm").glob("*") if path.suffix == ".py" or any(path.glob("*.py"))}
    assert here - {"__init__", "conf"} == set(floors())


def test_a_room_imports_only_from_below() -> None:
    floor, wrong, used = floors(), [], set()
    for path in sorted((TOP / "fcdm").rglob("*.py")):
        place = path.relative_to(TOP)
        room = Path(place.parts[1]).stem
        if room in ("__init__", "conf"):  # conf: configurations, and what a link shows of slurm/
            continue
        for name in imports(path):
            if floor[name.split(".")[1]] <= floor[room]:
                continue
            if (place.as_posix(), name) in EXCEPTIONS:
                used.add((place.as_posix(), name))
            else:
                wrong.append(f"{place} (floor {floor[room]}) imports {name}")
    assert not wrong
    assert used == EXCEPTIONS.keys(), "an exception that nothing needs any more"


def test_the_engine_and_the_analysis_know_nothing_of_each_other_nor_of_launchers() -> None:
    for path in (TOP / "fcdm" / "engine").rglob("*.py"):
        roots = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not {root.split(".")[0] for root in roots} & {"mlflow", "submitit", "analysis", "hydra"}, path
    for path in (TOP / "analysis").rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith("fcdm.engine")], path
