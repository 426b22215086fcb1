"""The report of a study: one HTML page for people, one JSON file for machines."""

import json
import os
from pathlib import Path

from lockgate.evaluation import inline_svg, page_environment, write_page
from recipes.reproduce_ccpp.study.plots import delay_plot, frontier_plot, mixing_plot
from recipes.reproduce_ccpp.study.result import StudyResult

__all__ = ["render_study", "write_study_report"]


def write_study_report(result: StudyResult, out_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Write `systems.html` and `systems.json` into `out_dir`, which is created if needed. Both hold ids, never text.

    Returns:
        The two paths by their endings.
    """
    return write_page(Path(out_dir), "systems", result.to_dict(), render_study(result))


def render_study(result: StudyResult) -> str:
    """Return the HTML page of a study. It needs no script and no outside asset."""
    plots = {"frontier": frontier_plot(result), "mixing": mixing_plot(result), "delay": delay_plot(result)}
    return (
        page_environment(__package__)
        .get_template("systems.html")
        .render(
            result=result,
            plots={name: inline_svg(plot) for name, plot in plots.items()},
            provenance=json.dumps(dict(result.provenance), indent=2, ensure_ascii=False),
        )
    )
