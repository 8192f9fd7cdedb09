"""An unfinished store on disk: what is planned, which shards stand, which images could not be read.

Everything unfinished lies in `<store>/work/`, which goes when the manifest comes:

    plan.json      what is being made: a later start must want the same
    00000.json     shard 0 stands (written after it): images, sha256, images left out
    00000.bad.json shard 0 was refused for these images
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcdm.atomic import (
    TEMPORARY,
    describe_oserror,
    file_errors,
    read_json_if_whole,
    sync_folder,
    temporary_name,
    write_atomic,
    write_json,
)
from fcdm.data.labelled_images import ImageSource
from fcdm.data.manifest import ASIDE, FORMAT, HELDOUT, LABELS, MADE, MANIFEST, NAMES, PIXELS
from fcdm.data.store_contents import Content
from fcdm.errors import UserError
from fcdm.features.enough_images import Parts, refuse_few
from fcdm.hashing import has_sha256

SKIPPED = "skipped.txt"
PAGE = 4096
FEW = 10
"""Images of a class from which at least one is held out."""
Skipped = tuple[int, str]
"""Number of an image in its source, and why it cannot be read."""


@dataclass(frozen=True)
class StorePlan:
    """What decides a store's content."""

    content: Content
    shard_images: int
    heldout: float | None
    """Fraction of each class that is evaluated on and never trained on; null: the source's own test split."""
    aside: float
    """Fraction of each class, of the others, for networks that evaluate: no generator sees it."""
    source: ImageSource

    @property
    def shards(self) -> int:
        return -(-len(self.source) // self.shard_images)

    @property
    def resolution(self) -> int:
        return self.content.resolution

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.content.row_shape

    @property
    def image_bytes(self) -> int:
        return int(self.content.dtype.itemsize * np.prod(self.row_shape))

    def positions(self, shard: int) -> range:
        """Numbers of the shard's images in the source; unreadable ones are left out later."""
        start = shard * self.shard_images
        return range(start, min(start + self.shard_images, len(self.source)))

    def stamp(self, shard: int) -> str:
        """Changes when a file does that the shard is made of."""
        return self.source.stamp(self.positions(shard))

    def values(self) -> dict[str, Any]:
        """Everything that must be the same for a start to continue another."""
        return {
            "format": FORMAT,
            "resolution": self.resolution,
            "shard_images": self.shard_images,
            "heldout": self.heldout,
            **({"aside": self.aside} if self.aside else {}),
            **self.content.plan(),
            "source": self.source.checksum(),
        }

    def split(self, names: Sequence[str], labels: NDArray[np.int32], kept: list[int]) -> tuple[NDArray[np.bool_], ...]:
        """Which of the images (N,) are held out, and which set aside: no image is both.

        names, labels: of those that could be read, `kept` their numbers in the source.
        """
        if self.content.kind == PIXELS:
            labels = _small_together(labels)
        if self.heldout is None:
            assert self.source.test is not None
            heldout = self.source.test[kept]
        else:
            heldout = heldout_mask(names, labels, self.heldout)
        aside = np.zeros_like(heldout)
        left = np.flatnonzero(~heldout)
        # Under names of their own: with the same keys those next to the held out ones would go.
        aside[left] = heldout_mask([f"aside/{names[index]}" for index in left.tolist()], labels[left], self.aside)
        return heldout, aside

    @cached_property
    def parts(self) -> Parts:
        """Of the source's images, where all can be read."""
        return parts_of(*self.split(self.source.names, self.source.labels, list(range(len(self.source)))))

    def number(self) -> int:
        """20 bits of what is planned, for processes to compare."""
        return int.from_bytes(hashlib.sha256(json.dumps(self.values()).encode()).digest()[:3], "big") >> 4


@dataclass(frozen=True)
class How:
    """How a command wants images taken, beside what decides the store's content."""

    huge: bool
    allows: tuple[str, ...] = ()
    """As `Content.allows`."""


class Work:
    """The `work` folder of a store. Every write is atomic, so what a killed process leaves is no worse than nothing."""

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / "work"

    def start(self, plan: StorePlan) -> None:
        """For the main process, before any other begins. Raises UserError where something else is being made there."""
        path = self.folder / "plan.json"
        values = plan.values()
        before = read_json_if_whole(path)
        differs = [key for key in values if before and before.get(key) != values[key]]
        if differs:
            raise UserError(
                f"{self.out} is the unfinished store of another command ({_told(before, values, differs)}): finish "
                "that one, remove the folder, or say out=<another folder>"
            )
        with file_errors(self.out):
            for folder in (self.out / "shards", self.folder):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.out / "shards", self.folder):
                for left in (*folder.glob(f"{TEMPORARY}*"), *folder.glob("*.bad.json"), *folder.glob("*.failed")):
                    left.unlink(missing_ok=True)
        write_json(path, values)

    def checked(self, shard: int, refuse: bool, how: How, stamp: str) -> bool:
        """Whether the shard stands, whole and good for this command; what is there else is removed.

        stamp: of the files that it is made of, as `StorePlan.stamp` has it.
        """
        mark, path = self.mark(shard), self.path(shard)
        if mark is None:
            return False
        # An older fcdm has noted no stamp, and knew no `allows`.
        whole = mark.get("stamp", stamp) == stamp and (mark["images"] == 0 or has_sha256(path, mark["sha256"]))
        allowed = set(mark.get("asked", ())) <= set(how.allows)
        # Left out images are a matter of how the command was given.
        same = mark["huge"] == how.huge and tuple(mark.get("allows", ())) == how.allows
        if whole and allowed and (not mark["skipped"] or (not refuse and same)):
            return True
        self._mark_path(shard).unlink(missing_ok=True)
        return False

    def write(
        self,
        shard: int,
        rows: NDArray[Any],
        skipped: list[Skipped],
        how: How,
        turned: int,
        asked: Collection[str],
        stamp: str,
        sums: dict[str, Any] | None = None,
    ) -> None:
        """Puts the shard's (n, ...) rows on the disk, then its mark.

        turned: images with an EXIF orientation; asked: what of `how.allows` was done to images; stamp: of their files,
        before they were read; sums: of the rows, for the content's `finish`. Raises UserError.
        """
        checksum = write_npy(self.path(shard), rows) if len(rows) else ""
        mark = {"images": len(rows), "sha256": checksum, "skipped": skipped, "turned": turned}
        mark |= {"huge": how.huge, "allows": how.allows, "asked": sorted(asked), "stamp": stamp}
        if sums is not None:
            mark["sums"] = sums
        write_json(self._mark_path(shard), mark)

    def refuse(self, shard: int, bad: list[Skipped]) -> None:
        write_json(self.folder / f"{shard:05d}.bad.json", bad)

    def mark(self, shard: int) -> dict[str, Any] | None:
        """What stands of the shard; None: nothing yet."""
        return read_json_if_whole(self._mark_path(shard)) or None

    def bad(self, shard: int) -> list[Skipped]:
        """The images for which the shard was refused."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.folder / f"{shard:05d}.bad.json").read_bytes())
            return [(int(index), str(reason)) for index, reason in found]
        return []

    def turned(self, shards: int) -> int:
        """Images with an EXIF orientation in the shards that stand; an older fcdm has not counted them."""
        return sum((self.mark(shard) or {}).get("turned", 0) for shard in range(shards))

    def fail(self, rank: int, why: str) -> None:
        """Tells the main process that this one stops."""
        with contextlib.suppress(UserError):
            write_atomic(self.folder / f"{rank}.failed", why)

    def failed(self) -> str | None:
        """Why a process stopped, if one did."""
        for path in self.folder.glob("*.failed"):
            with contextlib.suppress(OSError):
                return path.read_text()
        return None

    def ended(self) -> set[int]:
        """Shards that stand or were refused."""
        try:
            names = [path.name for path in self.folder.glob("*.json")]
            return {int(name[:5]) for name in names if name[:5].isdigit()}
        except OSError:
            return set()

    def path(self, shard: int) -> Path:
        return self.out / "shards" / f"{shard:05d}.npy"

    def _mark_path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.json"

    def finish(self, plan: StorePlan, made: dict[str, Any]) -> int:
        """Writes everything but the shards, the manifest last. Returns the number of images. Raises UserError."""
        marks = [self.mark(shard) for shard in range(plan.shards)]
        left_out: dict[int, str] = {}
        shards, sums = [], []
        for shard, mark in enumerate(marks):
            if mark is None:
                raise UserError(f"{self._mark_path(shard)} is gone: run the same command again")
            left_out |= {int(index): str(reason) for index, reason in mark["skipped"]}
            if mark["images"]:
                file = self.path(shard).relative_to(self.out).as_posix()
                shards.append({"file": file, "images": mark["images"], "sha256": mark["sha256"]})
                sums.append(mark.get("sums"))
        source = plan.source
        kept = [index for index in range(len(source)) if index not in left_out]
        if not kept:
            raise UserError(f"none of the {len(source):,} images of {source.root} can be read")
        names, labels = [source.names[index] for index in kept], source.labels[kept]
        heldout, aside = plan.split(names, labels, kept)
        refuse_few(self.out, parts_of(heldout, aside), plan.content.least)
        files = {
            LABELS: write_npy(self.out / LABELS, labels.astype(np.int32)),
            HELDOUT: write_npy(self.out / HELDOUT, heldout),
            NAMES: _write_lines(self.out / NAMES, names),
        }
        if plan.aside:
            files[ASIDE] = write_npy(self.out / ASIDE, aside)
        if left_out:
            lines = [f"{source.names[index]}\t{left_out[index]}" for index in sorted(left_out)]
            files[SKIPPED] = _write_lines(self.out / SKIPPED, lines)
        else:
            (self.out / SKIPPED).unlink(missing_ok=True)
        plan.content.finish(self.out, shards, sums)
        write_json(self.out / MADE, made)
        write_json(
            self.out / MANIFEST,
            {
                "format": FORMAT,
                "images": len(kept),
                "resolution": plan.resolution,
                **plan.content.manifest(),
                "source": {"checksum": source.checksum(), "images": len(source), "left_out": len(left_out)},
                "heldout": {"fraction": plan.heldout, "images": int(heldout.sum())},
                **({"aside": {"fraction": plan.aside, "images": int(aside.sum())}} if plan.aside else {}),
                "shard_images": plan.shard_images,
                "classes": source.classes,
                "class_counts": np.bincount(labels, minlength=len(source.classes)).tolist(),
                "files": files,
                "shards": shards,
            },
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        return len(kept)


def parts_of(heldout: NDArray[np.bool_], aside: NDArray[np.bool_]) -> Parts:
    """How many of the images (N,) are in each part."""
    return Parts(int((~heldout & ~aside).sum()), int(heldout.sum()), int(aside.sum()))


def _small_together(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The labels (N,), one in the place of all with less than `FEW` images: else none of theirs would be held out."""
    counts = np.bincount(labels)
    few = counts < FEW
    if not few.any():
        return labels
    return np.where(few[labels], few.argmax(), labels).astype(np.int32)


def heldout_mask(names: Sequence[str], labels: NDArray[np.int32], fraction: float) -> NDArray[np.bool_]:
    """Which images (N,) are held out: of each class the rounded fraction, at least one where it has `FEW` or more.

    Those whose name has the lowest sha256, so that an image stays on its side when others come or go.
    """
    found = np.zeros(len(names), dtype=np.bool_)
    if fraction == 0 or not len(names):
        return found
    keys = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    for members in np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1]):
        count = max(round(fraction * len(members)), 1 if len(members) >= FEW else 0)
        found[sorted(members.tolist(), key=lambda index: keys[index])[:count]] = True
    return found


def write_npy(path: Path, array: NDArray[Any]) -> str:
    """Writes the array as .npy, whole or not at all; returns the file's sha256. Raises UserError.

    The header is padded to a page of memory, which the format allows, so that rows of whole pages begin at one: at
    random, a page less is read of each.
    """
    array = np.ascontiguousarray(array)
    fields = repr(np.lib.format.header_data_from_array_1_0(array)).encode()
    length = PAGE - np.lib.format.MAGIC_LEN - 2
    header = np.lib.format.magic(1, 0) + struct.pack("<H", length) + fields.ljust(length - 1) + b"\n"
    digest = hashlib.sha256()
    temporary = path.with_name(temporary_name(path.name))
    try:
        with open(temporary, "xb") as file:
            for part in (header, array.reshape(-1).view(np.uint8).data):
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise describe_oserror(error, path) from error
    return digest.hexdigest()


def _write_lines(path: Path, lines: list[str]) -> str:
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def _told(before: dict[str, Any], now: dict[str, Any], differs: list[str]) -> str:
    """`resolution 512, not 256; another source`."""
    short = [key for key in differs if not isinstance(now[key], str) or len(now[key]) < 20]
    told = [f"{key} {before.get(key)}, not {now[key]}" for key in short]
    return "; ".join(told + [f"another {key}" for key in differs if key not in short])
