"""Reports: one page to read or print, one file for machines."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lockgate.evaluation._intervals import Estimate
from lockgate.evaluation._plots import histogram_plot, length_plot, roc_plot, words
from lockgate.evaluation._result import EvaluationResult
from lockgate.evaluation._study_plots import delay_plot, frontier_plot, mixing_plot
from lockgate.evaluation._study_result import StudyResult
from lockgate.exchanges import open_atomic


def write_report(result: EvaluationResult, out_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Write `report.html` and `report.json` into `out_dir`, made if missing; both hold ids, never text.

    Returns the two paths by their endings.
    """
    return _write(Path(out_dir), "report", result.to_dict(), render_report(result))


def write_study_report(result: StudyResult, out_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Write `systems.html` and `systems.json` into `out_dir`, made if missing; both hold ids, never text.

    Returns the two paths by their endings.
    """
    return _write(Path(out_dir), "systems", result.to_dict(), render_study(result))


def render_study(result: StudyResult) -> str:
    """The HTML page of a study: no script, no outside asset."""
    plots = {"frontier": frontier_plot(result), "mixing": mixing_plot(result), "delay": delay_plot(result)}
    return (
        _environment()
        .get_template("systems.html")
        .render(
            result=result,
            plots={name: _safe(plot) for name, plot in plots.items()},
            provenance=json.dumps(dict(result.provenance), indent=2, ensure_ascii=False),
        )
    )


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


def _write(folder: Path, stem: str, content: dict[str, Any], page: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"html": folder / f"{stem}.html", "json": folder / f"{stem}.json"}
    document = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    for kind, text in (("json", document), ("html", page)):
        with open_atomic(paths[kind]) as file:
            file.write(text.encode())
    return paths


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lockgate.evaluation"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        figure=_figure,
        words=words,
        point=_point,
        signed=_signed,
        missed=_missed,
        share=_share,
        compute=_compute,
    )
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


def _missed(estimate: Estimate | None) -> Markup:
    """One minus a rate, and its interval turned round."""
    if estimate is None or estimate.lower is None or estimate.upper is None:
        return _percent(estimate and replace(estimate, value=1 - estimate.value))
    return _percent(
        replace(estimate, value=1 - estimate.value, lower=1 - estimate.upper, upper=1 - estimate.lower)
    )


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


def _point(name: str) -> str:
    return "guard's own" if name == "guard" else f"{100 * float(name):g} %"


def _compute(percent: float | None) -> str:
    return "–" if percent is None else f"{percent:.1f} %" if percent >= 10 else f"{percent:.2g} %"
