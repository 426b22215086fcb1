"""Alerts about campaigns, as the operations database keeps them."""

import secrets
from dataclasses import asdict, dataclass, field

from sqlalchemy import delete, func, insert, select, update

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
        locked_until: until when the key was locked out by it; None if it was not.
        acknowledged, acknowledged_by: when somebody has taken note of it, and who.
    """

    at: float
    tenant: str
    key: str
    signal: str
    value: float
    bound: float
    exchanges: int
    locked_until: float | None
    acknowledged: float | None = None
    acknowledged_by: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))


def write_alert(database: Database, alert: Alert) -> None:
    """Keep an alert, and lock its key out if it says so. Raises OperationsError."""
    with database.writing() as connection:
        connection.execute(insert(ALERTS).values(**asdict(alert)))
        if alert.locked_until is not None:
            lock = update(KEYS).where(KEYS.c.prefix == alert.key, KEYS.c.tenant == alert.tenant)
            connection.execute(lock.values(locked_until=alert.locked_until))


def read_alerts(database: Database, most: int, tenant: str | None = None) -> list[Alert]:
    """Return the newest alerts, newest first. Raises OperationsError.

    Args:
        tenant: only those of this tenant.
    """
    statement = select(ALERTS).order_by(ALERTS.c.at.desc(), ALERTS.c.id).limit(most)
    if tenant is not None:
        statement = statement.where(ALERTS.c.tenant == tenant)
    with database.reading() as connection:
        rows = connection.execute(statement).mappings().all()
    return [Alert(**{name: row[name] for name in Alert.__dataclass_fields__}) for row in rows]


def count_new_alerts(database: Database, tenant: str | None) -> int:
    """Return the number of alerts that nobody has taken note of. Raises OperationsError."""
    statement = select(func.count()).select_from(ALERTS).where(ALERTS.c.acknowledged.is_(None))
    if tenant is not None:
        statement = statement.where(ALERTS.c.tenant == tenant)
    with database.reading() as connection:
        return int(connection.execute(statement).scalar_one())


def note_alert(database: Database, alert: str, by: str, at: float, tenant: str | None) -> bool:
    """Keep that somebody has taken note of an alert. Return whether there is one. Raises OperationsError.

    Args:
        tenant: only an alert of this tenant.
    """
    found = select(ALERTS.c.id).where(ALERTS.c.id == alert)
    if tenant is not None:
        found = found.where(ALERTS.c.tenant == tenant)
    with database.writing() as connection:
        if connection.execute(found).first() is None:
            return False
        wanted = update(ALERTS).where(ALERTS.c.id == alert, ALERTS.c.acknowledged.is_(None))
        connection.execute(wanted.values(acknowledged=at, acknowledged_by=by))
        return True


def remove_alerts(database: Database, before: float) -> int:
    """Remove the alerts from before a time, and return their number. Raises OperationsError."""
    with database.writing() as connection:
        return connection.execute(delete(ALERTS).where(ALERTS.c.at < before)).rowcount
