"""A copy of the code for jobs to run, so that edits made while they wait change nothing.

Named by its content below `runs/code/`, so that launches of the same code share one; compiled there once, and
imported once in a fresh process before anything is submitted. Users' own code stands beside the package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import fcdm
from fcdm.atomic import file_errors
from fcdm.config.user_code import KIND, UserCode
from fcdm.errors import UserError
from fcdm.runs.kept_source import source_of
from fcdm.runs.revision import REVISION_FILE, code_revision

CODE = "code"
PACKAGE = Path(fcdm.__file__).resolve().parent
_IMPORTS = "import fcdm.job, fcdm.sync, fcdm.jobs.run_job, fcdm.engine.train"
_VERIFIED = ".imports"
_REFUSED = 3
_VERIFY = """
import sys
from fcdm.config.load_code import verify
from fcdm.config.user_code import KIND, UserCode
from fcdm.errors import UserError
try:
    for kind, target, source in {codes!r}:
        verify(UserCode(KIND[kind], target, {{}}, source))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit({refused})
"""


def take_snapshot(runs_dir: Path, codes: Iterable[UserCode] = ()) -> Path:
    """The folder to put on PYTHONPATH. Raises UserError where the code cannot be imported, or not be written.

    `codes`: the users' own that the jobs need, whose source comes along.
    """
    own = list(dict.fromkeys((code.kind.section, code.target, code.source) for code in codes))
    files = {f"fcdm/{path.relative_to(PACKAGE)}": path for path in _files()}
    for kind, target, _ in own:
        files |= source_of(target, KIND[kind]).files
    digest = hashlib.sha256(sys.version.encode())
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    folder = runs_dir.absolute() / CODE / digest.hexdigest()[:16]
    if (folder / _VERIFIED).exists():
        return folder
    with file_errors(folder, "copying the code for the jobs"):
        if not folder.exists():
            _copy(files, folder)
    _verify(folder, own)
    return folder


def _files() -> Iterator[Path]:
    for root, folders, names in os.walk(PACKAGE):
        folders[:] = [name for name in folders if name not in ("__pycache__", "analysis")]  # figures: no job's
        for name in names:
            if name.endswith((".py", ".yaml", ".safetensors")):
                yield Path(root) / name


def _copy(files: dict[str, Path], folder: Path) -> None:
    """Whole or not at all: renamed into place."""
    temporary = folder.with_name(f".new-{uuid.uuid4().hex}")
    try:
        for name, path in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (temporary / REVISION_FILE).write_text(f"{code_revision()}\n")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # else another launch made the same one in the meantime
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _verify(folder: Path, own: list[tuple[str, str, str | None]]) -> None:
    """Import it as a job will, in a process of its own, which also leaves the compiled files.

    `own`: kind, target and source of users' code. It must be found in the folder alone, as it was when hashed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(folder)
    check = f"{_IMPORTS}; assert fcdm.__file__.startswith({str(folder)!r}), fcdm.__file__"
    if own:
        check += _VERIFY.format(codes=own, refused=_REFUSED)
    done = subprocess.run(
        [sys.executable, "-P", "-c", check], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        places = [line.strip() for line in lines if line.strip().startswith("File ") and str(folder) in line]
        where = places[-1].replace(str(folder / "fcdm"), str(PACKAGE)) if places else ""
        shutil.rmtree(folder, ignore_errors=True)
        if done.returncode == _REFUSED:  # users' code
            raise UserError(f"{lines[-1]}; nothing was submitted")
        raise UserError(
            f"the code in {PACKAGE} cannot be imported, so no job could run: {lines[-1]} ({where}); nothing was "
            "submitted"
        )
    (folder / _VERIFIED).touch()
