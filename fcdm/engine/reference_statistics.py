"""A reference file made of images: measured by any number of ranks, kept at a stop and every so often.

<name>.npz                            ADM's format (`fcdm.features.make_reference`)
<name>.npz.json                       of which images it is, which were left out, and what made it
.<name>.npz/<plan>-<rank>.npz         what a rank has measured of the images so far; goes when the file is there
            unreadable.txt            the images for which it was refused
"""

from __future__ import annotations

import platform
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcdm.atomic import file_errors, read_json, write_atomic, write_json
from fcdm.engine.draw_and_measure import Arrays, draw_and_measure, of_all_ranks
from fcdm.engine.worker import Worker, in_batches
from fcdm.errors import UserError
from fcdm.features import Extractor
from fcdm.features.find_reference import is_statistics, reference_images, statistics_of_images
from fcdm.features.make_reference import kept_numbers, write_reference
from fcdm.features.reference import KEEP, Reference, read_reference
from fcdm.features.sample_statistics import SampleStatistics
from fcdm.features.space import INCEPTION, Space
from fcdm.formatting import plural
from fcdm.hashing import known_sha256
from fcdm.images.crop import Unreadable, turned_text
from fcdm.images.image_stream import Images
from fcdm.runs.identity import short_hash

SHOWN = 20
"""So many unreadable images are named on the terminal."""
READ = 256
"""Images to keep, at a time."""


@dataclass(frozen=True)
class ReferenceRequest:
    """What file is asked for, besides the images."""

    out: Path
    side: int
    keep: int = KEEP
    """Images for precision and recall."""
    batch: int = 64
    unreadable: str = "refuse"
    """`refuse`: an image that cannot be read ends the command with an error, after all others; `skip`: it is left
    out, and listed."""
    huge: bool = False
    remedy: str = "remove it, or say out=<another file>"
    """What to do about another file in its place."""
    space: Space = INCEPTION
    """Of whose features the statistics are."""

    @property
    def facts(self) -> Path:
        """Says of which images the file is."""
        return self.out.with_name(f"{self.out.name}.json")

    @property
    def work(self) -> Path:
        return self.out.with_name(f".{self.out.name}")


def make_reference(images: Images, request: ReferenceRequest, worker: Worker, wait: bool = False) -> bool:
    """Makes the reference file of the images, or goes on with it; False where it was there, whole and of these images.

    wait: for another process that is making the same. Raises Stopped, with all that was measured on the disk, and
    UserError.
    """
    ranks = worker.ranks
    ranks.agree(images.count, f"the images in {images.path}")
    plan = ranks.first_does(lambda: _plan(images, request))
    with images, worker.claiming([request.work], lambda: is_made(images, request), wait=wait) as worker_here:
        if worker_here is None:
            return False
        began = time.monotonic()
        extractor = ranks.all_or_none(lambda: request.space.open(ranks.device))
        measure = _ReferenceMeasure(extractor, images)
        partial = request.work / f"{short_hash(plan)}-{ranks.share_name(request.batch)}.npz"

        def crops(first: int, last: int) -> Tensor:
            good = []
            before = len(images.turned)
            measure.note_stamps(range(first, last))
            squares = images.squares(range(first, last), request.side, request.huge)
            measure.turned += len(images.turned) - before
            for number, found in enumerate(squares, first):
                if isinstance(found, Unreadable):
                    if not measure.bad:  # once: the rest is listed at the end
                        skip = request.unreadable == "skip"
                        then = "left out, as others will be" if skip else "going on, to find the others too"
                        worker_here.progress.note(f"{images.name(number)} cannot be read ({found}): {then}")
                    measure.bad[number] = str(found)
                else:
                    good.append(found)
            stacked = np.stack(good) if good else np.empty((0, request.side, request.side, 3), np.uint8)
            return torch.from_numpy(stacked).permute(0, 3, 1, 2)

        drawn = draw_and_measure(crops, in_batches(images.count, request.batch), measure, 0, partial, worker_here)
        measure.look_again(request)
        drawn.save()
        bad = measure.bad_of_all(worker_here)
        if bad and request.unreadable == "refuse":
            ranks.refuse_together(_refusal(images, request, bad, worker_here))
        if changed := [number for found in ranks.of_all(measure.changed()) for number in found]:
            first = images.name(min(changed))
            ranks.refuse_together(
                UserError(f"{len(changed):,} images changed while they were measured, first {first}: run this again")
            )
        statistics, turned = measure.of_all(worker_here)

        def write() -> None:
            facts = plan | {
                "content": images.content(),
                "keep": request.keep,
                "images": statistics.count,
                "left_out": [[images.name(number), why] for number, why in sorted(bad.items())],
                "exif_orientation": turned,
                "source": str(images.path.absolute()),
                "host": platform.node(),
                "device": str(ranks.device),
                "processes": ranks.world_size,
                "seconds": round(time.monotonic() - began, 1),
            }
            _write(images, request, measure.extractor, statistics, bad, facts)
            for warning in statistics.warnings():
                worker_here.progress.note(warning)
            if turned:
                worker_here.progress.note(turned_text(turned))
            if bad:
                worker_here.progress.note(f"{plural(len(bad), 'image')} left out: {request.facts} lists them")

        ranks.first_does(write)
        if ranks.is_main:
            shutil.rmtree(request.work, ignore_errors=True)
    return True


def open_reference(path: Path, side: int, worker: Worker, space: Space = INCEPTION) -> Reference:
    """The reference at `path`: a file of statistics, or images, of which statistics are made once and kept.

    side: of the samples in pixels, to which the images are brought as `fcdm.prepare reference` does. All ranks
    together. Raises Stopped and UserError.
    """
    ranks = worker.ranks
    if is_statistics(path):
        return ranks.all_or_none(lambda: read_reference(path, side))
    out = ranks.first_does(lambda: statistics_of_images(path, side, space.id))
    images = ranks.all_or_none(lambda: reference_images(path, side))
    if not out.exists():
        kept = f"their statistics, as ADM crops them to {side} pixels, are made once and kept in {out}"
        worker.progress.note(f"reference {path}: {plural(images.count, 'image')}; {kept}")
        if ranks.is_main:
            with file_errors(out.parent):
                out.parent.mkdir(parents=True, exist_ok=True)
    request = ReferenceRequest(out, side, space=space, remedy="remove it, and the same command makes it again")
    make_reference(images, request, worker, wait=True)
    return read_reference(out, side)


def is_made(images: Images, request: ReferenceRequest) -> bool:
    """Whether the file stands already. Raises UserError where another one does."""
    out = request.out
    if not out.exists():
        return False
    remedy = request.remedy
    if not request.facts.exists():
        raise UserError(f"{out} is there already, and no {request.facts.name} beside it says of which images: {remedy}")
    stands = read_json(request.facts)
    if stands.get("sha256") != known_sha256(out):
        raise UserError(f"{out} is not the file that {request.facts} tells of: {remedy}")
    for key, asked in (_plan(images, request) | {"keep": request.keep}).items():
        if stands.get(key) == asked or key == "huge":  # what that left out is listed there
            continue
        if key == "checksum":
            raise UserError(
                f"{out} is the reference of other images ({stands['images']:,}; {images.path} has {images.count:,}): "
                f"{remedy}"
            )
        raise UserError(f"{out} is a reference with {key} {stands.get(key)}, not {asked}: {remedy}")
    if "content" in stands and stands["content"] != images.content():  # files of older versions do not tell
        raise UserError(f"{out} is the reference of {images.path} before its images changed: {remedy}")
    return True


def _plan(images: Images, request: ReferenceRequest) -> dict[str, Any]:
    """Everything that must be the same for a start to continue another; of images the names, for some may be mended."""
    return {
        "checksum": images.checksum(),
        "how": images.how,
        "resolution": request.side,
        "extractor": request.space.id,
        "huge": request.huge,
    }


def _refusal(images: Images, request: ReferenceRequest, bad: dict[int, str], worker: Worker) -> UserError:
    """Lists the images that cannot be read; what to do about them."""
    path = request.work / "unreadable.txt"
    lines = [f"{images.name(number)}: {bad[number]}" for number in sorted(bad)]
    if worker.ranks.is_main:
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        for line in lines[:SHOWN]:
            worker.progress.note(f"  {line}")
    more = f"{SHOWN} of them above, all" if len(bad) > SHOWN else "listed above and"
    words = [f"images={images.path}", f"resolution={request.side}", "unreadable=skip", f"out={request.out}"]
    return UserError(
        f"{len(bad)} of {images.count:,} images cannot be read, {more} in {path}: put whole ones in their place, or "
        f"leave them out by `python -m fcdm.prepare reference {shlex.join(words)}`; what was measured of the others is "
        "kept"
    )


def _write(
    images: Images,
    request: ReferenceRequest,
    extractor: Extractor,
    statistics: SampleStatistics,
    bad: dict[int, str],
    facts: dict[str, Any],
) -> None:
    readable = [number for number in range(images.count) if number not in bad]
    numbers = [readable[place] for place in kept_numbers(len(readable), request.keep)]

    # The facts first: a file without them would be taken for somebody else's.
    def tell(temporary: Path) -> None:
        write_json(request.facts, facts | {"sha256": known_sha256(temporary)})

    kept = _kept(images, request, numbers)
    write_reference(request.out, statistics, extractor, kept, len(numbers), tell)


def _kept(images: Images, request: ReferenceRequest, numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
    """The images so numbered, (n, side, side, 3) at a time; by a file, for they are read in ascending order."""
    shape = (request.side, request.side, 3)
    order = sorted(range(len(numbers)), key=lambda slot: numbers[slot])
    with file_errors(request.work), open(request.work / "kept", "w+b") as scratch:
        for first in range(0, len(order), READ):
            slots = order[first : first + READ]
            squares = images.squares([numbers[slot] for slot in slots], request.side, request.huge)
            for slot, square in zip(slots, squares, strict=True):
                if isinstance(square, Unreadable):
                    told = f"{images.name(numbers[slot])} cannot be read any more ({square})"
                    raise UserError(f"{told}: run the same command again")
                scratch.seek(slot * square.nbytes)
                scratch.write(np.ascontiguousarray(square).data)
        scratch.seek(0)
        while raw := scratch.read(READ * int(np.prod(shape))):
            yield np.frombuffer(raw, np.uint8).reshape(-1, *shape)


class _ReferenceMeasure:
    """One rank's part of a reference."""

    save_every_s = 120.0  # 130 MB

    def __init__(self, extractor: Extractor, images: Images) -> None:
        self.extractor, self.images = extractor, images
        self.statistics = SampleStatistics(extractor.dim, extractor.spatial_dim, keep=0)
        self.bad: dict[int, str] = {}
        """Number of an image -> why it cannot be read."""
        self.turned = 0
        """Images with an EXIF orientation."""
        self.stamps: dict[int, tuple[int, int]] = {}
        """Number of an image -> size and time of its file, from before it was read."""

    def update(self, images: Tensor, first: int) -> None:
        if len(images):
            self.statistics.update(self.extractor.features(images))

    def note_stamps(self, numbers: Iterable[int]) -> None:
        self.stamps.update((number, self.images.stamp(number)) for number in numbers)

    def changed(self) -> list[int]:
        """The images whose files have changed since they were measured."""
        return [number for number, stamp in self.stamps.items() if self.images.stamp(number) != stamp]

    def look_again(self, request: ReferenceRequest) -> None:
        """What could not be read, perhaps in an earlier start, may be whole now."""
        for number in sorted(self.bad):
            self.note_stamps([number])
            (found,) = self.images.squares([number], request.side, request.huge)
            if not isinstance(found, Unreadable):
                self.update(torch.from_numpy(found[None].copy()).permute(0, 3, 1, 2), number)
                del self.bad[number]

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        numbers = np.array(sorted(self.bad), np.int64)
        reasons = np.array([self.bad[number] for number in numbers.tolist()], np.str_)
        return {**self.statistics.state(), "bad.numbers": numbers, "bad.reasons": reasons} | {
            "turned": np.array(self.turned),
            "stamps": np.array([(number, *stamp) for number, stamp in self.stamps.items()], np.int64).reshape(-1, 3),
        }

    def restore(self, state: Arrays) -> None:
        bad = dict(zip(state["bad.numbers"].tolist(), state["bad.reasons"].tolist(), strict=True))
        self.stamps = {number: (size, time) for number, size, time in state["stamps"].tolist()}
        if any(number not in bad for number in self.changed()):
            self.stamps = {}
            raise ValueError("images that were measured have changed: they are all measured again")
        self.turned = int(state["turned"])
        self.statistics, self.bad = SampleStatistics.from_state(state), bad

    def bad_of_all(self, worker: Worker) -> dict[int, str]:
        """Over all ranks, the same on all of them."""
        return {number: why for found in worker.ranks.of_all(self.bad) for number, why in found.items()}

    def of_all(self, worker: Worker) -> tuple[SampleStatistics, int]:
        """The statistics of all ranks' images, and how many have an EXIF orientation."""
        turned = sum(worker.ranks.of_all(self.turned))
        return of_all_ranks(self.statistics, worker.ranks), turned
