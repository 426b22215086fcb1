"""Rendering pages, and how they write numbers and times."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_MINUS = "\N{MINUS SIGN}"
_NONE = "\N{EN DASH}"
HERE = Path(__file__).parent


def render(template: str, values: dict[str, Any]) -> str:
    """Fill a template."""
    return _ENVIRONMENT.get_template(template).render(values)


def whole(value: int) -> str:
    """Write a count: 12,345."""
    return f"{value:,}"


def percent(share: float | None) -> str:
    """Write a share: 0.0005 becomes `0.050 %`; small ones keep two digits that count."""
    if share is None:
        return _NONE
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    digits = max(1, 1 - math.floor(math.log10(abs(value)))) if abs(value) < 1 else 1
    return f"{value:.{digits}f} %".replace("-", _MINUS)


def number(value: float | None, digits: int = 2) -> str:
    """Write a score."""
    if value is None or math.isnan(value):
        return _NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Write a difference with its sign."""
    found = number(value, digits)
    return f"+{found}" if value is not None and value > 0 and math.isfinite(value) else found


def milliseconds(value: float | None) -> str:
    """Write a time: 0.8 ms, 320 ms, 4.2 s."""
    if value is None:
        return _NONE
    if value >= 9999.5:
        return f"{value / 1000:.0f} s"
    if value >= 999.5:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 9.95 else f"{value:.1f} ms"


def moment(at: str | float) -> str:
    """Write a time of a record, or seconds since 1970, as `2026-01-31 12:00:00` in UTC."""
    if isinstance(at, str):
        return at[:19].replace("T", " ")
    from datetime import UTC

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def path_part(value: str) -> str:
    """Quote a part of an address."""
    from urllib.parse import quote

    return quote(value, safe="")


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "whole": whole,
    "percent": percent,
    "number": number,
    "signed": signed,
    "ms": milliseconds,
    "moment": moment,
    "part": path_part,
}
