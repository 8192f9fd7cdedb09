"""Files that are either whole or not there, and file-system errors told in one line.

A reader on this or another machine never sees half a file: the bytes go to a temporary name in the same
folder, are flushed to the disk, and take the real name by `rename`, which POSIX and NFS both make atomic.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcdm.errors import UserError

TEMPORARY = ".tmp-"
"""Names that start so are unfinished: readers skip them, whoever holds the folder removes them."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Puts `data` (text as UTF-8) at `path`, replacing what is there, in one step that a crash cannot halve.

    The folder must exist. Raises UserError when the file system refuses; the old file then stands untouched
    and nothing else is left behind.
    """
    raw = data.encode() if isinstance(data, str) else data
    try:
        for again in (True, True, False):
            temporary = path.with_name(temporary_name(path.name))
            try:
                write_new(temporary, raw)
                temporary.replace(path)
                break
            except BaseException as error:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                # Whoever holds the folder took the file for a dead writer's.
                if not (again and isinstance(error, FileNotFoundError) and path.parent.is_dir()):
                    raise
        sync_folder(path.parent)
    except OSError as error:
        raise describe_oserror(error, path) from error


def remove_unfinished(*folders: Path) -> None:
    """Remove what writers that were killed left directly in these folders.

    For those who hold a folder. Files only, and those of `write_atomic`, which a writer that lives writes again.
    """
    for folder in folders:
        for leftover in folder.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(OSError):
                leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON; NaN and infinities as strings, see `plain`."""
    write_atomic(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` with NaN and ±infinity replaced by the strings "NaN", "Infinity", "-Infinity".

    JSON has no such numbers and parsers outside Python refuse Python's bare NaN; `float("NaN")` and
    `float("-Infinity")` read the strings back. Tuples become lists.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def temporary_name(name: str) -> str:
    """A name for the unfinished `name` that no other process, on any machine, will pick."""
    return f"{TEMPORARY}{name}-{os.getpid()}-{secrets.token_hex(4)}"


def write_new(path: Path, raw: bytes) -> None:
    """Creates `path` (which must not exist) with these bytes, on the disk when it returns. Raises OSError."""
    # os.open and not tempfile: mode 666 less the umask, so that a group sharing the runs can read them.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with open(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def create_linked(path: Path, raw: bytes) -> bool | None:
    """Creates `path` whole, by a hard link, which fails where the name exists, over NFS too: whether it was made here.

    None: there are no hard links here (FAT, some FUSE file systems). Raises OSError.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        write_new(temporary, raw)
        os.link(temporary, path)
    except FileNotFoundError:
        return False  # the one who was faster took our file for a dead writer's
    except FileExistsError:
        # Over NFS the link can be made and the answer lost; asked again, the server says that it exists.
        try:
            return path.read_bytes() == raw
        except FileNotFoundError:
            return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        return None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in `folder` survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot flush a folder and say so; nothing more can be done there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_errors(path: Path, doing: str = "writing") -> Iterator[None]:
    """Makes an OSError of the block a UserError, as `describe_oserror` says it."""
    try:
        yield
    except OSError as error:
        raise describe_oserror(error, path, doing) from error


def describe_oserror(error: OSError, path: Path, doing: str = "writing") -> UserError:
    """The UserError to raise for `error`: one line with the path, what failed, and what to do.

    `doing` says what was going on, as in "reading".
    """
    again = "run the same command again"
    elsewhere = "or choose another folder"
    known = {
        errno.ENOSPC: (f"the disk is full ({_free(path)})", f"free some space, then {again}"),
        errno.EDQUOT: ("your disk quota is used up", f"free some space, then {again}"),
        errno.EFBIG: (
            "the file would be larger than is allowed",
            f"raise the limit (`ulimit -f`), then {again}",
        ),
        errno.EACCES: ("permission denied", f"change the permissions, {elsewhere}"),
        errno.EPERM: ("not permitted", f"change the permissions, {elsewhere}"),
        errno.EROFS: ("the file system is read-only", "choose another folder"),
        errno.ENOTDIR: (f"{_existing(path)} is a file, not a folder,", f"remove that file, {elsewhere}"),
        errno.EEXIST: (f"{_existing(path)} is a file, not a folder,", f"remove that file, {elsewhere}"),
        errno.EISDIR: ("a folder stands where a file should be", f"remove it, {elsewhere}"),
        errno.ENOENT: ("no such file or folder", "check the path"),
        errno.ELOOP: ("a link that leads back to itself, or to a folder on its way,", "remove it"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    }
    unknown = (error.strerror or str(error) or type(error).__name__, f"check the file system, then {again}")
    what, remedy = known.get(error.errno or 0, unknown)
    return UserError(f"{path}: {what} while {doing}: {remedy}")


def _existing(path: Path) -> Path:
    """The nearest of `path` and its parents that exists."""
    for candidate in (path, *path.absolute().parents):
        if os.path.lexists(candidate):
            return candidate
    return Path("/")


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(_existing(path)).free / 1e9:.2f} GB free"
    except OSError:
        return "free space unknown"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` (made if missing). Released by the kernel however the process ends.

    Who writes in a run's folder is not decided by such a lock, which a network file system may lie about, but by
    `fcdm.runs.run_lock`. Raises UserError where the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 - an error of the block is not one of the lock
    except OSError as error:
        raise describe_oserror(error, path) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, and UserError for a file that is torn or holds no object."""
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; restore it or delete it")
    return content


def read_json_if_whole(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where it is missing, torn or no object: for files that count as absent then."""
    try:
        return read_json(path)
    except (OSError, UserError):
        return {}
