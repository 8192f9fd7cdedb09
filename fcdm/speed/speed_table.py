"""What a benchmark measured, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from fcdm.formatting import bytes_text, duration_text, flops_text, number_text, plural
from fcdm.runs.formats import place_name
from fcdm.speed.training_speed import PHASES

OPERATORS_SHOWN = 6


def print_benchmark(content: Mapping[str, Any], console: Console | None = None) -> None:
    """A device's file (`fcdm.runs.benchmark_files`)."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=200)
    entries = list(content["models"].values())
    console.print(place_name(dict(content)), highlight=False)
    for text in dict.fromkeys(ceilings_text(entry, content["device"] == "cpu") for entry in entries):
        console.print(text, highlight=False, soft_wrap=True)
    console.print(_training(entries))
    if any(entry.get(what) for entry in entries for what in ("sampling", "decoding", "features")):
        console.print(_evaluation(entries))
    for entry in entries:
        for line in _more(entry):
            console.print(line, highlight=False, soft_wrap=True)


def ceilings_text(entry: Mapping[str, Any], on_cpu: bool) -> str:
    ceilings = entry["ceilings"]
    peaks = {name: value for name, value in ceilings["flops_per_s"].items() if not on_cpu or name != "tf32"}
    products = ", ".join(f"{flops_text(value)}FLOP/s in {name}" for name, value in peaks.items())
    copies = bytes_text(ceilings["bytes_per_s"])
    return f"measured ceilings (torch {entry['torch']}): matrix products {products}; copies {copies}/s"


def _training(entries: list[Mapping[str, Any]]) -> Table:
    table = Table(title="training", box=None, pad_edge=False, title_justify="left")
    for heading in ("model", "images", "how", "images/s", *(f"{phase} ms" for phase in PHASES), "FLOP/s", "MFU"):
        table.add_column(heading, justify="left" if heading in ("model", "how") else "right")
    for heading in ("memory", "planned", "limit"):
        table.add_column(heading, justify="left" if heading == "limit" else "right")
    for entry in entries:
        peak = entry["ceilings"]["flops_per_s"][entry["precision"]]
        for number, way in enumerate(entry["training"]):
            how = "compiled" if way["compiled"] else "eager"
            how += ", checkpointing" if way["activation_checkpointing"] else ""
            measured = way["peak_bytes"]
            table.add_row(
                f"{entry['name']} {entry['precision']}" if number == 0 else "",
                str(way["images"]),
                how,
                number_text(way["images_per_s"]),
                *(number_text(1000 * way["phases_s"][phase]) for phase in PHASES),
                flops_text(way["flops_per_s"]),
                f"{way['flops_per_s'] / peak:.2f}",
                bytes_text(measured) if measured is not None else "-",
                bytes_text(way["estimated_bytes"]),
                str(entry.get("limit", "-")) if number == 0 else "",
            )
    return table


def _evaluation(entries: list[Mapping[str, Any]]) -> Table:
    table = Table(title="evaluation", box=None, pad_edge=False, title_justify="left")
    for heading in ("model", "images", "what", "ms a call", "images/s", "FLOP/s", "of peak"):
        table.add_column(heading, justify="left" if heading in ("model", "what") else "right")
    for entry in entries:
        name, peaks = entry["name"], entry["ceilings"]["flops_per_s"]
        for way in entry.get("sampling", []):
            what = f"sampling {way['precision']}" + (", guided" if way["guided"] else "")
            share = f"{way['flops_per_s'] / peaks[way['precision']]:.2f}"
            ms = number_text(1000 * way["seconds_per_call"])
            table.add_row(name, str(way["images"]), what, ms, "", flops_text(way["flops_per_s"]), share)
            name = ""
        for what in ("decoding", "features"):
            if way := entry.get(what):
                speed = number_text(way["images_per_s"])
                table.add_row(name, str(way["images"]), what, "", speed, flops_text(way["flops_per_s"]), "")
                name = ""
    return table


def _more(entry: Mapping[str, Any]) -> list[str]:
    """What does not fit into a table."""
    lines = []
    name = f"{entry['name']} {entry['precision']}"
    if operators := entry.get("operators"):
        slowest = ", ".join(f"{item['name']} {100 * item['share']:.0f} %" for item in operators[:OPERATORS_SHOWN])
        lines.append(f"{name}: slowest operators: {slowest}")
    if entry.get("launches"):
        lines.append(f"{name}: {entry['launches']:,.0f} kernels a step, the GPU busy {100 * entry['busy']:.0f} % of it")
    if expected := entry.get("expected"):
        kinds = sorted(expected["kinds"].items(), key=lambda item: -item[1]["seconds"])
        parts = ", ".join(f"{kind} {1000 * amount['seconds']:.1f} ms" for kind, amount in kinds)
        lines.append(
            f"{name}: expected with every operation on its own: {expected['launches']:,} launches, "
            f"{bytes_text(expected['bytes'])}, {1000 * expected['seconds']:.1f} ms a step ({parts})"
        )
    for how, largest in entry.get("largest_micro_batch", {}).items():
        more = "" if largest["bounded"] else " or more"
        lines.append(f"{name}: largest micro-batch, {how}: {plural(largest['images'], 'image')}{more}")
    lines += [f"{name}: not measured: {text}" for text in entry["left_out"]]
    if "data" in entry:
        lines.append(f"{name}: trained on {entry['data']}")
    return [*lines, f"{name}: measured in {duration_text(entry['seconds'])}"]
