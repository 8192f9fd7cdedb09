"""One process's part in making a latents store: its shards through the VAE, and for the main process the end."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fcdm.data.image_sources import ImageSource
from fcdm.data.shards import Skipped, StorePlan, Work
from fcdm.errors import UserError
from fcdm.formatting import duration_text
from fcdm.images.crop import Unreadable, pillow_settings, read_square_and_turn, turned_text
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
_HOW = ("labels", "image_key", "label_key", "split", "value_range", "layout")

Square = tuple[NDArray[np.uint8], bool]
"""A cropped image, and whether it carries an EXIF orientation."""


@dataclass(frozen=True)
class StoreRequest:
    """What the command line asks for."""

    images: Path
    resolution: int
    out: Path
    vae: str
    labels: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    split: str | None = None
    value_range: str | None = None
    layout: str | None = None
    """These six as `fcdm.data.image_sources.open_source` takes them."""
    batch: int = 32
    """Images per pass of the VAE."""
    unreadable: str = "refuse"
    """`refuse`: an image that cannot be read ends the command with an error, after all others; `skip`: it is left
    out, and listed."""
    workers: int | None = None
    """Threads that read and crop; null: this process's share of the cores, at most 16."""
    heldout: float = 0.01
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

    def encode(self, vae: Vae, shards: list[int]) -> None:
        """Encodes the shards, in order. Images that cannot be read are told, and refused or left out."""
        workers = self.request.workers or max(1, min(16, cores() // peers().local_count))
        positions = [index for shard in shards for index in self.plan.positions(shard)]
        if self.main:
            self.shown.start(len(self.plan.source), self.done_before)
        with pillow_settings(), ThreadPoolExecutor(workers, "decode") as pool:
            ahead = max(2 * self.request.batch, 2 * workers)
            squares = _squares(self.plan.source, positions, self.plan.resolution, self.request.huge, pool, ahead)
            try:
                for shard in shards:
                    began = time.monotonic()
                    self._shard(vae, shard, squares)
                    self.slowest = max(self.slowest, time.monotonic() - began)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _shard(self, vae: Vae, shard: int, squares: Iterator[Square | Unreadable]) -> None:
        positions = self.plan.positions(shard)
        rows = np.empty((len(positions), *self.plan.row_shape), dtype=np.float16)
        done = turned = 0
        bad: list[Skipped] = []
        waiting: list[NDArray[np.uint8]] = []
        for index in positions:
            square = next(squares)
            if isinstance(square, Unreadable):
                bad.append((index, str(square)))
                self._warn(index, square)
            else:
                waiting.append(square[0])
                turned += square[1]
            if len(waiting) == self.request.batch or (waiting and index == positions[-1]):
                rows[done : done + len(waiting)] = self._encoded(vae, waiting, index)
                done += len(waiting)
                waiting = []
                self._progress(done)
        if bad and self.request.unreadable == "refuse":
            self.work.refuse(shard, bad)
        else:
            self.work.write(shard, rows[:done], bad, self.request.huge, turned)
        self.own += len(positions)
        self._progress(0)

    def _warn(self, index: int, why: Unreadable) -> None:
        """Once: the rest is listed at the end."""
        if not self.warned:
            skip = self.request.unreadable == "skip"
            then = "left out, as others will be" if skip else "going on, to find the others too"
            self.shown.warn(f"{self.plan.source.root / self.plan.source.names[index]} cannot be read ({why}): {then}")
        self.warned = True

    def _encoded(self, vae: Vae, squares: list[NDArray[np.uint8]], last: int) -> NDArray[np.float16]:
        """(n, 2 flips, 2, C, h, w) of n squares (S, S, 3)."""
        import torch

        images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
        flips = [torch.stack(vae.encode(part), dim=1) for part in (images, images.flip(-1))]
        found: NDArray[np.float16] = torch.stack(flips, dim=1).half().cpu().numpy()
        if not np.isfinite(found).all():
            raise UserError(
                f"{self.request.vae} gives latents that are no float16 numbers (NaN, or beyond 65504) near image "
                f"{self.plan.source.names[last]}: is it the VAE that you mean?"
            )
        return found

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
                f"{len(bad)} of {len(names):,} images cannot be read{more} in {path}: put whole "
                "ones in their place, or say --unreadable skip to leave them out; the shards without them are kept"
            )
        seconds = time.monotonic() - self.began
        made = {
            "source": str(self.request.images.absolute()),
            **{key: value for key in _HOW if (value := getattr(self.request, key)) is not None},
            "exif_orientation": (turned := self.work.turned(self.plan.shards)),
            "vae": asdict(self.plan.vae) | {"asked": _anywhere(self.request.vae)},
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
            f"{self.request.out} is whole: {images:,} images; {self.own:,} encoded here in {seconds:,.1f} s"
            + (f"; {left_out:,} left out, see {self.request.out / 'skipped.txt'}" if left_out else "")
        )


def _anywhere(vae: str) -> str:
    """A VAE's folder as it is found from any working directory; a hub id as it is."""
    folder = place(vae)
    return str(folder.absolute()) if folder.is_dir() else vae


def _squares(
    source: ImageSource, positions: Iterable[int], size: int, huge: bool, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Square | Unreadable]:
    """The images at `positions`, in order, read by the pool `ahead` of the reader."""

    def square(index: int) -> Square | Unreadable:
        try:
            return read_square_and_turn(source.read(index), size, huge)
        except Unreadable as error:
            return error

    waiting: deque[Future[Square | Unreadable]] = deque()
    for index in positions:
        waiting.append(pool.submit(square, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
