"""When and what training writes besides its records: checkpoints, and snapshots of post-hoc EMA."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from types import TracebackType
from typing import Any

from fcdm.config.schema import Config
from fcdm.engine.checkpoint import prune, save_checkpoint
from fcdm.engine.distributed import Ranks, work_for
from fcdm.engine.host_copy import Groups, HostCopy
from fcdm.engine.state import TrainState
from fcdm.errors import UserError
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run
from fcdm.runs.records import RecordWriter
from fcdm.runs.run_lock import RunHeld


class _GivenUp(Exception):
    """What is being written is not wanted any more."""


class Saver:
    """Saves the state of a run as it is at a step, while training goes on: rank 0 (it has the `records`) copies it to
    host memory, and a thread writes the copy to disk, one after the other.

    What was begun is on disk after `finish` and `stop`; a failure to write is raised there, or at the next `save`,
    which is due at once then. Leaving the `with` block waits too, unless the run is lost or Ctrl-C was pressed again.
    """

    def __init__(
        self, run: Run, config: Config, state: TrainState, records: RecordWriter | None, ranks: Ranks, keep: set[int]
    ) -> None:
        """keep: steps whose checkpoints stay; of the others the newest `checkpoint.keep`."""
        self.run, self.config, self.state, self.records, self.ranks, self.keep = (
            run,
            config,
            state,
            records,
            ranks,
            keep,
        )
        self._host = HostCopy(ranks.device)
        self._thread = ThreadPoolExecutor(1, "saver", work_for, (ranks.device,))
        self._writing: Future[None] | None = None
        self._replaceable = False
        """Whether a later checkpoint makes up for what is being written."""
        self._give_up = Event()
        self.restart()

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RunHeld | KeyboardInterrupt):
            self._give_up.set()
        self._thread.shutdown()

    def restart(self) -> None:
        """Count the minutes to the next checkpoint from here."""
        self.saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether a checkpoint is due: by steps, by minutes, or because the last one could not be written."""
        asked = self.config.checkpoint
        by_steps = asked.every_steps is not None and self.state.step % asked.every_steps == 0
        failed = self._writing is not None and self._writing.done() and self._writing.exception() is not None
        return by_steps or failed or time.monotonic() - self.saved_at >= asked.every_minutes * 60

    def save(self) -> None:
        """Begin a checkpoint of the present step, unless training has left the finite numbers (UserError)."""
        self.refuse_broken()
        self.finish()
        if self.records is not None:
            tensors, extra = self.state.contents()
            step, copies = self.state.step, self._host.of(tensors)
            self._begin(lambda: self._write(step, copies, extra), replaceable=step not in self.keep)
        self.restart()

    def snapshot(self) -> None:
        """Begin a snapshot of the power function averages, if there are any. Raises UserError as `save` does."""
        self.refuse_broken()
        if not self.state.power:
            return
        self.finish()
        if self.records is not None:
            write = self.state.power.snapshot(self.state.model, self.state.step, self._host)
            self._begin(lambda: write(self.run.snapshots, self._go_on), replaceable=False)

    def stop(self, snapshot: bool) -> None:
        """A checkpoint of the present step, and a `snapshot` if asked, on disk when it returns. Raises as `save` does.

        An earlier checkpoint that is still being written is given up for it, unless it is kept: the time before a limit
        is that of one, of two where training goes on past kept ones.
        """
        self.refuse_broken()
        if self._replaceable:
            self._give_up.set()
        if snapshot:
            self.snapshot()
        self.save()
        self.finish()

    def finish(self) -> None:
        """Wait, on all ranks, until what was begun is on disk.

        Raises UserError where it could not be written, on the first rank; the others end without a word.
        """
        error: BaseException | None = None
        if self._writing is not None:
            error = self._writing.exception()
            self._writing, self._replaceable = None, False
        self.ranks.refuse_together(error)

    def refuse_broken(self) -> None:
        """Raise UserError, naming the step, once training has left the finite numbers."""
        bad = self.state.broken_at()
        if bad is None:
            return
        if self._writing is not None:
            wait([self._writing])
        kept = [step for step, _ in checkpoints(self.run.checkpoints)]
        raise UserError(
            f"the loss or a weight of {self.run.name} is not finite at step {bad}: a lower optimiser.lr (now "
            f"{self.config.optimiser.lr:g}) usually helps; "
            + (f"the checkpoint of step {max(kept)} is kept" if kept else "there is no checkpoint yet")
        )

    def _begin(self, write: Callable[[], None], replaceable: bool) -> None:
        """Have the thread write; nothing else is being written."""

        def write_unless_given_up() -> None:
            with contextlib.suppress(_GivenUp):
                write()

        self._give_up.clear()
        self._writing, self._replaceable = self._thread.submit(write_unless_given_up), replaceable

    def _go_on(self) -> None:
        if self._give_up.is_set():
            raise _GivenUp

    def _write(self, step: int, copies: Groups, extra: dict[str, Any]) -> None:
        assert self.records is not None
        self.records.sync()
        self._host.wait()
        save_checkpoint(self.run.checkpoints, step, copies, extra, self._go_on)
        self._go_on()
        prune(self.run.checkpoints, self.config.checkpoint.keep, self.keep)
