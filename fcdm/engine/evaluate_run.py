"""Evaluates a checkpoint: once per (checkpoint, protocol), written as one file and one line of the records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
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
from fcdm.runs.divergence import diverged_text
from fcdm.runs.find_weights import checkpoint_of
from fcdm.runs.folder import Run
from fcdm.runs.formats import read_evaluation
from fcdm.runs.kept_source import keep_extractor
from fcdm.runs.protocol import Part, budgets_of, changed_since
from fcdm.runs.records import RecordWriter
from fcdm.runs.run_paths import evaluation_files


class Evaluator:
    """Evaluates a run's checkpoints under the protocols of parts that share their samples, each drawn once."""

    def __init__(self, run: Run, parts: Sequence[Part], data: Dataset, worker: Worker) -> None:
        """parts: one group of `sharing_samples`."""
        self.run, self.data, self.worker, self.ranks = run, data, worker, worker.ranks
        self.parts, self.config = parts, parts[0].config
        self.failed: list[str] = []
        """Why some budgets could not be evaluated."""

    def checkpoints(self, steps: list[int], records: RecordWriter | None) -> None:
        """Evaluate the kept checkpoints of these steps; what cannot be is noted in `failed`, the others go on."""
        for step in steps:
            if self.ranks.any(self.ranks.is_main and step in dict(checkpoints(self.run.checkpoints))):
                with self._noting_failure():
                    self._checkpoint(step, records)
            elif self._left(step) and self.ranks.is_main:
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
        """Raise UserError where a budget could not be evaluated, and say what became of the others. All ranks together;
        the first says it."""
        refusal = UserError(f"{'; '.join(self.failed)}: these budgets cannot be evaluated; {others}")
        self.ranks.refuse_together(refusal if self.failed and self.ranks.is_main else None)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except CannotEvaluate as error:
            self.failed.append(str(error))

    def _checkpoint(self, step: int, records: RecordWriter | None) -> None:
        if not self._left(step):
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
        """Evaluate these weights as the checkpoint of `step`, by what is not done already.

        `average`: how they were made, if by putting averages together.

        Raises Stopped; what was sampled so far is kept, but for the batch in hand.
        """
        parts = [part for part in self._left(step) if self._is_unchanged(part)]
        if not parts:
            return
        was_training = model.training
        model.eval()
        try:
            with matmul_precision(self.config.evaluation.precision):
                asked = {self._partial(step, part): part.config for part in parts}
                results = evaluate(model, asked, self.data, step, self.worker)
                for part, result in zip(parts, results, strict=True):
                    if isinstance(result, UserError):
                        self.failed += [str(result)] if str(result) not in self.failed else []
                    elif self.ranks.is_main:
                        self.worker.beat()
                        self._write(step, part, result, records, average or {})
                        features = part.protocol.get("features", "")
                        self.worker.progress.evaluated(step, result.metrics, result.floor, features)
                        if said := diverged_text(step, self._losses(part)):
                            self.worker.progress.note(f"{said}; a lower optimiser.lr may hold")
                    self.ranks.barrier()
        finally:
            model.train(was_training)

    def _left(self, step: int) -> list[Part]:
        """The parts that want this step evaluated, each protocol once, without those whose file is there; the same on
        all ranks. Where the file is there, its line in the records is too."""
        asked = {part.protocol_id: part for part in self.parts if part.evaluates and step in part.budgets}
        stands = self.ranks.first_does(lambda: [self.run.evaluation(step, name).exists() for name in asked])
        return [part for part, done in zip(asked.values(), stands, strict=True) if not done]

    def _is_unchanged(self, part: Part) -> bool:
        """Whether its reference is still that of its protocol; what it is now is noted in `failed`."""
        changed = self.ranks.first_does(lambda: _changed(part))
        if changed:
            self.failed.append(changed)
        return not changed

    def _write(
        self, step: int, part: Part, result: EvaluationResult, records: RecordWriter | None, average: dict[str, Any]
    ) -> None:
        path = self.run.evaluation(step, part.protocol_id)
        content: dict[str, Any] = {
            "step": step,
            "time": round(time.time(), 3),
            "protocol_id": part.protocol_id,
            "protocol": part.protocol,
            **result.content,
            "seconds": round(result.seconds, 2),
            **({"average": average} if average else {}),
        }
        with file_errors(path):
            path.parent.mkdir(exist_ok=True)
            if part.config.evaluation.samples:
                keep_extractor(part.config, self.run.folder)
        # The picture first: whoever sees the evaluation finds its picture.
        if len(result.grid):
            write_atomic(path.with_suffix(".png"), png(result.grid))
        # The record next: once the evaluation's file is there, nobody looks at this checkpoint again.
        if records is not None:
            records.write(step, {"protocol": part.protocol_id, **result.metrics})
            records.sync()
        write_json(path, content)
        for leftover in self.run.evaluations.glob(f".{path.stem}-rank*.npz"):
            leftover.unlink(missing_ok=True)

    def _losses(self, part: Part) -> dict[int, float]:
        """Step -> held-out loss, of what this part has evaluated so far."""
        found: dict[int, float] = {}
        for step, protocol, path in evaluation_files(self.run.evaluations):
            if protocol == part.protocol_id:
                with contextlib.suppress(UserError, KeyError, OSError):  # another's damage is for the status to tell
                    found[step] = read_evaluation(path).metrics["heldout_loss"]
        return found

    def _partial(self, step: int, part: Part) -> Path:
        """Where this rank keeps what it has measured so far; of no use under another split into batches."""
        stem = self.run.evaluation(step, part.protocol_id).stem
        share = self.ranks.share_name(self.config.evaluation.batch_size)
        return self.run.evaluations / f".{stem}-{share}.npz"


def evaluate_checkpoints(run: Run, parts: Sequence[Part], worker: Worker) -> None:
    """Evaluate every budget that has a checkpoint, without training; parts: one group of `sharing_samples`.

    The worker holds the run's evaluations. Nothing is written but evaluation files, so training may go on beside.
    Raises Stopped, and UserError after the others are evaluated where a checkpoint is broken or a snapshot missing.
    """
    config = parts[0].config
    prepare_machine(config, run.records, worker.ranks, worker.progress.note)
    evaluator = Evaluator(run, parts, open_dataset(config, worker.ranks.device), worker)
    evaluator.checkpoints(budgets_of(parts), None)
    evaluator.refuse_failed("all others that are trained are")


def _changed(part: Part) -> str | None:
    """Why this evaluation can no longer be what was asked for, or None."""
    if part.config.evaluation.samples == 0:
        return None
    return changed_extractor(part.config, part.protocol) or changed_since(part.config, part.protocol)
