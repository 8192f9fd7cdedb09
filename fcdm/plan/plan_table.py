"""The plan for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fcdm.config.ema_lag import Lag, lag_text, lags
from fcdm.config.schema import EMAConfig
from fcdm.formatting import bytes_text, duration_text, flops_text, number_text, three_digits
from fcdm.plan.estimate import KINDS, START_UP_S, Cost
from fcdm.plan.foretell import forecast_text
from fcdm.plan.model import Plan, PlannedRun, Total, total, totals
from fcdm.plan.remaining import SKIPPED, budgets_to_evaluate, evaluations_of
from fcdm.plan.shared_runs import Amount, Sharing
from fcdm.plan.tell_apart import off_all_presets
from fcdm.runs.run_cost import epochs, train_flops
from fcdm.slurm.resources import Resources

GROUPS_BEYOND = 60
"""Runs, beyond which `rows=auto` shows one row for each model and resolution."""
_PIPE_WIDTH = 200  # a pipe has no width, and half a number helps nobody
_WIDE = 150
_SHOWN_WARNINGS = 20


@dataclass(frozen=True)
class PlanRow:
    """One row of the tables: a run, or a group of them."""

    number: int
    name: str
    differs: str
    branches: str
    """Which row's run it branches from, and at which step: `#1 at 900`."""
    budgets: str
    flops: str
    """Of training, at each budget; of a branch its parent's part included."""
    epochs: str
    forecast: str
    """Of the distance at budgets that a law reaches; of a group nothing."""
    state: str
    resources: str
    memory_bytes: int
    left: Total
    wall: str
    starts: str
    skipped: bool

    @classmethod
    def of_run(cls, number: int, run: PlannedRun, numbers: Mapping[str, int]) -> PlanRow:
        """numbers: of the rows, by their runs' ids."""
        standing = run.standing
        wanted = budgets_to_evaluate(run.job)
        done = _steps(step for step in wanted if step in standing.evaluated)
        left = _steps(step for step in wanted if step not in standing.evaluated)
        alone = _steps(step for step in run.job.budgets if step not in wanted)
        state = standing.state + (f": {standing.text}" if standing.text else "")
        if standing.trained and standing.state not in SKIPPED:
            state += f" (trained to {standing.trained:,})"
        elif run.start and standing.begins < run.start and standing.state not in SKIPPED:
            state += f" (begins at {standing.begins:,}: no later checkpoint is kept)"
        skipped = standing.state in SKIPPED
        return cls(
            number=number,
            name=standing.name,
            differs=run.differs,
            branches=_branch(run, numbers),
            budgets="; ".join(
                filter(None, (f"{done} done" if done else "", left, f"only trained: {alone}" if alone else ""))
            ),
            **_amounts([run]),
            forecast=forecast_text(run.forecasts),
            state=state,
            resources=_resources(run.request, run.evaluation),
            memory_bytes=run.memory_bytes,
            left=total([run.left]),
            wall="-" if skipped else _both(run.wall_hours, run.evaluation_wall_hours, run.evaluation, _wall),
            starts="-" if skipped else _both(run.starts, run.evaluation_starts, run.evaluation, "{:,}".format),
            skipped=skipped,
        )

    @classmethod
    def of_group(cls, number: int, runs: Sequence[PlannedRun]) -> PlanRow:
        """Runs of one model and resolution: sums of what they cost, the most of what each needs."""
        states = Counter(run.standing.state for run in runs)
        config = runs[0].job.config
        apart = next((run.evaluation for run in runs if run.evaluation), None)
        return cls(
            number=number,
            name=f"{config.model.name.replace('/', '-')}-{config.data.name}-{config.resolution}px",
            differs=" ".join(filter(None, (f"{len(runs)} runs", off_all_presets([run.job for run in runs])))),
            branches=", ".join(f"{count} branches" for count in [sum(run.start > 0 for run in runs)] if count),
            budgets=_steps(sorted({step for run in runs for step in _shown_budgets(run)})),
            **_amounts(runs),
            forecast="",
            state=", ".join(f"{count} {state}" for state, count in states.items()),
            resources="; ".join(dict.fromkeys(_resources(run.request, run.evaluation) for run in runs)),
            memory_bytes=max(run.memory_bytes for run in runs),
            left=total(run.left for run in runs),
            wall=_both(
                _most(run.wall_hours for run in runs),
                _most(run.evaluation_wall_hours for run in runs),
                apart,
                lambda hours: f"{'≤ ' if len(runs) > 1 else ''}{_wall(hours)}",
            ),
            starts=_both(
                _most(run.starts for run in runs), _most(run.evaluation_starts for run in runs), apart, "{:,}".format
            ),
            skipped=all(run.standing.state in SKIPPED for run in runs),
        )


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """rich would end the process with code 1; `| head` is no failure."""
        raise BrokenPipeError


def print_tables(plan: Plan, rows: str, console: Console | None = None) -> None:
    """`rows`: one of `plan_options.ROWS`."""
    console = console or _Console()
    if not console.is_terminal:
        console = _Console(width=_PIPE_WIDTH)
    grouped = rows == "groups" or (rows == "auto" and len(plan.runs) > GROUPS_BEYOND)
    numbers = {run.job.id: number for number, run in enumerate(plan.runs, 1)}
    lines = _groups(plan.runs) if grouped else [PlanRow.of_run(numbers[r.job.id], r, numbers) for r in plan.runs]
    console.print(_runs_table(lines))
    working = [line for line in lines if not line.skipped]
    if working:
        gpu, cpu = totals(plan.runs)
        branches = totals(run for run in plan.runs if run.start)
        sums = zip(("total", "total on CPUs"), (gpu, cpu), branches, strict=True)
        last = [
            item for name, all_, some in sums for item in ((name, all_), ("of it branches", some)) if item[1].pieces
        ]
        hours = _unit(gpu.pieces > 0) + (" (on CPUs: hours of processes)" if gpu.pieces and cpu.pieces else "")
        if console.width >= _WIDE:
            console.print(_cost_table(f"cost: FLOPs and {hours}", working, last, flops=True, hours=True))
        else:
            console.print(_cost_table("cost: FLOPs", working, last, flops=True, hours=False))
            console.print(_cost_table(f"cost: {hours}", working, last, flops=False, hours=True))
    if plan.sharing is not None:
        console.print(sharing_table(plan.sharing))
    if grouped:
        say(console, f"{len(plan.runs)} runs in {len(lines)} groups; hydra.launcher.rows=all shows each")
    for text in _explanations(plan, grouped):
        say(console, text)
    for text in plan.warnings[:_SHOWN_WARNINGS]:
        say(console, f"warning: {text}", style="yellow")
    if len(plan.warnings) > _SHOWN_WARNINGS:
        say(console, f"and {len(plan.warnings) - _SHOWN_WARNINGS} more warnings (hydra.launcher.json=true has all)")
    say(console, "Nothing was started or submitted.")


def say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal, style=style)


def _wall(hours: float) -> str:
    return duration_text(3600 * hours)


def _unit(on_gpus: bool) -> str:
    return "GPU-hours" if on_gpus else "hours of processes"


def _explanations(plan: Plan, grouped: bool) -> list[str]:
    unit = _unit(any(run.on_gpus for run in plan.runs))
    texts = [f"saved: {amount_text(cost, unit)} ({reason})" for reason, cost in plan.savings]
    longest = [item for item in enumerate(plan.runs, 1) if item[1].wall_hours]
    if len(longest) > 1:
        number, slowest = max(longest, key=lambda item: item[1].wall_hours or 0.0)
        # The rows of groups have other numbers.
        which = f" {slowest.differs}".rstrip() if grouped else f", #{number}"
        texts.append(f"longest job: {_wall(slowest.wall_hours or 0.0)} ({slowest.standing.name}{which})")
    texts += [f"hours: {text}" for text in plan.paces]
    if plan.assumed:
        texts.append("  (say otherwise with hydra.launcher.gpu= and hydra.launcher.mfu=; a first run replaces it)")
    texts.append(
        "FLOPs = 2 x MACs; a training step = 3 forward passes. Memory: state and activations of one process, an "
        f"estimate; 1 GB = 1e9 B. Of each start {START_UP_S:g} s go to starting up, and what is left at SLURM's signal."
    )
    if asking := _host_memory(plan.runs):
        texts.append(asking)
    texts += _averages(plan.runs)
    texts += _forecasts(plan.runs)
    texts += [f"note: {text}" for text in plan.notes]
    return texts


def _host_memory(runs: Sequence[PlannedRun]) -> str:
    """What to ask for where jobs on GPUs leave it to the cluster; empty where none does."""
    most: dict[str, int] = {}
    for run in runs:
        if run.host_bytes and run.request.mem_gb is None and run.standing.state not in SKIPPED:
            name = run.job.config.model.name
            most[name] = max(most.get(name, 0), math.ceil(run.host_bytes / 1e9))
    if not most:
        return ""
    needs = ", ".join(f"{name} {gigabytes}" for name, gigabytes in most.items())
    return (
        f"Host memory of a node in GB, an estimate: {needs}. resources.mem_gb= asks for it; these jobs take what the "
        "cluster gives."
    )


def _averages(runs: Sequence[PlannedRun]) -> list[str]:
    """For each EMA that is evaluated, how far behind it is at the budgets."""
    found: dict[tuple[float | None, float | None], dict[int, Lag]] = {}
    for run in runs:
        ema = run.job.config.ema
        lags_of_run = lags(evaluations_of(run.job))
        found.setdefault((ema.decay, ema.rampup), {}).update({lag.step: lag for lag in lags_of_run})
    return [lag_text(EMAConfig(*ema), (by[step] for step in sorted(by))) for ema, by in found.items() if by]


def _forecasts(runs: Sequence[PlannedRun]) -> list[str]:
    """What is foretold, by which laws; nothing where nothing is."""
    told = [one for run in runs for one in run.forecasts if one.metric == "fid"]
    if not told:
        return []
    names, studies = (
        ", ".join(sorted(set(some))) for some in ((one.name for one in told), (one.study for one in told))
    )
    return [
        f"forecast: {names} of one new run with its 80 % interval, by the law of {studies}, where that was validated "
        "(python -m fcdm.forecast STUDY makes it anew)"
    ]


def _groups(runs: Sequence[PlannedRun]) -> list[PlanRow]:
    groups: dict[tuple[str, int], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.job.config.model.name, run.job.config.resolution), []).append(run)
    return [PlanRow.of_group(*item) for item in enumerate(groups.values(), 1)]


def _runs_table(lines: Sequence[PlanRow]) -> Table:
    table = plain_table("runs")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("run", overflow="fold")
    if any(line.differs for line in lines):
        table.add_column("which", overflow="fold")
    if any(line.branches for line in lines):
        table.add_column("branches\nfrom", overflow="fold")
    table.add_column("budgets:\nsteps", overflow="fold")
    table.add_column("training\nFLOPs", overflow="fold")
    table.add_column("epochs", overflow="fold")
    if any(line.forecast for line in lines):
        table.add_column("forecast\n(80 %)", overflow="fold")
    table.add_column("resources", overflow="fold")
    table.add_column("memory\neach", justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for line in lines:
        cells = [str(line.number), line.name]
        if any(other.differs for other in lines):
            cells.append(line.differs)
        if any(other.branches for other in lines):
            cells.append(line.branches)
        cells += [line.budgets, line.flops, line.epochs]
        if any(other.forecast for other in lines):
            cells.append(line.forecast)
        cells += [line.resources, bytes_text(line.memory_bytes), line.state]
        table.add_row(*cells)
    return table


def _cost_table(
    title: str, lines: Sequence[PlanRow], last: Sequence[tuple[str, Total]], *, flops: bool, hours: bool
) -> Table:
    table = plain_table(title)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("run", overflow="fold")
    units = ["FLOPs"] * flops + ["h"] * hours
    for unit in units:
        for kind in (*KINDS, *(["all"] if unit == "h" else [])):
            heading = f"{kind}\n{unit}" if len(units) > 1 else kind
            table.add_column(heading, justify="right", no_wrap=True)
    if hours:
        table.add_column("wall time", justify="right", no_wrap=True)
        table.add_column("starts", justify="right", no_wrap=True)

    def cells(left: Total) -> list[str]:
        texts = [flops_text(left.cost.flops[kind]) for kind in KINDS] if flops else []
        if hours:
            texts += [_hours_cell(left, kinds) for kinds in (*([kind] for kind in KINDS), KINDS)]
        return texts

    for line in lines:
        table.add_row(str(line.number), line.name, *cells(line.left), *([line.wall, line.starts] if hours else []))
    table.add_section()
    for name, left in last:
        table.add_row("", name, *cells(left), *(["", ""] if hours else []), style="bold")
    return table


def _hours_cell(left: Total, kinds: Sequence[str]) -> str:
    """Where nothing is known of the pace there is work without hours: `?`, and `> x` for a sum with such parts."""
    hours = sum(left.cost.seconds[kind] or 0.0 for kind in kinds) / 3600
    if left.unknown.intersection(kinds):
        return "?" if hours < 0.0005 else f"> {number_text(hours)}"
    return number_text(hours)


def _amounts(runs: Sequence[PlannedRun]) -> dict[str, str]:
    """What the budgets are in other units: FLOPs of training, and epochs; of several runs each amount once."""
    asked = [(run.job.config, step) for run in runs for step in _shown_budgets(run)]
    flops = sorted({train_flops(config, step) for config, step in asked})
    seen = sorted({epochs(config, step) or 0.0 for config, step in asked})
    return {
        "flops": ", ".join(dict.fromkeys(map(flops_text, flops))),
        "epochs": ", ".join(dict.fromkeys(map(three_digits, seen))) if all(seen) else "?",
    }


def _shown_budgets(run: PlannedRun) -> list[int]:
    """Those that are evaluated; of a run that is only trained, all."""
    return budgets_to_evaluate(run.job) or run.job.budgets


def _branch(run: PlannedRun, numbers: Mapping[str, int]) -> str:
    return f"#{numbers[run.parent.job.id]} at {run.start:,}" if run.parent else ""


def _steps(budgets: Iterable[int]) -> str:
    return ", ".join(map("{:,}".format, budgets))


def _resources(request: Resources, evaluation: Resources | None) -> str:
    return str(request) if evaluation is None else f"{request}; evaluated on {evaluation}"


def _most(values: Any) -> Any:
    """The largest, None where one is not known."""
    values = list(values)
    return None if not values or None in values else max(values)


def _both(training: Any, evaluation: Any, apart: Resources | None, text: Callable[[Any], str]) -> str:
    """What training takes, and `+` what its evaluation job takes, where there is one."""
    first = "?" if training is None else text(training)
    if apart is None:
        return first
    return f"{first} + {'?' if evaluation is None else text(evaluation)}"


def amount_text(cost: Cost, unit: str) -> str:
    hours = cost.hours()
    flops = cost.total_flops()
    text = f"{flops_text(flops)}FLOPs" if flops else "0 FLOPs"
    return f"{text}, {number_text(hours)} {unit}" if hours else text


def plain_table(title: str) -> Table:
    """The look of all tables of a plan."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1),
    )


def sharing_table(sharing: Sharing) -> Table:
    table = plain_table("studies, each alone (as if nothing were done yet)")
    on_cpus = sharing.together.cpu_hours != 0
    on_gpus = sharing.together.gpu_hours != 0 or not on_cpus
    table.add_column("study", overflow="fold")
    hours = ["GPU-hours"] * on_gpus + ["hours on\nCPUs"] * on_cpus
    for heading in (
        "runs",
        "evalu-\nations",
        "training\nFLOPs",
        "evaluation\nFLOPs",
        *hours,
        "checkpoints\nof budgets",
    ):
        table.add_column(heading, justify="right", no_wrap=True)

    def row(name: str, amount: Amount, style: str | None = None) -> None:
        cells = [f"{amount.runs:,}", f"{amount.evaluations:,}"]
        cells += [flops_text(amount.training_flops), flops_text(amount.evaluation_flops)]
        cells += [number_text(amount.gpu_hours)] * on_gpus + [number_text(amount.cpu_hours)] * on_cpus
        table.add_row(name, *cells, bytes_text(amount.checkpoint_bytes), style=style)

    for name, amount in sharing.studies.items():
        row(name, amount)
    table.add_section()
    row("sum of each alone", sharing.alone)
    row("together, shared runs once", sharing.together, "bold")
    row("saved by sharing", sharing.saved, "bold")
    return table
