"""The training story, top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from fcdm.config.schema import Config
from fcdm.data.dataset import open_dataset
from fcdm.diffusion import make_objective
from fcdm.engine.batches import BatchSource
from fcdm.engine.checkpoint import latest_checkpoint
from fcdm.engine.environment import SegmentRecorder, deterministic, explaining, matmul_precision, prepare_machine
from fcdm.engine.evaluate_run import Evaluator
from fcdm.engine.load_model import initial_weights
from fcdm.engine.meter import Meter
from fcdm.engine.saver import Saver
from fcdm.engine.state import TrainState
from fcdm.engine.stop import Stopped
from fcdm.engine.train_step import TrainStep
from fcdm.engine.worker import Worker
from fcdm.runs.branches import find_parent
from fcdm.runs.folder import Run
from fcdm.runs.identity import science
from fcdm.runs.protocol import Part, budgets_of
from fcdm.runs.records import RecordWriter
from fcdm.runs.run_paths import step_of


def train(run: Run, parts: Sequence[Part], worker: Worker, keep: set[int], evaluate: bool = True) -> None:
    """Train a run to the last of its budgets, with a checkpoint and, if `evaluate`, an evaluation at each.

    The worker holds the run's folder; only rank 0 writes. parts: one group of `fcdm.runs.protocol.sharing_samples`.
    `keep`: steps whose checkpoints other requests still want.

    Raises:
        UserError: a loss that is not finite, a disk that refuses, a budget that can no longer be evaluated.
        Stopped: after a signal, once the state is on disk.
    """
    ranks, progress = worker.ranks, worker.progress
    config, budgets = parts[0].config, budgets_of(parts)
    checkpoint_steps = sorted(set(budgets) | {step for step in config.keep_steps if step < budgets[-1]})
    prepare_machine(config, run.records, ranks, progress.note)
    data = open_dataset(config, ranks.device)
    objective = make_objective(config.diffusion)
    state = TrainState.create(config, ranks.device)
    checkpoint = ranks.first_does(lambda: _beginning(run, config, progress.note))
    if checkpoint is not None:
        state.restore(checkpoint, config.power_ema)
    elif initial := initial_weights(config, state.model):
        state.start_from(initial)
    columns = int(state.model.label_embedders)  # type: ignore[arg-type]
    batches = BatchSource(config, data, objective, columns, *ranks.share(config.batch_size))
    train_step = TrainStep(config, objective, state, ranks)
    evaluator = Evaluator(run, parts, data, worker)

    with contextlib.ExitStack() as stack:
        stack.enter_context(matmul_precision(config.precision))
        stack.enter_context(deterministic(config.deterministic, ranks.device))
        records = stack.enter_context(RecordWriter(run.records)) if ranks.is_main else None
        segment = stack.enter_context(SegmentRecorder(records, config, ranks, state, _branched(run, checkpoint)))
        stack.enter_context(explaining(worker.stop))
        if evaluate:  # what an earlier process trained but did not evaluate
            evaluator.checkpoints([target for target in budgets if target <= state.step], records)
        stack.enter_context(batches)
        saver = stack.enter_context(Saver(run, config, state, records, ranks, keep | set(checkpoint_steps)))
        meter = Meter(config, state, batches)
        for target in [target for target in checkpoint_steps if target > state.step]:
            while state.step < target:
                record_now = meter.is_due(state.step + 1, target)
                grad_norm = train_step(batches.draw(state.step), record_now)
                worker.beat()
                if record_now:
                    saver.refuse_broken()
                    measured = meter.read(grad_norm)
                    if records is not None:
                        records.write(state.step, measured)
                    progress.training(state.step, budgets[-1], meter.mean_loss, measured["images_per_s"])
                else:
                    progress.training(state.step, budgets[-1], None, None)
                if state.power.due(state.step) and state.step < target:
                    saver.snapshot()
                # All ranks leave the loop, or save, at the same step.
                signum, save_now = ranks.highest(worker.stop.signum or 0, saver.is_due())
                if signum:
                    saver.stop(snapshot=state.step == target)  # a resume goes on after it
                    raise Stopped(int(signum))
                if save_now and state.step < target:
                    with meter.paused():
                        saver.save()
            saver.snapshot()
            saver.save()
            if evaluate and target in budgets:
                saver.finish()
                evaluator.trained(target, state, records)
            meter.restart()
            saver.restart()
        saver.finish()
        evaluator.refuse_failed("all others are")
        segment.completed = True


def _beginning(run: Run, config: Config, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint to continue from: the run's own newest, else of the run that it branches from; None: none."""
    own = latest_checkpoint(run.checkpoints, warn)
    parent = None if own else find_parent(run.folder.parent, science(config))
    if parent is None or config.optimiser.cooldown is None:
        return own
    return latest_checkpoint(parent.checkpoints, warn, config.optimiser.cooldown[0])


def _branched(run: Run, checkpoint: Path | None) -> str | None:
    """`<the parent's folder>@<step>`, where training goes on from another run's checkpoint."""
    if checkpoint is None or checkpoint.parent == run.checkpoints:
        return None
    return f"{checkpoint.parent.parent.name}@{step_of(checkpoint.name)}"
