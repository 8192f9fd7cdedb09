"""When and what training writes besides its records: checkpoints, and snapshots of post-hoc EMA."""

from __future__ import annotations

import time

from fcdm.config.schema import Config
from fcdm.engine.checkpoint import prune
from fcdm.engine.distributed import Ranks
from fcdm.engine.state import TrainState
from fcdm.errors import UserError
from fcdm.runs.checkpoints import checkpoints
from fcdm.runs.folder import Run
from fcdm.runs.records import RecordWriter


class Saver:
    """Saves the state of a run; rank 0 writes (it has the `records`), and all of them wait for it."""

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
        self.restart()

    def restart(self) -> None:
        """Count the minutes to the next checkpoint from here."""
        self.saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether a checkpoint is due, by steps or by minutes."""
        asked = self.config.checkpoint
        by_steps = asked.every_steps is not None and self.state.step % asked.every_steps == 0
        return by_steps or time.monotonic() - self.saved_at >= asked.every_minutes * 60

    def save(self) -> None:
        """A checkpoint of the present step, unless training has left the finite numbers (UserError)."""
        self.refuse_broken()
        if self.records is not None:
            self.records.sync()
            self.state.save(self.run.checkpoints)
            prune(self.run.checkpoints, self.config.checkpoint.keep, self.keep)
        self.ranks.barrier()
        self.restart()

    def snapshot(self) -> None:
        """The power function averages as of the present step. Raises UserError as `save` does."""
        self.refuse_broken()
        if self.records is not None:
            self.state.power.save(self.run.snapshots, self.state.model, self.state.step)

    def refuse_broken(self) -> None:
        """Raise UserError, naming the step, once training has left the finite numbers."""
        bad = self.state.broken_at()
        if bad is None:
            return
        kept = [step for step, _ in checkpoints(self.run.checkpoints)]
        raise UserError(
            f"the loss or a weight of {self.run.name} is not finite at step {bad}: a lower optimiser.lr (now "
            f"{self.config.optimiser.lr:g}) usually helps; "
            + (f"the checkpoint of step {max(kept)} is kept" if kept else "there is no checkpoint yet")
        )
