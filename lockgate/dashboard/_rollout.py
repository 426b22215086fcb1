"""The pages on which an admin lets another guard take over, or the one before again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.responses import Response

from lockgate.calibration import Calibration
from lockgate.dashboard._desk import Call, Page, PageError, go_to
from lockgate.dashboard._guard import ServedGuard
from lockgate.decisions import GuardChange
from lockgate.errors import DecisionLogError, LockgateError
from lockgate.guards import GuardRecord, read_bundle
from lockgate.rollout import Entry, OnShelf, Rollout, Wish

CHANGES = 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What is shown of a guard before it takes over.

    Attributes:
        budget: None if it claims none.
    """

    name: str
    sha256: str
    budget: float | None
    threshold: float
    policy: str
    stages: int


def facts(name: str, sha256: str, record: GuardRecord, *, calibrated: bool = True) -> Facts:
    found = Calibration.from_dict(record.calibration) if record.calibration and calibrated else None
    policy = f"{record.constitution.name} {record.constitution.version}"
    budget = None if found is None else found.budget
    return Facts(name, sha256, budget, record.decides.flag, policy, record.stages)


def _of_served(guard: ServedGuard) -> Facts:
    return facts(guard.name, guard.sha256, guard.record, calibrated=guard.calibrated)


def _on_shelf(found: OnShelf) -> Facts | None:
    return None if found.record is None else facts(found.name, found.sha256, found.record)


def _rollout(call: Call) -> Response:
    return _shown(call)


def _shown(call: Call, status: int = 200, problem: str | None = None) -> Response:
    rollout, guard = call.desk.options.rollout, call.desk.guard
    values: dict[str, Any] = {"here": "rollout", "set_up": rollout is not None, "problem": problem}
    values |= {"running": None if guard is None else _of_served(guard), "changes": _changes(call)}
    if rollout is not None:
        link = rollout.link()
        before, why_not = _before(link.before) if guard is not None else (None, None)
        values |= {
            "shelf": [(found, _on_shelf(found)) for found in rollout.shelf.guards()],
            "folder": rollout.shelf.folder,
            "link": link.path,
            "target": link.target,
            # A restart would bring another guard than the one that runs.
            "astray": guard is not None and link.sha256 != guard.sha256,
            "before": before,
            "why_not": why_not,
        }
    return call.page("rollout.html", status, **values)


def _before(entry: Entry | None) -> tuple[Facts | None, str | None]:
    """Return the guard to go back to, or why one can't."""
    if entry is None:
        return None, None
    try:
        record = read_bundle(Path(entry.guard)).record
    except LockgateError as error:
        return None, str(error)
    return facts(Path(entry.guard).name, entry.sha256, record), None


def _changes(call: Call) -> list[GuardChange]:
    """Return the newest changes in the decision log, the newest first."""
    with call.desk.log() as log:
        stored = log.last(CHANGES, ("guard",))
    try:
        return [msgspec.convert(one.record, GuardChange) for one in reversed(stored)]
    except msgspec.ValidationError:
        raise DecisionLogError("A record is damaged; `lockgate log verify` says where.") from None


def _confirm(call: Call) -> Response:
    rollout, guard = _allowed(call)
    found = rollout.shelf.guard(call.path["name"])
    if found is None:
        raise PageError(404, "No such guard", "The folder of guards has none of this name.")
    wanted = _on_shelf(found)
    if wanted is None:
        raise PageError(409, "This guard is damaged", f"{found.problem}.")
    same = wanted.sha256 == guard.sha256
    return call.page("promote.html", here="rollout", running=_of_served(guard), wanted=wanted, same=same)


def _promote(call: Call) -> Response:
    rollout, _ = _allowed(call)
    return _change(call, lambda wish: rollout.promote(call.form.get("guard", ""), wish))


def _back(call: Call) -> Response:
    rollout, _ = _allowed(call)
    return _change(call, rollout.back)


def _change(call: Call, change: Callable[[Wish], Entry]) -> Response:
    form = call.form
    wish = Wish(form.get("running", ""), form.get("sha256", ""), call.who.reviewer)
    try:
        change(wish)
    except LockgateError as error:
        words = str(error)
        return _shown(call, 409, words if words.endswith(".") else f"{words}.")
    return go_to("/rollout")


def _allowed(call: Call) -> tuple[Rollout, ServedGuard]:
    rollout, guard = call.desk.options.rollout, call.desk.guard
    if rollout is None:
        raise PageError(404, "Guards can't be changed here", "The config file names no folder of guards.")
    if guard is None:
        raise PageError(409, "Guards can't be changed here", "Mode off has no guard.")
    return rollout, guard


PAGES = (
    Page("/rollout", _rollout, role="admin"),
    Page("/rollout/to/{name}", _confirm, role="admin"),
    Page("/rollout/promote", _promote, role="admin", method="POST"),
    Page("/rollout/back", _back, role="admin", method="POST"),
)
