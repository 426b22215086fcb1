"""Evaluation reports: an HTML page for people and a JSON file for programs."""

import json
import os
from pathlib import Path

from lockgate._extras import need
from lockgate.evaluation._pages import inline_svg, page_environment, write_page
from lockgate.evaluation._result import EvaluationResult
from lockgate.evaluation.plots import histogram_plot, length_plot, roc_plot


def check_report() -> None:
    """Check that a report can be written. Call it before hours of scoring, not after.

    Raises:
        MissingExtra: a library for its figures or plots is not installed.
    """
    for module in ("scipy.special", "matplotlib.figure"):
        need(module, extra="report", feature="the report of an evaluation")


def write_report(result: EvaluationResult, out_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Write `report.html` and `report.json` into `out_dir`, which is created if missing.

    Both files hold ids of exchanges, never their text.

    Returns:
        The two paths, under the keys `html` and `json`.
    """
    return write_page(Path(out_dir), "report", result.to_dict(), render_report(result))


def render_report(result: EvaluationResult) -> str:
    """Render the result as one HTML page without scripts or outside assets."""
    deciding = result.scorers[0]
    points = [point.name for point in deciding.operating_points]
    lengths = {point: length_plot(deciding, point) for point in points}
    return (
        page_environment()
        .get_template("report.html")
        .render(
            result=result,
            deciding=deciding,
            points=points,
            plots={
                "roc": inline_svg(roc_plot(result)),
                "histogram": inline_svg(histogram_plot(deciding)),
                "lengths": {point: inline_svg(plot) for point, plot in lengths.items() if plot is not None},
            },
            provenance=json.dumps(dict(result.provenance), indent=2, ensure_ascii=False),
        )
    )
