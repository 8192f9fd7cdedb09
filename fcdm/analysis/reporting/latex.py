"""Tables for a paper: LaTeX with booktabs, one `table` environment each, what the numbers depend on in its footnote."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from fcdm.analysis.reporting.cell_tables import Cell, CellTable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\dots{}",
}


def escaped(text: str) -> str:
    """The text as LaTeX prints it: special characters escaped, line breaks and control characters as spaces."""
    plain = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())
    return "".join(_SPECIAL.get(character, character) for character in plain)


def latex_table(table: CellTable) -> str:
    r"""The table as a file to `\input`; needs `\usepackage{booktabs}` only."""
    columns = "".join("l" if at in table.texts else "r" for at in range(len(table.columns)))
    lines = [
        "% Written by python -m analysis.report. Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.caption)}}}",
        rf"  \label{{tab:{re.sub('[^A-Za-z0-9-]', '-', table.name)}}}",
        rf"  \begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"    \toprule",
        f"    {_row(table.columns)}",
        r"    \midrule",
        *(f"    {_row(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if table.notes:
        notes = r" \\ ".join(escaped(note) for note in table.notes)
        lines += ["", rf"  \smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _row(cells: Sequence[Cell]) -> str:
    return " & ".join(_cell(cell) for cell in cells) + r" \\"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    mean, half = (_maths(part) for part in cell.parts())
    if not np.isfinite(cell.mean):
        return "not finite"
    return rf"${mean} \pm {half}$" if half else f"${mean}$"


def _maths(text: str) -> str:
    """`1.2e+09` and `12,345` as maths prints them."""
    power = re.fullmatch(r"(.+)e([+-]\d+)", text)
    return rf"{power[1]} \times 10^{{{int(power[2])}}}" if power else text.replace(",", "{,}")
