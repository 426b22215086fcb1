"""Plots as inline SVG. Lines and text take the colour of the page, so they suit light and dark pages."""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from lockgate._extras import need
from lockgate.evaluation._result import Breakdown, EvaluationResult, Histogram, ScorerResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "INK",
    "STYLES",
    "histogram_plot",
    "length_plot",
    "mark",
    "new_figure",
    "roc_plot",
    "svg",
    "words",
]

# Readable on white and on near-black.
COLOURS = ("#2f7fd0", "#d9730d", "#2a9d6f", "#a35bd1", "#c2416b", "#8a8f98", "#b08a00", "#4aa3a3")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
# A colour that no plot uses. In the finished drawing it is replaced by the text colour of the page.
INK = "#010203"


def roc_plot(result: EvaluationResult) -> str | None:
    """Draw the ROC curves of all scorers over a logarithmic false-positive axis.

    Returns the SVG, or None without curves.
    """
    drawn = [scorer for scorer in result.scorers if scorer.roc is not None]
    if not drawn:
        return None
    drawing, axes = new_figure(6.4, 4.4)
    for i, scorer in enumerate(drawn):
        if scorer.roc is not None:
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}
            axes.plot(scorer.roc.fpr, scorer.roc.tpr, label=words(scorer.name), linewidth=1.8, **style)
    axes.set_xscale("log")
    axes.set_xlim(1e-4, 1)
    axes.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("false-positive rate (log)")
    axes.set_ylabel("true-positive rate")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    return svg(drawing, "roc", "ROC curves on a logarithmic false-positive axis")


def histogram_plot(scorer: ScorerResult) -> str | None:
    """Draw a scorer's score histogram for each label, with its thresholds. Bars are shares of a label's rows.

    Returns the SVG, or None without a histogram.
    """
    if scorer.histogram is None:
        return None
    drawing, axes = new_figure(6.4, 3.2)
    _bars(axes, scorer.histogram)
    for point in scorer.operating_points:
        if point.threshold is not None and point.fpr is not None:
            mark(axes, point.threshold, f"{100 * point.fpr:g} % FPR")
    axes.set_xlabel("score (logit)")
    axes.set_ylabel("share of the label's rows")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(drawing, f"histogram-{scorer.name}", f"Histogram of {scorer.name} scores by label")


def length_plot(scorer: ScorerResult, point: str) -> str | None:
    """Draw the false-positive rate by length decile at one operating point, with exact intervals.

    Returns the SVG, or None if no decile has a rate.
    """
    parts = [part for part in scorer.fpr_by_length if point in part.rates]
    if not parts:
        return None
    drawing, axes = new_figure(6.4, 3.2)
    rates = [part.rates[point] for part in parts]
    values = [100 * rate.value for rate in rates]
    below = [100 * (rate.value - (rate.lower or 0.0)) for rate in rates]
    above = [100 * ((rate.upper if rate.upper is not None else rate.value) - rate.value) for rate in rates]
    axes.errorbar(
        range(len(parts)), values, yerr=[below, above], fmt="o", color=COLOURS[0], capsize=3, linewidth=1.4
    )
    axes.set_xticks(range(len(parts)), _length_labels(parts), rotation=35, ha="right", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("length (tokens), by decile")
    axes.set_ylabel("benign rows flagged (%)")
    return svg(drawing, f"length-{point}", f"False-positive rate by length decile at {point}")


def _bars(axes: Any, histogram: Histogram) -> None:  # noqa: ANN401
    for counts, name, colour in (
        (histogram.benign, "benign", COLOURS[0]),
        (histogram.harmful, "harmful", COLOURS[1]),
    ):
        total = sum(counts)
        if total:
            shares = [count / total for count in counts]
            axes.stairs(
                shares, histogram.edges, fill=True, alpha=0.45, color=colour, label=f"{name} ({total})"
            )


def _length_labels(parts: Sequence[Breakdown]) -> list[str]:
    return [part.key.replace("-", "–") for part in parts]


def new_figure(width: float, height: float) -> tuple["Figure", Any]:
    """Create a figure of `width` by `height` inches with one pair of axes, in the colours of the page."""
    figure = need("matplotlib.figure", extra="report", feature="a report with plots").Figure(
        figsize=(width, height), layout="constrained"
    )
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, which="both", labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for name, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(name in ("left", "bottom"))
    axes.grid(True, color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: "Figure", key: str, title: str) -> str:
    """Turn a figure into inline SVG. The same figure always gives the same text.

    Args:
        figure: what to draw.
        key: differs between the drawings of one page; their ids are made from it.
        title: the drawing in words, for screen readers.
    """
    buffer = io.StringIO()
    # With this salt, ids differ between the drawings of a page and are the same in every run.
    with need("matplotlib", extra="report", feature="a report with plots").rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": key, "font.family": "sans-serif"}
    ):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"font-family: [^;\"]*", "font-family: inherit", drawing)
    # Each drawing repeats group ids such as figure_1, but a page may hold an id only once. Nothing uses them.
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    label = f'role="img" aria-label="{escape(title, quote=True)}"'
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', label, drawing, count=1)


def mark(
    axes: Any,  # noqa: ANN401 - the drawing library has no types
    place: float,
    label: str,
    linestyle: str = ":",
    linewidth: float = 1.0,
) -> None:
    """Draw a vertical line at a threshold, with its name beside it."""
    axes.axvline(place, color=INK, linewidth=linewidth, linestyle=linestyle)
    axes.annotate(
        label,
        (place, 1.0),
        xycoords=("data", "axes fraction"),
        fontsize=8,
        color=INK,
        rotation=90,
        va="top",
        ha="right",
    )


def words(name: str) -> str:
    """Turn a name such as `prompt_alone` into words for a plot or a page."""
    # The drawing library reads text between dollar signs as mathematics.
    return name.replace("_", " ").replace("$", r"\$")
