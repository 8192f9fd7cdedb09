"""Which image files a folder holds, in which order, and what tells the content of two such places apart.

Imports nothing heavy: a plan asks for the identity of images, too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcdm.atomic import describe_oserror, file_errors, read_json_if_whole, write_json
from fcdm.errors import UserError
from fcdm.formatting import bytes_text
from fcdm.hashing import cache_folder, file_sha256

ENDINGS = frozenset(
    (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
"""Lower-case endings of the files that are taken for images."""
ARRAYS = (".npz", ".npy")
TABLES = (".parquet", ".arrow")

TOLD = 2e9
"""Bytes of a folder from which it is said that they are read: some seconds."""

REQUEST, DONE, NPZ, IMAGES = "request.json", "samples.json", "samples.npz", "images"
"""Names in a folder of `fcdm.sample` (`fcdm.engine.sample_files` writes them)."""


@dataclass(frozen=True)
class Listing:
    """The images below a folder."""

    root: Path
    names: list[str]
    """Paths below the root, with `/`: by the first folder and then by path; files `1.png`, `2.png` by their number."""
    others: int
    """Files that are no images by their ending."""
    tables: list[str]
    """Those of them that are tables, which may hold images."""


def list_images(root: Path) -> Listing:
    """Every image at or below `root`, hidden ones left out. Raises UserError, also where a folder cannot be read."""
    try:
        files = files_below(root)
    except OSError as error:
        raise describe_oserror(error, Path(error.filename or root), "listing the images") from error
    names = [name for name in files if is_image(name)]
    tables = sorted(name for name in files if name.endswith(TABLES))
    return Listing(root, _by_number(names) or by_folder(names), len(files) - len(names), tables)


def files_below(root: Path) -> list[str]:
    """Paths with `/` of all files below `root`, links followed, hidden ones left out. In any order.

    Raises OSError for every folder that cannot be listed, where os.walk would pass it over, and for a link that leads
    back to a folder on its way.
    """
    found: list[str] = []
    folders: list[tuple[str, tuple[Path, ...]]] = [("", ())]
    while folders:
        below, linked_from = folders.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    way = linked_from
                    if entry.is_symlink():
                        way = (*way, (root / below).resolve())
                        if any(_leads_to(Path(entry.path).resolve(), folder) for folder in way):
                            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), entry.path)
                    folders.append((f"{below}{entry.name}/", way))
                else:
                    found.append(below + entry.name)
    return found


def _leads_to(folder: Path, other: Path) -> bool:
    """Whether who lists all below `folder` comes to `other`."""
    return other.is_relative_to(folder) and not any(part.startswith(".") for part in other.relative_to(folder).parts)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122 - a million times


def by_folder(names: Iterable[str]) -> list[str]:
    """By the first folder, then by path within it: `a/x` before `a-b/x`, though `-` comes before `/`."""
    return sorted(names, key=lambda name: name.split("/", 1) if "/" in name else ["", name])


def _by_number(names: list[str]) -> list[str]:
    """Files `1.png`, `2.png`, ... in one folder, in that order; none where there are others."""
    if not all("/" not in name and name.split(".")[0].isdecimal() for name in names):
        return []
    return sorted(names, key=lambda name: (int(name.split(".")[0]), name))


def names_checksum(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def samples_within(path: Path) -> Path:
    """Where the images are in a folder that `fcdm.sample` wrote: its samples.npz or its images/; else `path` itself.

    Raises UserError for one that is not finished, or that has lost some.
    """
    home = path.parent if path.name == IMAGES else path
    request = read_json_if_whole(home / REQUEST) if path.is_dir() else {}
    if not {"formats", "shape", "protocol"} <= request.keys():
        return path
    if not (home / DONE).exists():
        raise UserError(
            f"{home} is an unfinished folder of fcdm.sample: the same fcdm.sample command finishes it, then evaluate it"
        )
    if path == home and (home / NPZ).is_file():
        return home / NPZ
    count = request["shape"][0]
    there = len(list_images(home / IMAGES).names) if (home / IMAGES).is_dir() else 0
    if there != count:
        raise UserError(
            f"{home / IMAGES} has {there:,} pictures, but {home / REQUEST} says {count:,}: the same fcdm.sample "
            "command draws what is missing"
        )
    return home / IMAGES


def content_sha256(path: Path) -> str:
    """sha256 of a file; of a folder, of the names of its images and their bytes: 64 hex digits. Raises UserError.

    Remembered in the cache folder while no name, size or time of them changes.
    """
    if path.is_dir():
        return files_sha256(path, list_images(path).names)
    return _kept_sha256(path, [""], lambda: file_sha256(path))


def files_sha256(path: Path, names: Sequence[str]) -> str:
    """As `content_sha256`, of these names below a folder, in this order, and of the files' bytes. Raises UserError."""
    return _kept_sha256(path, names, lambda: names_checksum(f"{name}\t{file_sha256(path / name)}" for name in names))


def _kept_sha256(path: Path, names: Sequence[str], read: Callable[[], str]) -> str:
    with file_errors(path, "reading"):
        stamps = [(name, status.st_size, status.st_mtime_ns) for name in names if (status := (path / name).stat())]
        stamp = hashlib.sha256(json.dumps([str(path.resolve()), stamps]).encode()).hexdigest()
        kept = cache_folder() / "contents" / f"{stamp[:32]}.json"
        known = read_json_if_whole(kept).get("sha256")
        if isinstance(known, str):
            return known
        if (size := sum(size for _, size, _ in stamps)) > TOLD:
            print(f"{path}: {bytes_text(size)} are read once, to know these images again", file=sys.stderr, flush=True)
        found = read()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"path": str(path.resolve()), "sha256": found})
    except (OSError, UserError):
        pass  # it is read again the next time
    return found
