"""The figures of one protocol as they stand in a report: inlined, with a caption that says what is left out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fcdm.analysis.data.labels import distance_of
from fcdm.analysis.figures.axes import FID, Drawn, fid_label, file_name
from fcdm.analysis.figures.guidance_tradeoff import guidance_figure
from fcdm.analysis.figures.recipes import law_recipes, recipes
from fcdm.analysis.figures.styles import STYLE
from fcdm.analysis.reporting.html import HTML, data_uri, element
from fcdm.analysis.stats.metric_laws import MetricLaws
from fcdm.analysis.stats.model_pairs import comparisons
from fcdm.analysis.stats.pair_patterns import PairOfPatterns
from fcdm.forecasts.score_forecasts import ScoredForecast

TEXTS = {
    "fid_vs_steps": (
        "FID against training steps",
        "A line per model and setting: the mean over seeds, the band from the best to the worst of them. Both axes are "
        "logarithmic.",
    ),
    "fid_vs_training_flops": (
        "FID against training FLOPs",
        "The same points against the FLOPs of training (three forward passes a step, 2 FLOPs a multiply-accumulate).",
    ),
    "fid_vs_images": (
        "FID against training images",
        "The same points against steps times batch size, for the batches are not of one size.",
    ),
    "fid_vs_device_hours": (
        "FID against device-hours",
        "The same points against the time that training took, times devices, all of one kind.",
    ),
    "fid_vs_forward_gmacs": (
        "FID against the forward pass",
        "The best setting of each model at each budget; above them Pearson's correlation of the logarithms.",
    ),
    "fid_vs_parameters": ("FID against parameters", "The same points against the size of the model."),
    "fid_vs_sampling_flops": (
        "FID against sampling FLOPs",
        "The same points against what one sample costs: the forward pass times sampling steps, twice with guidance.",
    ),
    "fid_vs_heldout_loss": (
        "FID against held-out loss",
        "Every budget of every model, means over seeds; the legend has Spearman's rank correlation of each family.",
    ),
    "throughput": ("Training throughput", "Median images per second of each model while it was trained."),
    "frontier": ("The compute frontier", "The lowest FID at each training compute, over all models of a family."),
    "ablation": ("Ablations", "What one change to the model does to FID."),
    "spaces": (
        "The same samples in other features",
        "A panel for each space of features: a ranking that is another in another space depends on who looks.",
    ),
    "samples": (
        "Samples along the budgets",
        "The first ten samples of each model's lowest seed: the same noise and classes in all pictures, not chosen.",
    ),
}
"""Name of a figure -> (title, what is drawn)."""
LAW_TEXTS = {
    "contours": (
        "{name} over size and data, by the joint law",
        "Lines of equal {name}; the line across them is the size that each compute is best spent on.",
    ),
    "iso_flop": (
        "{name} of each size at equal compute",
        "Curves are the joint law's, never parabolas through points; stars are its minima.",
    ),
    "optimum": ("The best size and number of images for a compute", "By the joint law of {name}; bands are 95 %."),
    "law_residuals": (
        "What the joint law of {name} misses",
        "Neighbours of one colour say that another form is true.",
    ),
    "predicted": (
        "Predicted against measured {name}",
        "Crosses were held out of the fit; large points are the ledger's, each written before it was measured.",
    ),
    "calibration": (
        "How often intervals held",
        "The share of trajectories inside the stated interval, with the exact 95 % interval of that share; below, "
        "where measured values fell in the distributions that foretold them.",
    ),
}
"""Ending of a figure of joint laws and forecasts -> (title, what is drawn)."""
LEFT_OUT = ("left out: ", "left out, ")
"""One of these begins a line about what a figure does not show; other lines are caveats about what it shows."""
PIXELS = ("samples",)
"""Figures that are pictures: PNG, not SVG."""


def figures(
    table: pd.DataFrame,
    pairs: Sequence[PairOfPatterns] | None = None,
    beside: Mapping[str, pd.DataFrame] | None = None,
) -> list[HTML]:
    """Each figure with its caption, or a line that says why it is not drawn. `beside`: as of `recipes`."""
    protocol = str(table["protocol_id"].iloc[0])
    made = []
    compared = None if pairs is None else comparisons(table, pairs)
    for name, (make, reason) in recipes(table, pairs=compared, beside=beside).items():
        if name not in TEXTS:
            continue
        with mpl.rc_context(), plt.style.context(STYLE):
            drawn = make()
            if drawn is not None:
                anchor = f"{file_name(name, distance_of(table))}-{protocol}"
                made.append(_figure(anchor, *_texts(name, table), drawn, _alt(name, table, drawn[1])))
            elif reason:
                made.append(element("p", f"{_texts(name, table)[0]}: not drawn, for {reason}.", class_="absent"))
    return made


def law_figures(laws: Sequence[MetricLaws], scored: Sequence[ScoredForecast] = ()) -> list[HTML]:
    """Those of joint laws and forecasts. What the laws' own lines say already is not said again below each."""
    said = {line for one in laws for line in one.lines()}
    made = []
    for figure_name, make in law_recipes(laws, scored).items():
        of = next((one for one in laws if figure_name.startswith(f"{one.metric}_")), None)
        ending = figure_name.removeprefix(f"{of.metric}_" if of else "forecast_")
        title, caption = (text.format(name=of.name if of else "") for text in LAW_TEXTS[ending])
        title = title[:1].upper() + title[1:]
        with mpl.rc_context(), plt.style.context(STYLE):
            drawn = make()
            if drawn is None:
                continue
            figure, numbers = drawn
            numbers.attrs["left_out"] = [line for line in numbers.attrs["left_out"] if line not in said]
            named = dict.fromkeys(numbers["label" if "label" in numbers else "kind"])
            anchor = file_name(figure_name, distance_of(of.table) if of else FID)
            made.append(_figure(anchor, title, caption, (figure, numbers), f"{title}: {', '.join(map(str, named))}"))
    return made


def _texts(name: str, table: pd.DataFrame) -> tuple[str, str]:
    """Title and caption, of the distance that the table has."""
    title, caption = (text.replace("FID", distance_of(table)) for text in TEXTS[name])
    return title, caption


def guidance(table: pd.DataFrame) -> HTML | None:
    """What guidance trades, over protocols that differ in nothing but its scale; None where there is none."""
    if table.empty:
        return None
    with mpl.rc_context(), plt.style.context(STYLE):
        drawn = guidance_figure(table)
        if drawn is None:
            return None
        caption = (
            "Each point is one checkpoint evaluated by one protocol; the protocols of a line differ in the scale only."
        )
        scales = ", ".join(f"{scale:g}" for scale in sorted(set(table["guidance_scale"])))
        models = ", ".join(sorted(set(table["label"])))
        alt = f"{distance_of(table)} and what goes with it at guidance scales {scales}, for {models}"
        return _figure("guidance", "What guidance trades", caption, drawn, alt)


def _figure(name: str, title: str, caption: str, drawn: Drawn, alt: str) -> HTML:
    figure, numbers = drawn
    pixels = name.split("-")[0] in PIXELS
    wide = pixels or figure.get_figwidth() > 4
    picture, width = inlined(figure, "png" if pixels else "svg")
    plt.close(figure)
    image = element("img", src=picture, alt=alt, style=f"width: {width:.1f}rem")
    sentences = [caption, *_remarks(numbers.attrs.get("left_out", []))]
    text = element("figcaption", element("strong", f"{title}. "), " ".join(sentences))
    return element("figure", image, text, id=name, class_="whole" if wide else None)


def _remarks(lines: Sequence[str]) -> list[str]:
    """What a figure does not show as one sentence, and each caveat about what it does show as one of its own."""
    absent = [line[len(LEFT_OUT[0]) :] for line in lines if line.startswith(LEFT_OUT)]
    caveats = [line[:1].upper() + line[1:].rstrip(".") for line in lines if not line.startswith(LEFT_OUT)]
    return [f"{text}." for text in (*([f"Not drawn: {'; '.join(absent)}"] if absent else []), *caveats)]


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


def _alt(name: str, table: pd.DataFrame, numbers: pd.DataFrame) -> str:
    """What is seen, for who does not see it; the numbers themselves stand in the table."""
    title = TEXTS[name][0].replace("FID", distance_of(table), 1)
    labels = set(numbers["label"]) & set(table["label"]) if "label" in numbers else set(table["label"])
    if name == "samples":
        return f"Sample images of {', '.join(sorted(labels))} at {len(set(numbers['steps']))} budgets"
    if name == "throughput":
        speeds = [f"{row['name']}: {row['images_per_s']:,.0f} images/s" for row in numbers.to_dict("records")]
        return f"{title}. {'; '.join(speeds)}"
    parts = []
    for label, points in table[table["label"].isin(labels)].groupby("label"):
        curve = points.groupby("steps")["fid"].mean()
        first, last = curve.index[0], curve.index[-1]
        span = f"{curve[first]:.3g} at {first:,} steps"
        parts.append(f"{label}: {span}" + (f" to {curve[last]:.3g} at {last:,}" if last != first else ""))
    return f"{title}, {fid_label(table)}. {'; '.join(parts)}"
