"""Plots of a threshold: where the scores lie against the cut, and how recall moves along the budget."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lockgate.evaluation.plots import COLOURS, INK, STYLES, mark, new_figure, svg, words

_BINS = 40


class BudgetPoint(NamedTuple):
    """The recall of labelled harmful rows at the cut of one refusal budget."""

    budget: float
    cut: float
    recall: float


def score_lines_plot(parts: Mapping[str, ArrayLike], cut: float, label: str) -> str | None:
    """Draw the histogram of each part's scores as a line, with the cut. Heights are shares of a part's rows.

    Args:
        parts: scores of each part by its name. Minus infinity is left out.
        cut: the score above which rows are flagged.
        label: what the cut stands for, such as "budget 0.05 %".

    Returns:
        The SVG, or None if no part has a score.
    """
    found = {name: np.asarray(scores, dtype=np.float64) for name, scores in parts.items()}
    found = {name: scores[np.isfinite(scores)] for name, scores in found.items()}
    found = {name: scores for name, scores in found.items() if len(scores)}
    if not found:
        return None
    every = np.concatenate([*found.values(), [cut]])
    edges = np.linspace(every.min(), every.max() + 1e-9, _BINS + 1)
    drawing, axes = new_figure(6.4, 3.4)
    told = []
    for place, (name, scores) in enumerate(found.items()):
        counts, _ = np.histogram(scores, edges)
        style: dict[str, Any] = {"color": COLOURS[place], "linestyle": STYLES[place], "linewidth": 1.8}
        axes.stairs(counts / len(scores), edges, label=f"{words(name)} ({len(scores)})", **style)
        told.append(f"{name}, {len(scores)} rows, {(scores > cut).mean():.1%} above")
    mark(axes, cut, words(label), linestyle="-", linewidth=1.2)
    # Room for the words at the cut, above the lines.
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    axes.set_xlabel("score (logit)")
    axes.set_ylabel("share of the rows")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(drawing, "score-lines", f"Scores against the cut at {cut:.2f}, {label}: {'; '.join(told)}")


def recall_plot(points: Sequence[BudgetPoint], own: float | None) -> str | None:
    """Draw the recall at the cut of each refusal budget, over a logarithmic axis of budgets.

    Args:
        points: recall by budget, the budgets in ascending order.
        own: the budget that is claimed; it is marked.

    Returns:
        The SVG, or None without points.
    """
    if not points:
        return None
    drawing, axes = new_figure(6.4, 3.0)
    budgets = [point.budget for point in points]
    axes.plot(budgets, [100 * point.recall for point in points], color=COLOURS[1], marker="o", linewidth=1.8)
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{100 * budget:g} %" for budget in budgets], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 101)
    if own is not None:
        mark(axes, own, "claimed")
    axes.set_xlabel("refusal budget (log)")
    axes.set_ylabel("harmful rows flagged (%)")
    told = ", ".join(f"{point.recall:.1%} at {100 * point.budget:g} %" for point in points)
    return svg(drawing, "recall-by-budget", f"Harmful rows flagged, by refusal budget: {told}")
