"""Parts of docs/ that hold fitted numbers: written anew they are the page's, as far as CPUs agree."""

from __future__ import annotations

import re

import numpy as np

from fcdm.analysis.reporting.written_part import marks
from tests.support.commands import ROOT
from tools.result_pages import PAGES

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*\.?\d*(?:e[+-]\d+)?")


def written_and_made(page: str, part: str) -> tuple[str, str]:
    """What stands in docs/PAGE.md, and what the results say now.

    numpy's last bits differ with the CPU, so that fitted numbers may differ in their last digit; words may not.
    """
    begin, end = marks(part)
    written = (ROOT / "docs" / f"{page}.md").read_text().partition(begin)[2].partition(end)[0].strip()
    made = PAGES[page][part]().strip()
    assert NUMBER.sub("#", made).split() == NUMBER.sub("#", written).split()
    values = [np.array([float(one.replace(",", "")) for one in NUMBER.findall(text)]) for text in (made, written)]
    close = np.isclose(*values, rtol=0.1, atol=0.05)
    assert close.mean() > 0.97, "draws near an end of what a law allows move most"
    return written, made
