"""The source of a user's own code: which files it is made of, found and hashed without running any of them.

So without torch, and before anything starts. Of a package that is its whole folder; of a single file that file; and of
both whatever else of the user's they import by name, wherever Python would find it. What pip installed is left out,
unless the code itself is there: then its package counts, and no other.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fcdm.config.user_code import MODEL, OURS, Kind, dotted
from fcdm.errors import UserError
from fcdm.hashing import file_sha256

SUFFIXES = (".py", ".so", ".json", ".yaml", ".yml", ".toml")
"""What of a package's folder is its source: code, and what code is usually told by. Weights are not."""
YAML = (".yaml", ".yml")
CONFIGS = ("conf", "data", "model", "objective", "recipe", "resources", "sweeps")
"""Folders that `--config-dir` makes Hydra's groups, and that which holds them: YAML there is not the code's."""


@dataclass(frozen=True)
class CodeSource:
    """Where a user's code comes from. `files`: by their place below a folder on Python's path (`my_lab/blocks.py`)."""

    module: str
    attribute: str
    """Dotted, within the module."""
    file: Path
    """The module's own."""
    files: dict[str, Path]
    digests: dict[str, str]
    """sha256 of each file."""

    @property
    def sha256(self) -> str:
        """Of all files, names and contents, in the order of the names."""
        text = "".join(f"{name}\0{digest}\n" for name, digest in sorted(self.digests.items()))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Unit:
    """What is taken whole: a package's folder or a file, by its dotted name."""

    name: str
    path: Path
    is_package: bool

    @property
    def installed(self) -> bool:
        parts = {"site-packages", "dist-packages"} & set(self.path.parts)
        return bool(parts) or self.path.is_relative_to(sysconfig.get_path("stdlib"))

    def files(self) -> Iterator[tuple[str, Path]]:
        place = self.name.replace(".", "/")
        if not self.is_package:
            yield f"{place}{self.path.suffix}", self.path
            return
        for root, folders, names in os.walk(self.path, followlinks=True):
            here = Path(root)
            folders[:] = [name for name in sorted(folders) if _is_source(here / name)]
            configs = any(_is_configs(folder) for folder in (here, *here.parents) if folder.is_relative_to(self.path))
            for name in sorted(names):
                if name.endswith(SUFFIXES) and name[0] != "." and not (configs and name.endswith(YAML)):
                    yield f"{place}/{(here / name).relative_to(self.path).as_posix()}", here / name


def _is_source(folder: Path) -> bool:
    """Whether a folder within a package is looked into: not where runs are, nor through links to other than code."""
    if folder.name.startswith(".") or folder.name == "__pycache__" or any(folder.glob("*/run.json")):
        return False
    if not folder.is_symlink():
        return True
    leads_back = folder.resolve() in {above.resolve() for above in folder.parents}
    return not leads_back and any(folder.glob("*.py"))


def _is_configs(folder: Path) -> bool:
    """Whether Hydra looks there and Python does not: a new sweep file is no other model."""
    return folder.name in CONFIGS and not any(folder.glob("*.py"))


def find_source(target: str, kind: Kind = MODEL) -> CodeSource:
    """The source of a target, as Python would find it now.

    Raises UserError for a module that is nowhere, or has no file; and for a file that cannot be read.
    """
    look_in_working_directory()
    importlib.invalidate_caches()
    key, parts = f"{kind.target}={target}", dotted(target, kind).split(".")
    units, spec, depth = _descend(parts)
    if spec is None or spec.origin is None or not units:
        raise UserError(_nowhere(key, parts))
    if depth == len(parts):
        raise UserError(f"{key} is a module: say which class of it, {target}.NAME")
    if not Path(spec.origin).is_file() or not spec.origin.endswith(".py"):
        raise UserError(f"{key}: {'.'.join(parts[:depth])} has no source file ({spec.origin})")
    files = dict(sorted(_closure(units[0])))
    try:
        digests = {name: file_sha256(path) for name, path in files.items()}
    except OSError as error:
        raise UserError(f"{key}: {error.filename} cannot be read: {error.strerror}") from None
    return CodeSource(".".join(parts[:depth]), ".".join(parts[depth:]), Path(spec.origin), files, digests)


def look_in_working_directory() -> None:
    """Python looks there too: with `python -m` it does already, as a console script and with -P it does not."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def changed_files(before: dict[str, str], after: dict[str, str]) -> str:
    """`my_unet.py (changed), blocks.py (new)`, of digests by name."""
    words = {(True, True): "changed", (False, True): "new", (True, False): "gone"}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    shown = [f"{name} ({words[name in before, name in after]})" for name in names[:4]]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _closure(first: _Unit) -> Iterator[tuple[str, Path]]:
    """The files of a unit and of all others of the user's that it imports, directly or not."""
    units, todo = {first.name}, [first]
    while todo:
        unit = todo.pop()
        for name, path in unit.files():
            yield name, path
            if unit.installed or not name.endswith(".py"):
                continue
            for imported in _imports(name, path):
                if imported.split(".")[0] in OURS or imported.split(".")[0] in sys.stdlib_module_names:
                    continue
                for found in _descend(imported.split("."))[0][:1]:
                    if found.name not in units and not found.installed:
                        units.add(found.name)
                        todo.append(found)


def _descend(parts: list[str]) -> tuple[list[_Unit], importlib.machinery.ModuleSpec | None, int]:
    """What `parts` lead to: units on the way, the last module, how many parts name it. Runs no code."""
    units: list[_Unit] = []
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError, AttributeError):
        return [], None, 0
    depth = 1
    while spec is not None:
        name, locations = ".".join(parts[:depth]), spec.submodule_search_locations
        if spec.origin is not None and Path(spec.origin).is_file():
            path = Path(spec.origin)
            units.append(_Unit(name, path.parent if locations is not None else path, locations is not None))
        deeper = None
        if locations is not None and depth < len(parts):
            deeper = importlib.machinery.PathFinder.find_spec(".".join(parts[: depth + 1]), list(locations))
        if deeper is None:
            return units, spec, depth
        spec, depth = deeper, depth + 1
    return units, spec, 0


def _imports(name: str, path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it, relative ones resolved; of `from a import b` both a and a.b."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # said where it is imported, if it ever is
    package = name.removesuffix(".py").split("/")[:-1]  # of pkg/__init__.py that is pkg, of pkg/a.py too
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _nowhere(key: str, parts: list[str]) -> str:
    here = Path.cwd()
    names = [path.stem for path in here.glob("*.py")] + [path.parent.name for path in here.glob("*/__init__.py")]
    near = difflib.get_close_matches(parts[0], names, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near and near[0] != parts[0] else ""
    module = ".".join(parts[:-1])
    return (
        f"{key}: there is no module {module} in the working directory ({here}), in PYTHONPATH or among "
        f"the installed packages{hint}"
    )
