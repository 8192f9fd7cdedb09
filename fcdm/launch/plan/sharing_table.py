"""The table of several studies: each alone, all together, and what sharing runs saves."""

from __future__ import annotations

from rich import box
from rich.table import Table

from fcdm.launch.plan.sharing import Amount, Sharing
from fcdm.launch.plan.words import bytes_text, count_text, flops_text, number_text


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
    for heading in ("runs", "evalu-\nations", "training\nFLOPs", "judging\nFLOPs", *hours, "checkpoints\nof budgets"):
        table.add_column(heading, justify="right", no_wrap=True)

    def row(name: str, amount: Amount, style: str | None = None) -> None:
        cells = [count_text(amount.runs), count_text(amount.evaluations)]
        cells += [flops_text(amount.training_flops), flops_text(amount.judging_flops)]
        cells += [_hours(amount.gpu_hours)] * on_gpus + [_hours(amount.cpu_hours)] * on_cpus
        table.add_row(name, *cells, bytes_text(amount.checkpoint_bytes), style=style)

    for name, amount in sharing.studies.items():
        row(name, amount)
    table.add_section()
    row("sum of each alone", sharing.alone)
    row("together, shared runs once", sharing.together, "bold")
    row("saved by sharing", sharing.saved, "bold")
    return table


def _hours(hours: float | None) -> str:
    return "?" if hours is None else number_text(hours)
