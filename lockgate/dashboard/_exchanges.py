"""The list of exchanges, and one of them in detail."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page, PageError
from lockgate.dashboard._figures import KINDS, text_of
from lockgate.decisions import ContentReader, Decision, Stored
from lockgate.errors import DecisionLogError

SIZE = 50
# A database has no much larger numbers.
_LONGEST_CHOICE = 9
_FILTERS = ("decision", "category", "tenant", "since", "until", "near")


def _list(call: Call) -> Response:
    chosen = {name: value for name in _FILTERS if (value := call.wanted(name)) is not None}
    wanted = _condition(call, chosen)
    since, until = (_time(chosen.get(name), name) for name in ("since", "until"))
    with call.desk.log() as log:
        found = log.find(wanted, count=SIZE, since=since, until=until, before=call.wanted("before"))
    margin = call.margins()
    older = None if found.end is None else urlencode({**chosen, "before": found.end})
    return call.page(
        "exchanges.html",
        here="exchanges",
        lines=found.lines,
        margins=[margin(line.decision) for line in found.lines],
        chosen=chosen,
        asked={name: chosen.get(name) for name in _FILTERS},
        kinds=KINDS,
        older=older,
        first=call.wanted("before") is None,
        read=found.read,
        reached=found.until,
    )


def _condition(call: Call, chosen: Mapping[str, str]) -> Callable[[Decision], bool]:
    """Make the condition of a list. Only exchanges that may be seen fulfil it. Raises PageError."""
    kind, category, tenant = (chosen.get(name) for name in ("decision", "category", "tenant"))
    if kind is not None and kind not in (*KINDS, "flagged"):
        raise PageError(400, "No such decision", f"Expected flagged, or one of {', '.join(KINDS)}.")
    near = _number(chosen.get("near"), "near")
    margin = call.margins()

    def fits(one: Decision) -> bool:
        return (
            call.sees(one.tenant)
            and (kind is None or (one.flagged if kind == "flagged" else one.decision == kind))
            and (category is None or one.category == category)
            and (tenant is None or one.tenant == tenant)
            and (near is None or abs(margin(one)) <= near)
        )

    return fits


def _number(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    # Also refuses what is no number.
    if not 0 <= value < 1e9:
        raise PageError(400, "No such distance", f"{name}: expected a number of 0 or more.")
    return value


def _time(text: str | None, name: str) -> str | None:
    """Read a time in UTC, as the field of a form writes it."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return text_of(found.replace(tzinfo=found.tzinfo or UTC))
    except (ValueError, OverflowError):
        raise PageError(400, "No such time", f"{name}: expected a time such as 2026-01-31T12:00.") from None


def _one(call: Call) -> Response:
    stored, decision = seen(call, call.path["exchange"], call.path["choice"])
    text, problem = text_of_exchange(stored)
    return call.page(
        "exchange.html",
        here="exchanges",
        stored=stored,
        one=decision,
        margin=call.margins()(decision),
        text=text,
        problem=problem,
        reviews=call.desk.reviews.about(decision.id, decision.choice),
        served_as=[name for name, guard in call.guards.items() if guard.sha256 == decision.guard],
    )


def seen(call: Call, exchange: str, choice: str) -> tuple[Stored, Decision]:
    """Return an exchange that may be seen.

    Args:
        choice: number of the answer, as an address or a form has it.

    Raises:
        PageError: there is none. An exchange of another tenant looks as if it was not there.
    """
    if not (choice.isascii() and choice.isdigit() and len(choice) <= _LONGEST_CHOICE):
        words = f"The last part is the number of the answer: expected at most {_LONGEST_CHOICE} digits."
        raise PageError(400, "No such answer", words)
    with call.desk.log() as log:
        stored = log.one(exchange, int(choice))
    try:
        decision = None if stored is None else msgspec.convert(stored.record, Decision)
    except msgspec.ValidationError:
        raise DecisionLogError("This record is damaged; `lockgate log verify` says where.") from None
    if stored is None or decision is None or not call.sees(decision.tenant):
        raise PageError(404, "No such exchange", "The log has no such exchange, or has it no longer.")
    return stored, decision


def text_of_exchange(stored: Stored) -> tuple[list[tuple[str, str]] | None, str | None]:
    """Return the turns of an exchange as role and text, or why there are none."""
    if stored.content is None:
        return None, "none"
    if stored.content_mode == "encrypted":
        return None, "encrypted"
    content = ContentReader().read(stored.content, str(stored.content_mode))
    return ([] if content is None else [(turn.role, turn.content) for turn in content.messages]), None


PAGES = (
    Page("/exchanges", _list),
    Page("/exchanges/{exchange}/{choice}", _one),
)
