"""Claims (`fcdm.analysis.stats.paper_claims`) as tables of a report: what these runs say, the paper's beside them."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fcdm.analysis.published import published
from fcdm.analysis.reporting.cell_tables import CellTable
from fcdm.analysis.stats.claim_sides import Side
from fcdm.analysis.stats.pair_patterns import PairOfPatterns
from fcdm.analysis.stats.paper_claims import ClaimRow, claims, claims_elsewhere


@dataclass(frozen=True)
class Split:
    """Claims by who can speak of them."""

    ours: tuple[ClaimRow, ...]
    """Of these runs by FID, and those of the paper that these runs speak of."""
    by_other_distances: tuple[ClaimRow, ...]
    paper: tuple[ClaimRow, ...]
    """For which these runs lack the models, and the published numbers in which FCDM is behind."""
    elsewhere: tuple[ClaimRow, ...] = ()
    """In other features, at other sampling steps and at the best guidance: of other protocols than the rest."""

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        others: Mapping[str, pd.DataFrame] | None = None,
        pairs: Sequence[PairOfPatterns] | None = None,
    ) -> Split:
        """`others`: the same runs by other sampling steps or guidance (`other_tables`). Raises UserError: `pairs`."""
        claim_rows = claims(table, published(), pairs)
        distances = tuple(one for one in claim_rows if "|" in one.key and one.key.split("|")[3] != "fid")
        paper = tuple(
            one
            for one in claim_rows
            if "|" not in one.key and (one.kind == "reverse" or one.runs.text.startswith("missing: runs of"))
        )
        ours = tuple(one for one in claim_rows if one not in distances and one not in paper)
        return cls(ours, distances, paper, tuple(claims_elsewhere(others or {}, pairs)))

    def tables(self, protocol: str) -> list[CellTable]:
        """Those that have a row, the first for what these runs say."""
        told = [
            claims_table(self.ours, f"claims-{protocol}", "What these runs say"),
            claims_table(
                self.elsewhere,
                f"claims-elsewhere-{protocol}",
                "In other features, at other sampling steps, and at the best guidance",
            ),
            claims_table(self.by_other_distances, f"claims-other-distances-{protocol}", "The same by other distances"),
            claims_table(
                self.paper, f"claims-paper-{protocol}", "The paper's claims, for which these runs lack models"
            ),
        ]
        return [table for table in told if table.rows]


def findings(ours: Sequence[ClaimRow]) -> list[str]:
    """The headline: how many times fewer steps to equal FID, one line for each pair; images at unequal batch."""
    in_images = {one.key.removesuffix("images") for one in ours if one.key.endswith("|fid|images")}
    sentences = [
        f"{one.claim}: {one.runs.text}"
        for one in ours
        if one.key.endswith("|fid|images")
        or (one.key.endswith("|fid|steps") and one.key.removesuffix("steps") not in in_images)
    ]
    return sentences or ["No step ratio: no FCDM and DiT of the same size (such as N and dit/N-2) are evaluated here."]


def claims_table(claim_rows: Sequence[ClaimRow], name: str, caption: str) -> CellTable:
    """Claim, from published points, from these runs; a letter says in the notes what a number rests on."""
    with_published = any(one.published.rests_on for one in claim_rows)
    letters: dict[str, str] = {}

    def text(side: Side) -> str:
        if not side.rests_on:
            return side.text
        names = string.ascii_lowercase
        letter = letters.setdefault(side.rests_on, names[len(letters) % 26] * (1 + len(letters) // 26))
        return f"{side.text} [{letter}]"

    rows = []
    for one in claim_rows:
        sides = [one.published, one.runs] if with_published else [one.runs]
        rows.append([one.claim, *map(text, sides)])
    columns = ("Claim", *(("From published points",) if with_published else ()), "From these runs")
    notes = tuple(f"[{letter}] {rests_on}." for rests_on, letter in letters.items())
    return CellTable(name, caption, columns, rows, notes, frozenset(range(3)))
