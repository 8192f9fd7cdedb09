"""Samples as files: drawn by any number of ranks, in parts that a stop or a kill leaves whole, put together at the end.

<folder>/request.json          what is asked: another request for the same folder is refused
         .parts/<from>-<to>.npy     samples from..to-1, (n, side, side, C) uint8; one per batch
         images/000123.png          where PNGs are asked for
         samples.npz                ADM's format: arr_0 (N, side, side, C) uint8, arr_1 (N,) int64 labels
         grid.png  samples.json     the first samples, and the request with what made it; last of all
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fcdm.atomic import (
    file_errors,
    plain,
    read_json,
    remove_unfinished,
    sync_folder,
    temporary_name,
    write_atomic,
    write_json,
)
from fcdm.engine.image_grid import COLUMNS, GRID, png, tile
from fcdm.engine.sampler import Sampler
from fcdm.engine.stop import Interrupted
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.images.listing import DONE, IMAGES, NPZ, REQUEST
from fcdm.runs.identity import identifying
from fcdm.runs.revision import code_revision

GRID_PNG = "grid.png"


@dataclass(frozen=True)
class SampleFolder:
    """Where samples are gathered."""

    path: Path
    count: int

    @property
    def parts(self) -> Path:
        return self.path / ".parts"

    def there(self) -> list[tuple[int, int, Path]]:
        """(from, to, file) of the parts that are whole, by number."""
        found = []
        for path in self.parts.glob("*.npy"):
            if match := re.fullmatch(r"(\d+)-(\d+)\.npy", path.name):
                found.append((int(match[1]), int(match[2]), path))
        return sorted(found)

    def missing(self, batch_size: int) -> list[tuple[int, int]]:
        """Batches (from, to) that are still to be drawn: undisturbed, or after a stop, the same ones."""
        batches = []
        place = 0
        for first, last, _ in [*self.there(), (self.count, self.count, self.path)]:
            while place < first:
                end = min(first, (place // batch_size + 1) * batch_size)
                batches.append((place, end))
                place = end
            place = max(place, last)
        return batches

    def part(self, first: int, last: int) -> Path:
        return self.parts / f"{first:09d}-{last:09d}.npy"

    def is_done(self, request: dict[str, Any]) -> bool:
        """Whether all files are there. Raises UserError where the folder holds something else than this request's."""
        path = self.path / REQUEST
        if not self.path.is_dir():
            return False
        if path.exists():
            _refuse_another(path, read_json(path), request)
        elif others := sorted(other.name for other in self.path.iterdir() if other.name != "holders"):
            raise UserError(f"{self.path} holds other things ({', '.join(others[:3])}): say out=<another folder>")
        files = [DONE, GRID_PNG, *([NPZ] if "npz" in request["formats"] else [])]
        whole = all((self.path / name).exists() for name in files)
        return whole and not ("png" in request["formats"] and self._lost_pictures())

    def take(self, request: dict[str, Any]) -> None:
        """The folder is this request's from now on, and not done. Only its holder may."""
        (self.path / DONE).unlink(missing_ok=True)
        write_json(self.path / REQUEST, request)
        self.parts.mkdir(exist_ok=True)
        self._sweep()
        if "png" in request["formats"]:
            lost = self._lost_pictures()
            for first, last, path in self.there():
                if not lost.isdisjoint(range(first, last)):
                    path.unlink()

    def tidy(self) -> None:
        """Remove what a process that was killed at its very end has left. Only the folder's holder may."""
        self._sweep()
        shutil.rmtree(self.parts, ignore_errors=True)

    def _sweep(self) -> None:
        remove_unfinished(self.path, self.parts)

    def _lost_pictures(self) -> set[int]:
        """Numbers of the samples that have no PNG."""
        folder = self.path / IMAGES
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return {number for number in range(self.count) if _picture_name(number) not in names}


def draw(folder: SampleFolder, sampler: Sampler, batch_size: int, pngs: bool, worker: Worker) -> None:
    """Draw what is missing. Raises Stopped, without the batch in hand, and UserError."""
    ranks = worker.ranks
    batches = ranks.of_first(folder.missing(batch_size) if ranks.is_main else [])

    there = folder.count - sum(last - first for first, last in batches)
    worker.progress.sampling(0, there, folder.count)
    images = folder.path / IMAGES
    if pngs:
        with file_errors(images):
            images.mkdir(exist_ok=True)
    for turn, batch in enumerate(worker.rounds(batches)):
        if batch is not None:
            try:
                drawn = sampler.images(torch.arange(*batch, device=ranks.device))
            except Interrupted:
                continue  # all ranks stop before the next
            pictures = drawn.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            if pngs:  # before the part, which says that its pictures are there
                for number, picture in enumerate(pictures, batch[0]):
                    with file_errors(images):
                        _picture(picture).save(images / _picture_name(number))
            buffer = io.BytesIO()
            np.save(buffer, pictures, allow_pickle=False)
            write_atomic(folder.part(*batch), buffer.getvalue())
        there += sum(last - first for first, last in batches[turn * ranks.world_size : (turn + 1) * ranks.world_size])
        worker.progress.sampling(0, there, folder.count)
    ranks.barrier()


def put_together(
    folder: SampleFolder, sampler: Sampler, npz: bool, facts: dict[str, Any], beat: Callable[[], None]
) -> None:
    """The files that a user takes, from the parts, which are then removed; in the memory of one part."""
    parts = folder.there()
    if folder.missing(1):
        raise UserError(f"{folder.parts}: parts have gone while samples were drawn; the same command draws them again")
    if npz:
        _write_npz(folder, sampler, parts, beat)
    first = []
    for _, _, path in parts:
        first.append(np.load(path, allow_pickle=False))
        if sum(map(len, first)) >= GRID:
            break
    grid = np.concatenate(first)[:GRID].transpose(0, 3, 1, 2)
    write_atomic(folder.path / GRID_PNG, png(grid))
    write_json(folder.path / DONE, {**facts, "grid": {"columns": COLUMNS, "tile": tile(grid.shape[-1])}})
    folder.tidy()


def _write_npz(
    folder: SampleFolder, sampler: Sampler, parts: list[tuple[int, int, Path]], beat: Callable[[], None]
) -> None:
    final = folder.path / NPZ
    temporary = final.with_name(temporary_name(final.name))
    with file_errors(final):
        try:
            with zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
                shape = (folder.count, *np.load(parts[0][2], mmap_mode="r").shape[1:])
                # A ZipInfo of our own has a fixed date: the same samples, the same checksum.
                with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    for _, _, path in parts:
                        member.write(np.load(path, allow_pickle=False).data)
                        beat()
                labels = np.concatenate(list(_labels(sampler, folder.count)))
                with archive.open(zipfile.ZipInfo("arr_1.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, labels, allow_pickle=False)
            temporary.replace(final)
            sync_folder(final.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _labels(sampler: Sampler, count: int, chunk: int = 1 << 16) -> Iterator[np.ndarray[Any, Any]]:
    for first in range(0, count, chunk):
        numbers = torch.arange(first, min(first + chunk, count), device=sampler.device)
        yield sampler.labels(numbers).cpu().numpy()


def _picture_name(number: int) -> str:
    return f"{number:06d}.png"


def _picture(pixels: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])


def _refuse_another(path: Path, before: dict[str, Any], asked: dict[str, Any]) -> None:
    old, new = identifying(before), identifying(plain(asked))
    differ = [f"{key} {old.get(key)}, not {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(
            f"{path.parent} is of another request ({'; '.join(differ[:3])}{more}): say out=<another folder>, or "
            "remove it"
        )


def facts_of(request: dict[str, Any], seconds: float, **more: Any) -> dict[str, Any]:
    """What samples.json says besides the request."""
    return {**request, "seconds": round(seconds, 2), "time": round(time.time(), 3), "revision": code_revision(), **more}
