"""The overview: what happens now, against the budget."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Choice, Page, PageError, newest
from lockgate.dashboard._drift import Drift, follow_drift
from lockgate.dashboard._figures import KINDS, Rate, by_stage, by_tenant, figures, over_time, text_of
from lockgate.decisions import MOST_READ, Decision


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


class Standing(NamedTuple):
    """How a guard stands against its own budget and its own calibration."""

    bundle: str
    n: int
    refused: Rate
    budget: float | None
    drift: Drift | None


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
    choice, guards = call.choice(), _standings(call, [line.decision for line in lines])
    own = [line for line in lines if choice.has(line.decision)]
    decisions = [line.decision for line in own]
    standing = guards.get(choice.name)
    bundles = {guard.sha256 for guard in call.guards.values()}
    return {
        "here": "overview",
        "guard": choice.guard,
        "choice": choice,
        "standings": guards,
        "gone": 0 if choice.alone else sum(line.decision.guard not in bundles for line in lines),
        "window_name": name,
        "window": window,
        "windows": WINDOWS,
        "kinds": KINDS,
        "found": figures(decisions),
        "stages": by_stage(decisions),
        "tenants": by_tenant(decisions) if call.scope is None else {},
        "buckets": over_time(own, end, window.length, window.slices),
        "budget": None if standing is None else standing.budget,
        "drift": None if standing is None else standing.drift,
        "new_alerts": call.desk.tenants.new_alerts(call.scope),
        "complete": complete,
        "oldest": lines[-1].at if lines else None,
        "most": MOST_READ,
        "now": text_of(end),
    }


def _standings(call: Call, decisions: Sequence[Decision]) -> dict[str, Standing]:
    """Say how each guard stands. The test of each goes on, so that an alarm comes whoever is looked at."""
    guards, alone = call.guards, len(call.desk.guards) < 2
    found = {}
    for name, guard in guards.items():
        choice, calibration = Choice(name, guard, tuple(guards), alone), guard.calibration
        told = figures([one for one in decisions if choice.has(one)])
        budget = None if calibration is None else calibration.budget
        found[name] = Standing(guard.name, told.n, told.refused, budget, follow_drift(call, guard))
    return found


PAGES = (
    Page("/", _overview),
    # It asks every few seconds, so it shows nobody's presence.
    Page("/live", _live, awake=False),
)
