"""Parts of pages in `docs/` that a command writes, each between two marks, so that no number of a result is by hand."""

from __future__ import annotations

from fcdm.errors import UserError

COMMAND = "python tools/result_pages.py"


def marks(part: str) -> tuple[str, str]:
    """The lines around a part of a page."""
    begin, end = (f"<!-- {part}, written by {COMMAND}: {place} -->" for place in ("begin", "end"))
    return begin, end


def renewed(page: str, part: str, made: str) -> str:
    """The page with this part of it replaced by `made`. Raises UserError where its marks are not there."""
    begin, end = marks(part)
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise UserError(f"the page lacks its marks, '{begin}' and '{end}': put them around what is written there")
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"
