"""Many rows on one screen: how many of which model and resolution are in which state, and those that need a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fcdm.formatting import duration_text
from fcdm.jobstatus.rows import DONE, EVALUATING, FAILED, RUNNING, STATES, WAITING, StatusRow
from fcdm.runs.run_paths import run_facts

LONG = 40
"""A table of more rows is grouped."""
_INTEREST = (FAILED, RUNNING, EVALUATING, WAITING)
RANK = {state: at for at, state in enumerate((*_INTEREST, *(s for s in STATES if s not in _INTEREST)))}
"""What needs a look comes first."""


def worst_first(rows: Sequence[StatusRow]) -> list[StatusRow]:
    return sorted(rows, key=lambda row: RANK[row.state])


def group_cells(rows: Sequence[StatusRow], runs_dir: Path) -> list[list[str]]:
    """`N`, `digits 8px`, `failed`, `12`, why: the cells of each group, below those of the titles."""
    groups: dict[tuple[str, str, str], list[StatusRow]] = {}
    for row in worst_first(rows):
        groups.setdefault((*kind_of(runs_dir / row.run), row.state), []).append(row)
    lines = [["model", "data", "state", "rows", ""]]
    for (model, data, state), mine in groups.items():
        lines.append([model, data, state, str(len(mine)), _in_common(mine)])
    return lines


def kind_of(folder: Path) -> tuple[str, str]:
    """(`dit/N-2`, `digits 8px`) of a run; its name where its folder does not say."""
    facts = _facts(folder)
    if "model" not in facts:
        _facts.cache_clear()  # it may be made in a moment
        return folder.name.rpartition("-")[0] or folder.name, ""
    return str(facts["model"]), f"{facts.get('data', '')} {facts.get('resolution', '')}px".strip()


@cache
def _facts(folder: Path) -> dict[str, object]:
    return run_facts(folder)


def _in_common(rows: Sequence[StatusRow]) -> str:
    """What most of them say, or when the last of them is trained."""
    if rows[0].state == DONE:
        return ""
    ends = [row.eta for row in rows if row.eta is not None]
    if ends:
        return f"the last in {duration_text(max(ends))}" if len(ends) == len(rows) else ""
    texts = Counter(row.text for row in rows if row.text).most_common()
    if not texts:
        return ""
    text, count = texts[0]
    return text if count == len(rows) else f"{count}x {text}"
