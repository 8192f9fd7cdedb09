"""The figures of one protocol as they stand in a report: inlined, with a caption that says what is left out."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import fid_against, fid_against_gmacs, fid_label
from analysis.html import HTML, data_uri, element
from analysis.samples import sample_grid

STYLE = Path(__file__).with_name("fcdm.mplstyle")
Drawn = tuple[Figure, pd.DataFrame] | None


@dataclass(frozen=True)
class Kind:
    """A figure that a report shows where it can be drawn."""

    name: str
    title: str
    draw: Callable[[pd.DataFrame], Drawn]
    caption: str
    otherwise: str
    """Why there is none, where there is none."""
    picture: str = "svg"


KINDS = (
    Kind(
        "fid-steps",
        "FID against training steps",
        lambda table: fid_against(table, "steps"),
        "A line per model and setting: the mean over seeds, the band from the best to the worst of them. Both axes are "
        "logarithmic.",
        "no run has a finite FID",
    ),
    Kind(
        "fid-flops",
        "FID against training FLOPs",
        lambda table: fid_against(table, "train_pflops"),
        "The same points against the FLOPs of training (three forward passes a step, 2 FLOPs a multiply-accumulate).",
        "no run with a finite FID says what it costs",
    ),
    Kind(
        "fid-gmacs",
        "FID against the size of the model",
        fid_against_gmacs,
        "The best setting of each model at each budget.",
        "no run with a finite FID says what it costs",
    ),
    Kind(
        "samples",
        "Samples along the budgets",
        sample_grid,
        "The first ten samples of each model's lowest seed: the same noise and classes in all pictures, not chosen.",
        "there are no pictures of samples beside the evaluations",
        "png",
    ),
)


def figures(table: pd.DataFrame, left_out: tuple[str, ...]) -> list[HTML]:
    """Each figure with its caption, or a line that says why it is not drawn."""
    made = []
    for kind in KINDS:
        with mpl.rc_context(), plt.style.context(STYLE):
            drawn = kind.draw(table)
            if drawn is None:
                made.append(element("p", f"{kind.title}: not drawn, for {kind.otherwise}.", class_="absent"))
                continue
            figure, numbers = drawn
            picture, width = inlined(figure, kind.picture)
            plt.close(figure)
        image = element("img", src=picture, alt=alt_text(kind, table, numbers), style=f"width: {width:.1f}rem")
        told = [kind.caption]
        if left_out and kind.name != "samples":
            told.append(f"Not drawn: {'; '.join(left_out)}.".replace("left out: ", ""))
        caption = element("figcaption", element("strong", f"{kind.title}. "), " ".join(told))
        name = f"{kind.name}-{table['protocol_id'].iloc[0]}"
        made.append(element("figure", image, caption, id=name, class_="whole" if kind.picture == "png" else None))
    return made


def inlined(figure: Figure, kind: str) -> tuple[str, float]:
    """(data URI, width on the page in rem): SVG with its letters as paths, since a page brings no fonts."""
    buffer = io.BytesIO()
    width = figure.get_figwidth()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "fcdm"}):
        if kind == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=200)
    return data_uri(buffer.getvalue(), "image/svg+xml" if kind == "svg" else "image/png"), width * 8.5


def alt_text(kind: Kind, table: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """What is seen, for who does not see it; the numbers themselves stand in the table."""
    if kind.name == "samples":
        models = ", ".join(dict.fromkeys(numbers["label"]))
        return f"Sample images of {models} at {len(set(numbers['steps']))} budgets"
    parts = []
    for label, points in table[table["label"].isin(set(numbers["label"]))].groupby("label"):
        curve = points.groupby("steps")["fid"].mean()
        first, last = curve.index[0], curve.index[-1]
        span = f"{curve[first]:.3g} at {first:,} steps"
        parts.append(f"{label}: {span}" + (f" to {curve[last]:.3g} at {last:,}" if last != first else ""))
    return f"{kind.title}, {fid_label(table)}. {'; '.join(parts)}"
