"""Alerts about campaigns, as the operations database keeps them."""

import secrets
from dataclasses import asdict, dataclass

from sqlalchemy import insert, select, update

from lockgate.databases import Database
from lockgate.tenants._schema import ALERTS, KEYS


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert about a key. Times are seconds since 1970.

    Attributes:
        tenant: name of the tenant; "" for a key of the config.
        key: public id of the key.
        signal: what was seen: flags, close or duplicates.
        value: how much of it; `bound`: from which value on it counts.
        exchanges: exchanges of the key in the window.
        locked_until: until when the key is locked out; None if it is not.
    """

    at: float
    tenant: str
    key: str
    signal: str
    value: float
    bound: float
    exchanges: int
    locked_until: float | None


def write_alert(database: Database, alert: Alert) -> None:
    """Keep an alert, and lock its key out if it says so. Raises OperationsError."""
    with database.writing() as connection:
        connection.execute(insert(ALERTS).values(id=secrets.token_hex(16), **asdict(alert)))
        if alert.locked_until is not None:
            lock = update(KEYS).where(KEYS.c.prefix == alert.key, KEYS.c.tenant == alert.tenant)
            connection.execute(lock.values(locked_until=alert.locked_until))


def read_alerts(database: Database, most: int) -> list[Alert]:
    """Return the newest alerts, newest first. Raises OperationsError."""
    statement = select(ALERTS).order_by(ALERTS.c.at.desc(), ALERTS.c.id).limit(most)
    with database.reading() as connection:
        rows = connection.execute(statement).mappings().all()
    return [Alert(**{name: row[name] for name in Alert.__dataclass_fields__}) for row in rows]
