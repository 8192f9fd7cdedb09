"""Published points beside one's own: always hollow, said whose they are, and only where the task is the same."""

from __future__ import annotations

import pandas as pd

from fcdm.analysis.published import published

LEGEND = "published"
UNDISCLOSED = "published: protocol undisclosed"
"""Of throughputs."""
IMAGENET = "imagenet"


def published_beside(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The published points on the data and at the resolutions of `table`, and lines that say which are left out."""
    points = published()
    if set(table["data"]) != {IMAGENET}:
        here = " and ".join(sorted(set(table["data"])))
        return points[:0], [f"left out: all {len(points)} published points: they are of ImageNet, these runs of {here}"]
    resolutions = sorted(set(table["resolution"]))
    same = points["resolution"].isin(resolutions)
    left_out = []
    if not same.all():
        here = " and ".join(f"{side} px" for side in resolutions)
        left_out.append(f"left out: {int((~same).sum())} published points at other resolutions than {here}")
    return points[same].reset_index(drop=True), left_out


def unguided(points: pd.DataFrame, left_out: list[str]) -> pd.DataFrame:
    """Those without guidance; adds to `left_out` how many are left out."""
    plain = points["guidance_scale"] == 1
    if not plain.all():
        left_out.append(f"left out: {int((~plain).sum())} published points with guidance, or of unknown scale")
    return points[plain]


def named_as(points: pd.DataFrame, names: set[str], left_out: list[str]) -> pd.DataFrame:
    """Those of these models; adds to `left_out` which models are left out."""
    same = points["model"].isin(names)
    if not same.all():
        others = ", ".join(sorted(set(points.loc[~same, "model"])))
        left_out.append(f"left out: published points of models that these runs do not have ({others})")
    return points[same]
