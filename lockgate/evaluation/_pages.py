"""Report pages: one frame and one way to show figures, without scripts or outside assets."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lockgate.durable import open_atomic
from lockgate.evaluation._intervals import Estimate
from lockgate.evaluation.plots import words


def write_page(folder: Path, stem: str, content: Mapping[str, Any], page: str) -> dict[str, Path]:
    """Write `STEM.json` and `STEM.html` into `folder`, which is created if missing.

    Args:
        folder: where the files go.
        stem: file name without its ending.
        content: the JSON document.
        page: the HTML page.

    Returns:
        The two paths, under the keys `html` and `json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"html": folder / f"{stem}.html", "json": folder / f"{stem}.json"}
    document = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    for kind, text in (("json", document), ("html", page)):
        with open_atomic(paths[kind]) as file:
            file.write(text.encode())
    return paths


def page_environment(*packages: str) -> Environment:
    """Create a Jinja environment for the templates of `packages` and the common `base.html`.

    Each of `packages` is a Python package with a folder `templates`. Filters show estimates with their
    intervals, shares in per cent, and names as words.
    """
    loaders = [PackageLoader(package) for package in dict.fromkeys((*packages, "lockgate.evaluation"))]
    environment = Environment(
        loader=ChoiceLoader(loaders),
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


def inline_svg(drawing: str | None) -> Markup | None:
    """Mark a drawing of `lockgate.evaluation.plots` as trusted markup. None stays None."""
    # A drawing holds numbers and scorer names. The drawing library escapes the names.
    return None if drawing is None else Markup(drawing)  # noqa: S704


def _percent(estimate: Estimate | None) -> Markup:
    return _with_interval(estimate, _share)


def _figure(estimate: Estimate | None) -> Markup:
    return _with_interval(estimate, lambda value: f"{value:.3f}")


def _signed(estimate: Estimate | None) -> Markup:
    return _with_interval(estimate, lambda value: f"{value:+.3f}")


def _missed(estimate: Estimate | None) -> Markup:
    """Show one minus a rate, with the interval to match."""
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
