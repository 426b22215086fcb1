"""The page of alerts about campaigns: what was seen, who has taken note of it, and who is locked out."""

from dataclasses import dataclass

from starlette.responses import Response

from lockgate.dashboard._desk import Call, Page, PageError, go_to
from lockgate.errors import ConfigError
from lockgate.tenants import Alert, KeyInfo

# The newest ones. What is older than the log's retention is removed anyway.
MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class _Row:
    """An alert in the list.

    Attributes:
        key: the key that it is about; None if it is gone, or if who looks may not see it.
        locked: until when the key is locked out now; None if it is not.
        by: who has taken note of it.
    """

    alert: Alert
    key: KeyInfo | None
    locked: float | None
    by: str | None


def _list(call: Call) -> Response:
    tenants = call.desk.tenants
    alerts = tenants.alerts(MOST_SHOWN, call.scope)
    keys = {key.prefix: key for key in tenants.keys(call.scope)}
    rows = [_row(call, alert, keys.get(alert.key)) for alert in alerts]
    return call.page(
        "alerts.html",
        here="alerts",
        rows=rows,
        new=tenants.new_alerts(call.scope),
        most=MOST_SHOWN,
    )


def _row(call: Call, alert: Alert, key: KeyInfo | None) -> _Row:
    if key is not None and key.tenant != alert.tenant:
        key = None
    locked = key.locked_until if key is not None and key.state == "locked" else None
    by = alert.acknowledged_by
    if call.who.may("admin"):
        return _Row(alert, key, locked, by)
    # A reviewer learns what happened, not to which key, and no name of another tenant.
    own = by is None or by.startswith(f"{call.who.tenant}/")
    return _Row(alert, None, locked, by if own else "an admin")


def _acknowledge(call: Call) -> Response:
    try:
        call.desk.tenants.acknowledge_alert(call.form.get("alert", ""), call.who.reviewer, call.scope)
    except ConfigError:
        words = "There is no such alert. Old ones are removed with the records of their time."
        raise PageError(404, "No such alert", words) from None
    return go_to("/alerts")


def _unlock(call: Call) -> Response:
    try:
        call.desk.tenants.lock_key(call.form.get("key", ""), 0.0)
    except ConfigError:
        raise PageError(404, "No such key", "There is no such key. Perhaps its tenant was removed.") from None
    return go_to("/alerts")


PAGES = (
    Page("/alerts", _list),
    Page("/alerts/acknowledge", _acknowledge, method="POST"),
    Page("/alerts/unlock", _unlock, role="admin", method="POST"),
)
