"""The overview: what happens now, against the budget."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page, PageError, newest
from lockgate.dashboard._drift import follow_drift
from lockgate.dashboard._figures import KINDS, by_stage, by_tenant, figures, over_time, text_of
from lockgate.decisions import MOST_READ


class Window(NamedTuple):
    """A choice of time."""

    words: str
    length: timedelta
    slices: int
    slice_words: str
    # Between two looks for news. A longer time costs more and changes less.
    seconds: int


WINDOWS = {
    "hour": Window("last hour", timedelta(hours=1), 60, "a minute", 5),
    "day": Window("last day", timedelta(days=1), 48, "half an hour", 20),
    "week": Window("last week", timedelta(days=7), 56, "three hours", 60),
}


def _overview(call: Call) -> Response:
    return call.page("overview.html", **_values(call))


def _live(call: Call) -> Response:
    return call.page("_live.html", **_values(call))


def _values(call: Call) -> dict[str, Any]:
    name = call.wanted("window") or "hour"
    if name not in WINDOWS:
        raise PageError(400, "No such time", f"Expected one of {', '.join(WINDOWS)}.")
    window = WINDOWS[name]
    end = datetime.fromtimestamp(call.desk.options.clock(), UTC)
    lines, complete = newest(call, text_of(end - window.length), MOST_READ)
    decisions = [line.decision for line in lines]
    calibration = None if call.desk.guard is None else call.desk.guard.calibration
    return {
        "here": "overview",
        "window_name": name,
        "window": window,
        "windows": WINDOWS,
        "kinds": KINDS,
        "found": figures(decisions),
        "stages": by_stage(decisions),
        "tenants": by_tenant(decisions) if call.scope is None else {},
        "buckets": over_time(lines, end, window.length, window.slices),
        "budget": None if calibration is None else calibration.budget,
        "drift": follow_drift(call),
        "new_alerts": call.desk.tenants.new_alerts(call.scope),
        "complete": complete,
        "oldest": lines[-1].at if lines else None,
        "most": MOST_READ,
        "now": text_of(end),
    }


PAGES = (
    Page("/", _overview),
    # It asks every few seconds, so it shows nobody's presence.
    Page("/live", _live, awake=False),
)
