"""Evaluates a checkpoint: once per (checkpoint, protocol), written as one file and one line of the records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from fcdm.atomic import file_errors, write_atomic, write_json
from fcdm.config.ema_profiles import power_length
from fcdm.data.dataset import Dataset, open_dataset
from fcdm.engine.environment import matmul_precision, prepare_machine
from fcdm.engine.evaluate import EvaluationResult, evaluate
from fcdm.engine.image_grid import png
from fcdm.engine.load_model import load_named
from fcdm.engine.state import TrainState, create_model
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.features.user_extractor import changed_extractor
from fcdm.runs.checkpoints import CannotEvaluate, checkpoints
from fcdm.runs.find_weights import checkpoint_of
from fcdm.runs.folder import Run
from fcdm.runs.kept_source import keep_extractor
from fcdm.runs.protocol import Part, changed_reference
from fcdm.runs.records import RecordWriter


class Evaluator:
    """Evaluates a run's checkpoints under the protocol of its configuration."""

    def __init__(self, run: Run, part: Part, data: Dataset, worker: Worker) -> None:
        self.run, self.config, self.data, self.worker, self.ranks = run, part.config, data, worker, worker.ranks
        self.protocol, self.protocol_id = part.protocol, part.protocol_id
        self.failed: list[str] = []
        """Why some budgets could not be evaluated."""

    def checkpoints(self, steps: list[int], records: RecordWriter | None) -> None:
        """Evaluate the kept checkpoints of these steps; what cannot be is noted in `failed`, the others go on."""
        for step in steps:
            if self.ranks.any(self.ranks.is_main and step in dict(checkpoints(self.run.checkpoints))):
                with self._noting_failure():
                    self._checkpoint(step, records)
            elif self.ranks.is_main and not self.run.evaluation(step, self.protocol_id).exists():
                self.worker.progress.note(f"step {step} has no checkpoint (yet), so it is not evaluated")

    def trained(self, step: int, state: TrainState, records: RecordWriter | None) -> None:
        """Evaluate what has just been trained to `step`, and saved; as `checkpoints` does."""
        weights = self.config.evaluation.weights
        with self._noting_failure():
            if power_length(weights) is not None:
                self._checkpoint(step, records)
            else:
                self._weights(step, records, state.ema if weights == "ema" else state.model)

    def refuse_failed(self, others: str) -> None:
        """Raise UserError where a budget could not be evaluated, and say what became of the others."""
        if self.failed:
            raise UserError(f"{'; '.join(self.failed)}: these budgets cannot be evaluated; {others}")

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except CannotEvaluate as error:
            self.failed.append(str(error))

    def _checkpoint(self, step: int, records: RecordWriter | None) -> None:
        if self._stands(step):
            return
        model = create_model(self.config, self.ranks.device).eval()
        asked = self.config.evaluation
        made = load_named(model, checkpoint_of(self.run, step), asked.weights, asked.weights_snapshots)
        length = power_length(asked.weights)
        average = {"sigma_rel": length, "error": made.error, "snapshots": made.snapshots} if made else {}
        self._weights(step, records, model, average)

    def _weights(
        self, step: int, records: RecordWriter | None, model: nn.Module, average: dict[str, Any] | None = None
    ) -> None:
        """Evaluate these weights as the checkpoint of `step`; does nothing where that is done already.

        `average`: how they were made, if by putting averages together.

        Raises Stopped; what was sampled so far is kept, but for the batch in hand.
        """
        if self._stands(step):
            return
        if changed := self.ranks.first_does(lambda: self._changed()):
            raise CannotEvaluate(changed)
        was_training = model.training
        model.eval()
        try:
            with matmul_precision(self.config.evaluation.precision):
                result = evaluate(model, self.config, self.data, step, self._partial(step), self.worker)
        finally:
            model.train(was_training)
        if self.ranks.is_main:
            self.worker.beat()
            self._write(step, result, records, average or {})
            self.worker.progress.evaluated(step, result.metrics, result.floor)
        self.ranks.barrier()

    def _changed(self) -> str | None:
        """Why this evaluation can no longer be what was asked for, or None."""
        return changed_extractor(self.config, self.protocol) or changed_reference(self.config, self.protocol)

    def _stands(self, step: int) -> bool:
        """Whether the evaluation's file is there; then its line in the records is too."""
        path = self.run.evaluation(step, self.protocol_id)
        return self.ranks.any(self.ranks.is_main and path.exists())

    def _write(
        self, step: int, result: EvaluationResult, records: RecordWriter | None, average: dict[str, Any]
    ) -> None:
        path = self.run.evaluation(step, self.protocol_id)
        content: dict[str, Any] = {
            "step": step,
            "time": round(time.time(), 3),
            "protocol_id": self.protocol_id,
            "protocol": self.protocol,
            **result.content,
            "seconds": round(result.seconds, 2),
            **({"average": average} if average else {}),
        }
        with file_errors(path):
            path.parent.mkdir(exist_ok=True)
            keep_extractor(self.config, self.run.folder)
        # The picture first: whoever sees the evaluation finds its picture.
        write_atomic(path.with_suffix(".png"), png(result.grid))
        # The record next: once the evaluation's file is there, nobody looks at this checkpoint again.
        if records is not None:
            records.write(step, {"protocol": self.protocol_id, **result.metrics})
            records.sync()
        write_json(path, content)
        for leftover in self.run.evaluations.glob(f".{path.stem}-rank*.npz"):
            leftover.unlink(missing_ok=True)

    def _partial(self, step: int) -> Path:
        """Where this rank keeps what it has sampled so far; of no use under another split into batches."""
        stem = self.run.evaluation(step, self.protocol_id).stem
        share = self.ranks.share_name(self.config.evaluation.batch_size)
        return self.run.evaluations / f".{stem}-{share}.npz"


def evaluate_checkpoints(run: Run, part: Part, worker: Worker) -> None:
    """Evaluate every budget of the part that has a checkpoint, without training.

    The worker holds the run's evaluations. Nothing is written but evaluation files, so training may go on beside.
    Raises Stopped, and UserError after the others are evaluated where a checkpoint is broken or a snapshot missing.
    """
    prepare_machine(part.config, run.records, worker.ranks, worker.progress.note)
    evaluator = Evaluator(run, part, open_dataset(part.config, worker.ranks.device), worker)
    evaluator.checkpoints(part.budgets, None)
    evaluator.refuse_failed("all others that are trained are")
