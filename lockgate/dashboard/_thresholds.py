"""The page of scores: their histogram, drift, and what another threshold would have done."""

import math
from typing import Any

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Choice, Page, PageError, newest
from lockgate.dashboard._drift import FALSE_ALARMS, follow_drift
from lockgate.dashboard._guard import ServedGuard
from lockgate.dashboard._scores import (
    PSI_ALARM,
    PSI_WATCH,
    Recorded,
    at_threshold,
    histogram,
    recorded,
    stability,
)
from lockgate.decisions import MOST_READ


def _scores(call: Call) -> Response:
    choice = call.choice()
    guard = choice.guard
    if guard is None:
        return call.page("scores.html", here="scores", choice=choice, found=None)
    found, complete, oldest = _read(call, choice, guard)
    flag = guard.record.decides.flag
    bars = histogram([score - flag for score in found.scores])
    calibration = guard.calibration
    marks = {} if calibration is None else dict(calibration.quantiles)
    return call.page(
        "scores.html",
        here="scores",
        guard=guard,
        choice=choice,
        found=found,
        complete=complete,
        oldest=oldest,
        most=MOST_READ,
        bars=bars,
        marks=[] if bars is None else [(name, bars.place(value - flag)) for name, value in marks.items()],
        drift=follow_drift(call, guard),
        psi=stability(found.scores, marks),
        calibration=calibration,
        levels=(PSI_WATCH, PSI_ALARM),
        false_alarms=FALSE_ALARMS,
        **_what_if_values(call, guard, found),
    )


def _what_if(call: Call) -> Response:
    choice = call.choice()
    guard = choice.guard
    if guard is None:
        raise PageError(404, "No guard", "This server has no guard.")
    return call.page("_what_if.html", **_what_if_values(call, guard, _read(call, choice, guard)[0]))


def _what_if_values(call: Call, guard: ServedGuard, found: Recorded) -> dict[str, Any]:
    flag, given = guard.record.decides.flag, call.wanted("threshold")
    try:
        threshold = flag if given is None else float(given)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise PageError(400, "No such threshold", "threshold: expected a number.")
    finite = [score for score in found.scores if math.isfinite(score)]
    low, high = min([flag - 2, *finite]), max([flag + 2, *finite])
    return {
        "threshold": threshold,
        "flag": flag,
        "counts": at_threshold(found, guard.record, threshold),
        "range": (math.floor(10 * low) / 10, math.ceil(10 * high) / 10),
    }


def _read(call: Call, choice: Choice, guard: ServedGuard) -> tuple[Recorded, bool, str | None]:
    lines, complete = newest(call, None, MOST_READ)
    found = recorded([one for line in lines if choice.has(one := line.decision)], guard.record, guard.sha256)
    return found, complete, lines[-1].at if lines else None


PAGES = (
    Page("/scores", _scores),
    Page("/scores/what-if", _what_if),
)
