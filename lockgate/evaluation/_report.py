"""report.html and report.json: one page to read or print, one file for machines."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lockgate.evaluation._intervals import Estimate
from lockgate.evaluation._plots import histogram_plot, length_plot, roc_plot
from lockgate.evaluation._result import EvaluationResult
from lockgate.exchanges import open_atomic


def write_report(result: EvaluationResult, out_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Write `report.html` and `report.json` into `out_dir`, made if missing; both hold ids, never text.

    Returns the two paths by their endings.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"html": folder / "report.html", "json": folder / "report.json"}
    document = json.dumps(result.to_dict(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    with open_atomic(paths["json"]) as file:
        file.write(document.encode())
    with open_atomic(paths["html"]) as file:
        file.write(render_report(result).encode())
    return paths


def render_report(result: EvaluationResult) -> str:
    """The HTML page: no script, no outside asset."""
    deciding = result.scorers[0]
    points = [point.name for point in deciding.operating_points]
    lengths = {point: length_plot(deciding, point) for point in points}
    return (
        _environment()
        .get_template("report.html")
        .render(
            result=result,
            deciding=deciding,
            points=points,
            plots={
                "roc": _safe(roc_plot(result)),
                "histogram": _safe(histogram_plot(deciding)),
                "lengths": {point: _safe(plot) for point, plot in lengths.items() if plot is not None},
            },
            provenance=json.dumps(dict(result.provenance), indent=2, ensure_ascii=False),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lockgate.evaluation"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, figure=_figure, words=_words, point=_point, signed=_signed)
    return environment


def _safe(drawing: str | None) -> Markup | None:
    # Drawn here from numbers; the only foreign words in it are scorer names, and the drawing library escapes.
    return None if drawing is None else Markup(drawing)  # noqa: S704


def _percent(estimate: Estimate | None) -> Markup:
    return _with_interval(estimate, _share)


def _figure(estimate: Estimate | None) -> Markup:
    return _with_interval(estimate, lambda value: f"{value:.3f}")


def _signed(estimate: Estimate | None) -> Markup:
    return _with_interval(estimate, lambda value: f"{value:+.3f}")


def _with_interval(estimate: Estimate | None, show: Any) -> Markup:  # noqa: ANN401
    if estimate is None:
        return Markup("–")
    text = Markup("<b>{}</b>").format(show(estimate.value))
    if estimate.lower is None or estimate.upper is None:
        return text
    return text + Markup(" <small>{} to {}</small>").format(show(estimate.lower), show(estimate.upper))


def _share(value: float) -> str:
    shown = 100 * value
    return f"{shown:.1f} %" if shown >= 10 or shown == 0 else f"{shown:.2g} %"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _point(name: str) -> str:
    return "guard's own" if name == "guard" else f"{100 * float(name):g} %"
