"""The training story, top to bottom."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fcdm.config.check import budgets
from fcdm.config.schema import Config, CustomConfig
from fcdm.data.dataset import open_dataset
from fcdm.diffusion.flow import flow_loss, interpolate
from fcdm.diffusion.loss import training_loss
from fcdm.diffusion.process import Process
from fcdm.engine.batches import Batch, BatchSource
from fcdm.engine.checkpoint import prune
from fcdm.engine.distributed import Progress, Ranks
from fcdm.engine.ema import ema_decay, update_ema
from fcdm.engine.environment import Segment, autocast, matmul_precision, prepare_machine
from fcdm.engine.evaluate_run import Evaluator
from fcdm.engine.load_model import initial_weights
from fcdm.engine.state import TrainState
from fcdm.engine.stop import Stopped, StopSignal
from fcdm.errors import UserError
from fcdm.randomness import Purpose, integers
from fcdm.runs.checkpoints import CannotEvaluate, checkpoints
from fcdm.runs.folder import Run
from fcdm.runs.records import RecordWriter
from fcdm.runs.run_cost import train_flops


def train(
    run: Run,
    config: Config,
    ranks: Ranks,
    progress: Progress,
    stop: StopSignal,
    keep: set[int],
    beat: Callable[[], None],
    evaluated: bool = True,
) -> None:
    """Train a run to the last of its budgets, with a checkpoint and, if `evaluated`, an evaluation at each.

    The caller holds the run's folder. `keep`: steps whose checkpoints other requests still want; `beat` is
    called often, to show that this process lives. Only rank 0 writes.

    Raises:
        UserError: a loss that is not finite, a disk that refuses, a budget that can no longer be evaluated.
        Stopped: after a signal, once the state is on disk.
    """
    targets = budgets(config.steps)
    stops = sorted(set(targets) | {step for step in config.keep_steps if step < targets[-1]})
    keep = keep | set(stops)
    start, count = ranks.share(config.batch_size)
    step_flops = train_flops(config, 1)
    prepare_machine(config, run.records, ranks, progress.note)

    data = open_dataset(config, ranks.device)
    process = Process.create(config.diffusion.timesteps, config.diffusion.beta_start, config.diffusion.beta_end)
    state = TrainState.create(config, ranks.device)
    resumed = state.restore(run.checkpoints, config.power_ema, progress.note if ranks.is_main else _silent)
    if not resumed and (initial := initial_weights(config, state.model)):
        state.start_from(initial)
    ranks.agree(state.step, "the checkpoint to continue from")
    weights = list(state.model.parameters())
    averages = list(state.ema.parameters())
    model = _for_training(state.model, config, ranks)
    batches = BatchSource(config, data, process, int(state.model.label_embedders), start, count)  # type: ignore[arg-type]
    evaluate = Evaluator(run, config, data, ranks, progress, stop, beat)
    not_evaluated: list[str] = []

    with contextlib.ExitStack() as stack:
        stack.enter_context(matmul_precision(config.precision))
        records = stack.enter_context(RecordWriter(run.records)) if ranks.is_main else None
        segment = stack.enter_context(Segment(records, config, ranks, state))

        def snapshot() -> None:
            """The power function averages as of the present step."""
            _refuse_broken(state, run, config)
            if records is not None:
                state.power.save(run.snapshots, state.model, state.step)

        def save() -> None:
            """A checkpoint of the present step, unless training has left the finite numbers."""
            _refuse_broken(state, run, config)
            if records is not None:
                records.sync()
                state.save(run.checkpoints)
                prune(run.checkpoints, config.checkpoint.keep, keep)
            ranks.barrier()

        for target in targets if evaluated else []:
            if ranks.any(ranks.is_main and target <= state.step and target in dict(checkpoints(run.checkpoints))):
                try:
                    evaluate.checkpoint(target, records)
                except CannotEvaluate as error:
                    not_evaluated.append(str(error))

        clock = time.perf_counter()
        timed_steps = 0
        saved_at = time.monotonic()
        for target in [target for target in stops if target > state.step]:
            while state.step < target:
                for group in state.optimiser.param_groups:
                    group["lr"] = learning_rate(config, state.step)
                batch = batches.draw(state.step)
                if isinstance(config.model, CustomConfig):  # ours draw nothing; a user's may, for dropout
                    seed_model(config.seed, state.step, start)
                loss = _accumulate_gradients(model, batch, process, config, ranks)
                record_now = (state.step + 1) % config.log_every == 0 or state.step + 1 == target
                norm = None
                if config.optimiser.clip_grad_norm is not None:
                    norm = nn.utils.clip_grad_norm_(weights, config.optimiser.clip_grad_norm)
                elif record_now:
                    norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
                state.optimiser.step()
                state.optimiser.zero_grad(set_to_none=True)
                state.step += 1
                timed_steps += 1
                update_ema(averages, weights, ema_decay(config.ema, state.step))
                state.power.update(weights, state.step)
                state.add_loss(loss)
                beat()

                if record_now:
                    _refuse_broken(state, run, config)
                    mean_loss = float(state.loss_sum) / state.loss_count
                    now = time.perf_counter()
                    speed = timed_steps * config.batch_size / (now - clock)
                    clock, timed_steps = now, 0
                    if records is not None:
                        found = {"loss": mean_loss} if state.window_is_whole(config.log_every) else {}
                        found["grad_norm"] = float(norm) if norm is not None else 0.0
                        found["images_per_s"] = speed
                        found["train_pflops"] = step_flops * state.step / 1e15
                        records.write(state.step, found)
                    progress.training(state.step, targets[-1], mean_loss, speed)
                    if state.step % config.log_every == 0:
                        state.start_window()
                else:
                    progress.training(state.step, targets[-1], None, None)

                if state.power.due(state.step) and state.step < target:
                    snapshot()

                due = config.checkpoint.every_steps is not None and state.step % config.checkpoint.every_steps == 0
                late = time.monotonic() - saved_at >= config.checkpoint.every_minutes * 60
                signum, save_now = ranks.highest(stop.signum or 0, due or late)
                if signum:
                    save()
                    raise Stopped(int(signum))
                if save_now and state.step < target:
                    before = time.perf_counter()
                    save()
                    saved_at, clock = time.monotonic(), clock + time.perf_counter() - before

            snapshot()
            save()
            if evaluated and target in targets:
                try:
                    evaluate.trained(target, state, records)
                except CannotEvaluate as error:
                    not_evaluated.append(str(error))
            clock, timed_steps, saved_at = time.perf_counter(), 0, time.monotonic()
        if not_evaluated:
            raise UserError(f"{'; '.join(not_evaluated)}: these budgets cannot be evaluated; all others are")
        segment.completed = True


def learning_rate(config: Config, step: int) -> float:
    """The rate of step `step` (counted from 0): constant after a linear warm-up."""
    warmup = config.optimiser.warmup_steps
    return config.optimiser.lr * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def seed_model(seed: int, step: int, start: int) -> None:
    """Seed what the model itself draws from torch in a step: a function of the step, so a resume replays it.

    Of the place `start` of the rank's share in the batch too, so that ranks differ. Not kept the same under another
    world size or micro-batch.
    """
    torch.manual_seed(int(integers(seed, Purpose.MODEL, step, torch.tensor([start]), 2**31)))


def _accumulate_gradients(
    model: nn.Module, batch: Batch, process: Process, config: Config, ranks: Ranks
) -> torch.Tensor:
    """Gradients of the global batch's mean loss into .grad; returns that mean loss, (), on the device."""
    total = torch.zeros((), device=ranks.device)
    parts = batch.split(config.micro_batch or len(batch))
    for number, part in enumerate(parts, start=1):
        last = number == len(parts)
        hold = contextlib.nullcontext() if last or ranks.world_size == 1 else model.no_sync()  # type: ignore[operator]
        with hold:
            flow = config.diffusion.objective == "flow"
            if flow:
                x_t = interpolate(part.x0, part.t, part.noise)
            else:
                x_t = process.q_sample(part.x0, part.t, part.noise)
            with autocast(config.precision, ranks.device):
                output = model(x_t, part.t, part.labels)
            if flow:
                losses = flow_loss(output, part.x0, part.noise).loss
            else:
                losses = training_loss(process, output, part.x0, x_t, part.t, part.noise).loss
            # Each part weighs by its images, so micro-batches and ranks (whose gradients DDP averages) make
            # the mean over the global batch.
            loss = losses.sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
    return ranks.sum(total) / ranks.world_size


def _for_training(model: nn.Module, config: Config, ranks: Ranks) -> nn.Module:
    """The model as the loop calls it: compiled if asked, gradients averaged over ranks."""
    model.train()
    if config.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if ranks.world_size > 1:
        # Channels-last gradients are copied into DDP's flat buckets; torch says so once, to no use for a user.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(
            model,
            device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    return model


def _refuse_broken(state: TrainState, run: Run, config: Config) -> None:
    """Raise UserError, naming the step, once training has left the finite numbers."""
    bad = state.broken_at()
    if bad is None:
        return
    kept = [step for step, _ in checkpoints(run.checkpoints)]
    raise UserError(
        f"the loss or a weight of {run.name} is not finite at step {bad}: a lower optimiser.lr (now "
        f"{config.optimiser.lr:g}) usually helps; "
        + (f"the checkpoint of step {max(kept)} is kept" if kept else "there is no checkpoint yet")
    )


def _silent(text: str) -> None:
    """Warnings of ranks other than the first: it has said the same."""
