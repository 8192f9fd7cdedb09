"""One process's part in making a store: its shards, through the VAE for latents; for the main process the end."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcdm.data.import_latents import ImportedLatents, ImportRequest
from fcdm.data.labelled_images import AS_IT_IS, SourceOptions
from fcdm.data.shards import How, Skipped, StorePlan, Work
from fcdm.data.store_contents import Latents
from fcdm.errors import UserError
from fcdm.formatting import duration_text, plural
from fcdm.images.crop import Square, Unreadable, pillow_settings, turned_text
from fcdm.paths import place
from fcdm.runs.peers import peers
from fcdm.runs.processes import cores
from fcdm.runs.run_lock import Holder

if TYPE_CHECKING:
    import torch

    from fcdm.codecs.vae import Vae

SHOWN = 20
"""So many unreadable images are named on the terminal."""
PATIENCE = 1800.0
"""Seconds without a new shard from anybody, after which the main process takes the others for dead."""

Read = tuple[Square, tuple[str, ...]] | Unreadable
"""What `Content.square` gives, or raises."""

Encode = Callable[[NDArray[Any]], NDArray[Any]]
"""Square images (n, S, S, channels) -> what the store keeps of them, (n, ...)."""


@dataclass(frozen=True)
class StoreRequest:
    """What the command line asks for."""

    images: Path
    resolution: int
    out: Path
    vae: str | None = None
    """Whose latents are kept; null: the pixels are."""
    imported: ImportRequest | None = None
    """`images` are latents already, of that VAE; what the user says of them."""
    channels: int | None = None
    """Of pixels: 1 grey, 3 RGB; null: grey where the first images are."""
    pad: int | None = None
    """Of pixels: the side of the black square in which each image stands, in the place of the crop."""
    smaller: str = "upscale"
    """What becomes of images smaller than the resolution: `upscale` or `refuse`; of latents they are scaled up."""
    options: SourceOptions = AS_IT_IS
    """How `images` are read."""
    batch: int = 32
    """Images per pass of the VAE."""
    unreadable: str = "refuse"
    """`refuse`: an image that cannot be read ends the command with an error, after all others; `skip`: it is left
    out, and listed."""
    workers: int | None = None
    """Threads that read and crop; null: this process's share of the cores, at most 16."""
    heldout: float | None = 0.01
    """Fraction of each class; null: the source's own test split, or by the rule of `prepare_store` where it has none.
    """
    aside: float | None = 0.0
    """Fraction of the rest, of each class, for networks that evaluate; null: by the rule of `prepare_store`."""
    shard_images: int = 4096
    huge: bool = False
    tf32: bool = False
    anyway: bool = False
    """Start though the disk looks too small."""


class Group(Protocol):
    """The processes of the job; `fcdm.engine.distributed.Ranks` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def any(self, flag: bool) -> bool: ...
    def agree(self, number: int, what: str) -> None: ...
    def close(self) -> None: ...


class ImageProgress(Protocol):
    """What a person sees; only the main process shows anything but unreadable images."""

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def start(self, images: int, done: int) -> None: ...
    def update(self, done: int) -> None: ...


class ShardEncoder:
    """Encodes one process's shards; in the main process it also waits for the others."""

    def __init__(
        self,
        request: StoreRequest,
        plan: StorePlan,
        work: Work,
        group: Group,
        shown: ImageProgress,
        holder: Holder | None,
    ) -> None:
        self.request, self.plan, self.work, self.group, self.shown = request, plan, work, group, shown
        self.holder = holder
        self.main = group.rank == 0
        self.began = time.monotonic()
        self.own = 0
        """Images that this process encoded."""
        self.slowest = 0.0
        """Seconds of this process's slowest shard."""
        self.warned = False
        self.stood = work.ended() if self.main else set()
        self.done_before = self._images(self.stood)
        self.others, self.looked = 0, 0.0

    def encode(self, encode: Encode, shards: list[int]) -> None:
        """Encodes the shards, in order. Images that cannot be read are told, and refused or left out."""
        workers = self.request.workers or max(1, min(16, cores() // peers().local_count))
        positions = [index for shard in shards for index in self.plan.positions(shard)]
        if self.main:
            self.shown.start(len(self.plan.source), self.done_before)
        with pillow_settings(), ThreadPoolExecutor(workers, "decode") as pool:
            ahead = max(2 * self.request.batch, 2 * workers)
            squares = _squares(self.plan, positions, self.request.huge, pool, ahead)
            try:
                for shard in shards:
                    began = time.monotonic()
                    self._shard(encode, shard, squares)
                    self.slowest = max(self.slowest, time.monotonic() - began)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _shard(self, encode: Encode, shard: int, squares: Iterator[Read]) -> None:
        positions = self.plan.positions(shard)
        stamp = self.plan.stamp(shard)
        rows = np.empty((len(positions), *self.plan.row_shape), dtype=self.plan.content.dtype)
        done = turned = 0
        bad: list[Skipped] = []
        asked: set[str] = set()
        waiting: list[NDArray[Any]] = []
        for index in positions:
            square = next(squares)
            if isinstance(square, Unreadable):
                bad.append((index, str(square)))
                self._warn(index, square)
            else:
                waiting.append(square[0].pixels)
                turned += square[0].turned
                asked.update(square[1])
            if len(waiting) == self.request.batch or (waiting and index == positions[-1]):
                rows[done : done + len(waiting)] = self._encoded(encode, waiting, index)
                done += len(waiting)
                waiting = []
                self._progress(done)
        if bad and self.request.unreadable == "refuse":
            self.work.refuse(shard, bad)
        else:
            how = How(self.request.huge, self.plan.content.allows)
            sums = self.plan.content.sums(rows[:done]) if done else None
            self.work.write(shard, rows[:done], bad, how, turned, asked, stamp, sums)
        self.own += len(positions)
        self._progress(0)

    def _warn(self, index: int, why: Unreadable) -> None:
        """Once: the rest is listed at the end."""
        if not self.warned:
            skip = self.request.unreadable == "skip"
            then = "left out, as others will be" if skip else "going on, to find the others too"
            self.shown.warn(f"{self.plan.source.root / self.plan.source.names[index]} cannot be read ({why}): {then}")
        self.warned = True

    def _encoded(self, encode: Encode, squares: list[NDArray[Any]], last: int) -> NDArray[Any]:
        """(n, ...) of n squares (S, S, channels)."""
        found = encode(np.stack(squares))
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise UserError(
                f"{self.request.vae} gives latents that are no float16 numbers (NaN, or beyond 65504) near image "
                f"{self.plan.source.names[last]}: is it the VAE that you mean?"
            )
        return found

    def _made_with(self) -> dict[str, Any]:
        content = self.plan.content
        if isinstance(content, ImportedLatents):
            return {"vae": content.vae.made(), "stamp": self.plan.source.stamp()}
        if not isinstance(content, Latents):
            return {"stamp": self.plan.source.stamp()}
        assert self.request.vae is not None
        return {"vae": asdict(content.vae) | {"asked": _anywhere(self.request.vae)}}

    def _progress(self, doing: int) -> None:
        """`doing`: images of the present shard that are done."""
        if self.holder is not None:
            self.holder.beat()
        if not self.main:
            return
        self.shown.update(self.done_before + self.own + doing + self._others())

    def _others(self) -> int:
        """Images that the other processes have done since the start, looked up at most every 5 s."""
        size, rank = self.group.world_size, self.group.rank
        if size > 1 and time.monotonic() - self.looked > 5:
            new = (shard for shard in self.work.ended() - self.stood if shard % size != rank)
            self.others, self.looked = self._images(new), time.monotonic()
        return self.others

    def _images(self, shards: Iterable[int]) -> int:
        return sum(len(self.plan.positions(shard)) for shard in shards)

    def wait(self) -> None:
        """Until every shard stands or was refused. Raises UserError where another process failed, or seems dead."""
        seen, since = -1, time.monotonic()
        patience = max(PATIENCE, 3 * self.slowest)
        while (ended := len(self.work.ended())) < self.plan.shards:
            if ended > seen:
                seen, since = ended, time.monotonic()
            if failed := self.work.failed():
                raise UserError(f"another process stopped: {failed}")
            if time.monotonic() - since > patience:
                raise UserError(
                    f"{self.plan.shards - ended} shards of the other processes do not come (none for "
                    f"{duration_text(patience)}): see what became of them, then run the same command again"
                )
            self._progress(0)
            time.sleep(0.2)
        self.shown.update(len(self.plan.source))

    def finish(self) -> None:
        """The manifest, or the list of what cannot be read."""
        names, root = self.plan.source.names, self.plan.source.root
        bad = [found for shard in range(self.plan.shards) for found in self.work.bad(shard)]
        if bad:
            path = self.work.folder / "unreadable.txt"
            path.write_bytes(
                "".join(f"{names[index]}\t{reason}\n" for index, reason in bad).encode("utf-8", "surrogateescape")
            )
            for index, reason in bad[:SHOWN]:
                self.shown.warn(f"  {root / names[index]}: {reason}")
            more = f", {SHOWN} of them above, all" if len(bad) > SHOWN else ", listed above and"
            raise UserError(
                f"{len(bad)} of {len(names):,} images cannot be taken{more} in {path}: put others "
                "in their place, or say unreadable=skip to leave them out; the shards without them are kept"
            )
        seconds = time.monotonic() - self.began
        made = {
            "source": str(self.request.images.absolute()),
            **self.request.options.said(),
            "exif_orientation": (turned := self.work.turned(self.plan.shards)),
            **self._made_with(),
            "host": platform.node(),
            "device": str(self.group.device),
            "processes": self.group.world_size,
            "batch": self.request.batch,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 1),
        }
        images = self.work.finish(self.plan, made)
        left_out = len(names) - images
        if turned:
            self.shown.note(turned_text(turned))
        self.shown.note(
            f"{self.request.out} is whole: {plural(images, 'image')}; {self.own:,} of them made here in "
            f"{seconds:,.1f} s"
            + (f"; {left_out:,} left out, see {self.request.out / 'skipped.txt'}" if left_out else "")
        )


def latents_of(vae: Vae) -> Encode:
    """Mean and standard deviation of images and of their mirror images: (n, 2 flips, 2, C, h, w) float16."""
    import torch

    def encode(squares: NDArray[np.uint8]) -> NDArray[Any]:
        images = torch.from_numpy(squares).permute(0, 3, 1, 2).contiguous()
        flips = [torch.stack(vae.encode(part), dim=1) for part in (images, images.flip(-1))]
        found: NDArray[np.float16] = torch.stack(flips, dim=1).half().cpu().numpy()
        return found

    return encode


def pixels_of(squares: NDArray[np.uint8]) -> NDArray[Any]:
    """The pixels as models read them: (n, C, S, S)."""
    return np.ascontiguousarray(squares.transpose(0, 3, 1, 2))


def as_they_are(latents: NDArray[Any]) -> NDArray[Any]:
    """Latents that were imported: (n, flips, parts, C, h, w) already."""
    return latents


def _anywhere(vae: str) -> str:
    """A VAE's folder as it is found from any working directory; a hub id as it is."""
    folder = place(vae)
    return str(folder.absolute()) if folder.is_dir() else vae


def _squares(
    plan: StorePlan, positions: Iterable[int], huge: bool, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Read]:
    """The images at `positions`, in order, read by the pool `ahead` of the reader."""

    def square(index: int) -> Read:
        try:
            return plan.content.square(plan.source.read(index), huge)
        except Unreadable as error:
            return error

    waiting: deque[Future[Read]] = deque()
    for index in positions:
        waiting.append(pool.submit(square, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
