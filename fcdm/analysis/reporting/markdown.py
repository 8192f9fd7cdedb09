"""Tables as a page in `docs/` has them."""

from __future__ import annotations

from fcdm.analysis.reporting.cell_tables import CellTable


def markdown_table(table: CellTable) -> str:
    """The table in GitHub's Markdown: its caption before it, its notes after it."""
    rule = ["---" if at in table.texts else "---:" for at in range(len(table.columns))]
    lines = [_row(table.columns), f"|{'|'.join(rule)}|", *(_row(list(map(str, row))) for row in table.rows)]
    return "\n\n".join([f"{table.caption}:", "\n".join(lines), *table.notes])


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
