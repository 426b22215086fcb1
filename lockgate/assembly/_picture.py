"""The picture of a build's report: scores against the cut, and recall along the refusal budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lockgate.assembly._measure import answered, without_refusals
from lockgate.assembly._threshold import cut_of
from lockgate.calibration import budget_table
from lockgate.evaluation import BudgetPoint, inline_svg, recall_plot, score_lines_plot
from lockgate.guards import Guard
from lockgate.tables import ScoresTable


@dataclass(frozen=True, slots=True)
class Picture:
    """Drawings for the page, and what they show.

    Attributes:
        scores: the score lines; None if nothing was scored.
        recall: the recall by budget; None without traffic or without harmful rows.
        points: the recall by budget, for the JSON file.
    """

    scores: Markup | None
    recall: Markup | None
    points: list[dict[str, Any]]


def draw_picture(guard: Guard, tables: Mapping[str, ScoresTable]) -> Picture:
    """Draw where traffic, harmless and harmful held-out rows lie, and how recall moves along the budget.

    Args:
        guard: the guard with its threshold.
        tables: scores of the parts `held_out`, `calibration` and `provisional`, without reviewed harmful rows
            in `calibration`.
    """
    held_out = without_refusals(tables["held_out"])
    held_out = held_out.select(answered(held_out))
    harmful = held_out.labels >= 0.5
    scores = held_out.floats("mixed_max")
    found = guard.calibration
    setting = tables["calibration"] if found is not None else _harmless(tables["provisional"])
    name = "your traffic" if found is not None else "harmless, sets the threshold"
    # In this order the labels have the colours that they have in other plots.
    parts = {
        "harmless, held out": scores[~harmful],
        "harmful, held out": scores[harmful],
        name: setting.floats("mixed_max"),
    }
    cut = cut_of(guard)
    label = "provisional" if found is None else f"budget {100 * found.budget:g} %"
    points = [] if found is None else _points(tables["calibration"], scores[harmful])
    drawn = recall_plot(points, None if found is None else found.budget)
    # What the second stage was never asked about has no score to draw.
    drawn_parts = {name: own[np.isfinite(own)] for name, own in parts.items()}
    lines = score_lines_plot(drawn_parts, cut, label)
    return Picture(inline_svg(lines), inline_svg(drawn), [point._asdict() for point in points])


def _harmless(table: ScoresTable) -> ScoresTable:
    ordinary = without_refusals(table)
    return ordinary.select(~(ordinary.labels >= 0.5))


def _points(traffic: ScoresTable, harmful: NDArray[np.float64]) -> list[BudgetPoint]:
    """Return the recall at the cut of each budget that the traffic supports."""
    if not len(harmful):
        return []
    scores = traffic.floats("mixed_max")
    table = budget_table(scores, groups=traffic.groups, unjudged=bool(np.isneginf(scores).any()))
    return [
        BudgetPoint(row.budget, row.cut, float((harmful > row.cut).mean()))
        for row in table
        if row.cut is not None
    ]
