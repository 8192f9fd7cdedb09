"""The house as docs/architecture.md draws it: floors, no circle of imports, no name twice, tests beside their rooms."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.commands import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text()
COMMANDS = {path.stem for path in [*(ROOT / "fcdm").glob("*.py"), *(ROOT / "analysis").glob("*.py")]}
"""What is run as `python -m`: may be called like the module that does the work."""


@cache
def product() -> dict[str, Path]:
    """Dotted name -> file of everything that is not a test."""
    found = {}
    for top in ("fcdm", "analysis", "tools", "hydra_plugins"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if "conf" not in path.relative_to(ROOT).parts[:-1]:  # configurations, and links to others
                found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names of modules that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not read here"
            assert node.module is not None
            found += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
    return tuple(dict.fromkeys(found))


def floors() -> dict[str, tuple[int, int]]:
    """Room -> (floor, place among all rooms from below), of the page's table."""
    (table,) = re.findall(r"^```\n(7  .*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    rooms, floor = [], 0
    for line in table.splitlines():
        floor = int(line[0]) if line[0] != " " else floor
        names, _, _ = line[3:].partition("   ")
        rooms += [(floor, room) for room in re.findall(r"([a-z_]+)(?:/|\.py)", names)]
    found: dict[str, tuple[int, int]] = {}
    for place, (floor, room) in enumerate(reversed(rooms)):
        assert room not in found, room
        found[room] = (floor, place)
    return found


def room_of(module: str) -> str | None:
    """`runs` of `fcdm.runs.folder`; a `__main__` is a command, on the floor of commands."""
    parts = module.split(".")
    if parts[0] != "fcdm" or len(parts) == 1 or parts[1] == "conf":
        return None
    return "train" if parts[-1] == "__main__" else parts[1]


def test_every_room_stands_in_the_table() -> None:
    here = {path.stem for path in (ROOT / "fcdm").glob("*") if path.suffix == ".py" or any(path.glob("*.py"))}
    assert here - {"__init__", "conf"} == set(floors())


def test_a_room_imports_only_from_below() -> None:
    """From floors below, and on its own floor from the rooms that the table names after it."""
    place, wrong = floors(), []
    commands = max(floor for floor, _ in place.values())
    for module, path in product().items():
        room = room_of(module)
        if room is None:
            continue
        for name in imports(path):
            other = room_of(name)
            if other in (None, room) or other not in place:
                continue
            if place[other] > place[room] and not place[room][0] == place[other][0] == commands:
                wrong.append(f"{module} {place[room]} imports {name} {place[other]}")
    assert not wrong, "\n".join(wrong)


def circles() -> Iterator[list[str]]:
    """Groups of modules that import each other, lazily or not."""
    arrows = {
        module: {
            name for name in imports(path) if name in product() and name != module and not module.startswith(f"{name}.")
        }
        for module, path in product().items()
    }
    reached: dict[str, set[str]] = {}
    for module in arrows:
        seen: set[str] = set()
        ahead = list(arrows[module])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += arrows[name]
        reached[module] = seen
    done: set[str] = set()
    for module, seen in reached.items():
        if module in seen and module not in done:
            circle = [other for other in seen if module in reached[other]]
            done |= set(circle)
            yield sorted(circle)


def test_no_two_modules_import_each_other() -> None:
    assert list(circles()) == []


def test_whatever_is_imported_of_ours_is_there() -> None:
    """Benchmarks and tools run seldom: a name that has moved must not wait for them."""
    known = product()
    for path in [*known.values(), *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or str(node.module).split(".")[0] not in ("fcdm", "tools"):
                continue
            for alias in node.names:
                here = f"{node.module}.{alias.name}" in known
                home = known.get(str(node.module))
                assert here or (home and alias.name in home.read_text()), f"{path}: {node.module} has no {alias.name}"


def test_no_file_name_stands_twice() -> None:
    stems = Counter(path.stem for name, path in product().items() if path.stem not in ("__init__", "__main__"))
    twice = {stem for stem, count in stems.items() if count > 1}
    assert twice - COMMANDS == set()


def test_no_class_name_stands_twice() -> None:
    classes = Counter(
        node.name
        for path in product().values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in classes.items() if count > 1} == set()


def test_the_engine_and_the_analysis_know_nothing_of_each_other_nor_of_launchers() -> None:
    for module, path in product().items():
        roots = {name.split(".")[0] for name in imports(path)}
        if module.startswith("fcdm.engine"):
            assert not roots & {"mlflow", "submitit", "analysis", "hydra"}, path
        if module.startswith("fcdm.analysis"):
            assert not [name for name in imports(path) if name.startswith("fcdm.engine")], path


def test_mlflow_and_submitit_are_imported_where_they_are_at_work_and_nowhere_else() -> None:
    """What trains, plans and measures runs on a machine without mlflow (`make gpu-wheels`)."""
    at_work = {"fcdm.tracking.mlflow_store", "fcdm.analysis.data.mlflow_curves"}
    at_work |= {"fcdm.slurm.options", "fcdm.slurm.executor"}
    for module, path in product().items():
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"mlflow", "submitit"} or module in at_work, path
        assert "hydra_plugins" not in roots, path


ANALYSIS = ("published", "data", "stats", "figures", "reporting")
"""From the ground up; what lies beside them are commands and the notebooks' door, on top."""


def analysis_floor(module: str) -> int | None:
    parts = module.split(".")
    if parts[:2] != ["fcdm", "analysis"] or len(parts) < 3:
        return None
    return ANALYSIS.index(parts[2]) if parts[2] in ANALYSIS else len(ANALYSIS)


def test_within_the_analysis_too_a_room_imports_only_from_below() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in product().items()
        if (floor := analysis_floor(module)) is not None
        for name in imports(path)
        if (analysis_floor(name) or 0) > floor
    ]
    assert not wrong, "\n".join(wrong)


def test_tests_stand_beside_their_rooms_and_import_no_other_test() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert folders - {"commands", "house", "tools"} <= set(floors())
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert not [name for name in imports(path) if ".test_" in name], path
