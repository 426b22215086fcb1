"""The book of tenants and keys: what an operator does with them. Every change is one transaction."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from lockgate.databases import Database
from lockgate.errors import ConfigError
from lockgate.tenants._alerts import (
    Alert,
    count_new_alerts,
    note_alert,
    read_alerts,
    remove_alerts,
    write_alert,
)
from lockgate.tenants._campaigns import Sign
from lockgate.tenants._principal import ROLES, Role
from lockgate.tenants._schema import (
    BUCKETS,
    KEYS,
    LEASES,
    OPERATIONS_SCHEMA,
    PASSWORD_VARIABLE,
    TENANTS,
    place_of,
)
from lockgate.tenants._secrets import digest_of, new_key
from lockgate.tenants._settings import Settings

# Seconds that a statement may wait for a lock or the server. A request may wait for it.
WAIT_SECONDS = 2.0
DAY = 86_400.0
MOST_DAYS = 36_500
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """A tenant as lists show it.

    Attributes:
        created: seconds since 1970.
        keys: number of its keys that are valid.
    """

    name: str
    created: float
    settings: Settings
    keys: int


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as lists show it. Times are seconds since 1970; None means never.

    Attributes:
        prefix: its public id.
        expires: when it ends, or ended. A rotated key ends after its grace period.
        last_used: when it was used, to the minute.
        locked_until: until when a campaign signal locks it out.
        origin: the prefix of the first of the keys that were rotated into each other. A key that was created
            under the name of an older one has an origin of its own.
        state: what holds for it at the time of reading: valid, expired, revoked or locked.
    """

    prefix: str
    tenant: str
    name: str
    role: Role
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None
    locked_until: float | None
    origin: str
    state: str


class Book:
    """The tenants and keys of an operations database. Use it in a `with` block, or open and close it.

    Names that are not there or not valid are ConfigErrors. Faults of the database are OperationsErrors.

    Args:
        where: a path of SQLite, or an address of PostgreSQL.
        password_env: environment variable with the database's password.
        clock: the time now, in seconds since 1970.
    """

    def __init__(
        self,
        where: str | Path,
        password_env: str = PASSWORD_VARIABLE,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = Database(place_of(where, password_env), OPERATIONS_SCHEMA, wait=WAIT_SECONDS)
        self._clock = clock

    def open(self, *, create: bool = True) -> None:
        """Connect. Raises OperationsError.

        Args:
            create: whether to make the database, or to bring it to this version.
        """
        self.database.open(create=create)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_tenant(self, name: str, settings: Settings = Settings()) -> None:  # noqa: B008 - frozen
        """Add a tenant."""
        _check_name("tenant", name)
        settings.check()
        with self.database.writing() as connection:
            if _settings(connection, name) is not None:
                raise ConfigError(f"tenant {name}: is there already; `lockgate tenants set` changes it")
            row = {"name": name, "created": self._clock(), "settings": settings.to_json()}
            connection.execute(insert(TENANTS).values(row))

    def change_tenant(self, name: str, change: Callable[[Settings], Settings]) -> Settings:
        """Replace a tenant's settings by what `change` makes of them. Return the new ones."""
        with self.database.writing() as connection:
            found = _settings(connection, name)
            if found is None:
                raise no_tenant(name)
            changed = change(Settings.from_json(found, name))
            changed.check()
            statement = update(TENANTS).where(TENANTS.c.name == name)
            connection.execute(statement.values(settings=changed.to_json()))
        self.forget()
        return changed

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant together with its keys and what its limits have counted."""
        with self.database.writing() as connection:
            if _settings(connection, name) is None:
                raise no_tenant(name)
            for table in (KEYS, BUCKETS, LEASES):
                connection.execute(delete(table).where(table.c.tenant == name))
            connection.execute(delete(TENANTS).where(TENANTS.c.name == name))
        self.forget()

    def tenants(self) -> list[TenantInfo]:
        """Return all tenants, by name."""
        valid: dict[str, int] = {}
        for key in self.keys():
            valid[key.tenant] = valid.get(key.tenant, 0) + (key.state == "valid")
        with self.database.reading() as connection:
            rows = connection.execute(select(TENANTS).order_by(TENANTS.c.name)).mappings().all()
        return [
            TenantInfo(
                row["name"],
                row["created"],
                Settings.from_json(row["settings"], row["name"]),
                valid.get(row["name"], 0),
            )
            for row in rows
        ]

    def create_key(
        self, tenant: str, name: str, role: Role = "client", *, days: float | None = None
    ) -> tuple[KeyInfo, str]:
        """Make a key. Return what lists show, and the key itself, which nobody can read again.

        Args:
            days: after how many days it expires. None: never.
        """
        _check_name("key", name)
        _check_role(role)
        _check_days(days)
        expires = None if days is None else self._clock() + DAY * days
        with self.database.writing() as connection:
            if _settings(connection, tenant) is None:
                raise no_tenant(tenant)
            if any(info.state in ("valid", "locked") for info in self._named(connection, tenant, name)):
                raise ConfigError(
                    f"key {name} of tenant {tenant}: is there already; rotate it, or take another name"
                )
            return self._insert(connection, tenant, name, role, expires)

    def rotate_key(
        self, prefix: str, *, grace: float = 0.0, days: float | None = None
    ) -> tuple[KeyInfo, str]:
        """Give a key's name a new secret, and so a new prefix. The old one stays valid for a while.

        Args:
            grace: seconds that the old key stays valid, unless it ends earlier anyway.
            days: after how many days the new key expires. None: when the old one would have.
        """
        _check_days(days)
        if not 0 <= grace <= DAY * MOST_DAYS:
            raise ConfigError(f"grace: expected 0 to {24 * MOST_DAYS} hours")
        now = self._clock()
        with self.database.writing() as connection:
            old = self._one(connection, prefix)
            if old.state not in ("valid", "locked"):
                raise ConfigError(f"key {prefix}: is {old.state}; create a new one")
            ends = now + max(0.0, grace) if old.expires is None else min(old.expires, now + max(0.0, grace))
            connection.execute(update(KEYS).where(KEYS.c.prefix == prefix).values(expires=ends))
            expires = old.expires if days is None else now + DAY * days
            made = self._insert(connection, old.tenant, old.name, old.role, expires, old.origin)
            if old.locked_until is not None and old.locked_until > now:
                # Whoever is locked out must not get free by a rotation.
                lock = update(KEYS).where(KEYS.c.prefix == made[0].prefix)
                connection.execute(lock.values(locked_until=old.locked_until))
        self.forget()
        return made

    def revoke_key(self, prefix: str) -> KeyInfo:
        """End a key. Other servers may take it for as long as they remember keys. Again it does nothing."""
        with self.database.writing() as connection:
            self._one(connection, prefix)
            statement = update(KEYS).where(KEYS.c.prefix == prefix, KEYS.c.revoked.is_(None))
            connection.execute(statement.values(revoked=self._clock()))
            found = self._one(connection, prefix)
        self.forget()
        return found

    def lock_key(self, prefix: str, until: float) -> None:
        """Lock a key out until a time, in seconds since 1970. A time that is past lets it in again."""
        with self.database.writing() as connection:
            self._one(connection, prefix)
            connection.execute(update(KEYS).where(KEYS.c.prefix == prefix).values(locked_until=until))
        self.forget()

    def keys(self, tenant: str | None = None) -> list[KeyInfo]:
        """Return the keys of a tenant, or of all, by tenant, name and age. Ended ones stay in the list."""
        statement = select(KEYS).order_by(KEYS.c.tenant, KEYS.c.name, KEYS.c.created)
        if tenant is not None:
            statement = statement.where(KEYS.c.tenant == tenant)
        with self.database.reading() as connection:
            if tenant is not None and _settings(connection, tenant) is None:
                raise no_tenant(tenant)
            return [self._info(row) for row in connection.execute(statement).mappings()]

    def add_alert(self, tenant: str, key: str, sign: Sign, lock_out: float | None = None) -> Alert:
        """Keep an alert about a key of a tenant, or of the config if `tenant` is "".

        Args:
            lock_out: seconds for which the key is locked out. A key of the config can't be.
        """
        now = self._clock()
        until = now + lock_out if lock_out is not None and tenant else None
        alert = Alert(now, tenant, key, sign.signal, sign.value, sign.bound, sign.exchanges, until)
        write_alert(self.database, alert)
        if until is not None:
            self.forget()
        return alert

    def alerts(self, most: int = 100, tenant: str | None = None) -> list[Alert]:
        """Return the newest alerts of a tenant, or of all, newest first."""
        return read_alerts(self.database, most, tenant)

    def new_alerts(self, tenant: str | None = None) -> int:
        """Return the number of alerts that nobody has taken note of."""
        return count_new_alerts(self.database, tenant)

    def acknowledge_alert(self, alert: str, by: str, tenant: str | None = None) -> None:
        """Keep that somebody has taken note of an alert. The first one counts.

        Args:
            alert: its id.
            by: who.
            tenant: only an alert of this tenant. Others are as if they were not there.
        """
        if not note_alert(self.database, alert, by, self._clock(), tenant):
            raise ConfigError("no alert has this id; perhaps it was removed as too old")

    def remove_alerts(self, days: float) -> int:
        """Remove the alerts that are older than so many days, and return their number."""
        _check_days(days)
        return remove_alerts(self.database, self._clock() - DAY * days)

    def forget(self) -> None:
        """Drop what is remembered of keys and settings."""

    def _insert(
        self,
        connection: Connection,
        tenant: str,
        name: str,
        role: Role,
        expires: float | None,
        origin: str | None = None,
    ) -> tuple[KeyInfo, str]:
        prefix, key = new_key()
        row: dict[str, Any] = {
            "prefix": prefix,
            "tenant": tenant,
            "name": name,
            "role": role,
            "hash": digest_of(key),
            "created": self._clock(),
            "expires": expires,
            "origin": origin or prefix,
        }
        connection.execute(insert(KEYS).values(row))
        return self._one(connection, prefix), key

    def _one(self, connection: Connection, prefix: str) -> KeyInfo:
        found = connection.execute(select(KEYS).where(KEYS.c.prefix == prefix)).mappings().one_or_none()
        if found is None:
            raise ConfigError("no key has this prefix; `lockgate keys list` shows all")
        return self._info(found)

    def _named(self, connection: Connection, tenant: str, name: str) -> list[KeyInfo]:
        statement = select(KEYS).where(KEYS.c.tenant == tenant, KEYS.c.name == name)
        return [self._info(row) for row in connection.execute(statement).mappings()]

    def _info(self, row: RowMapping) -> KeyInfo:
        shown = {name: row[name] for name in KeyInfo.__dataclass_fields__ if name != "state"}
        # An older server that shares the database writes none.
        shown["origin"] = row["origin"] or row["prefix"]
        return KeyInfo(**shown, state=state_of(row, self._clock()))


def state_of(row: RowMapping, now: float) -> str:
    """Return what holds for a key at a time: valid, expired, revoked or locked."""
    if row["revoked"] is not None:
        return "revoked"
    if row["expires"] is not None and row["expires"] <= now:
        return "expired"
    return "locked" if (row["locked_until"] or 0.0) > now else "valid"


def no_tenant(name: str) -> ConfigError:
    return ConfigError(f"tenant {name}: there is none of this name; `lockgate tenants list` shows all")


def _settings(connection: Connection, tenant: str) -> str | None:
    statement = select(TENANTS.c.settings).where(TENANTS.c.name == tenant)
    found: str | None = connection.execute(statement).scalar_one_or_none()
    return found


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what}: expected a name of up to 64 letters, digits and . _ -, not first")


def _check_days(days: float | None) -> None:
    if days is not None and not 0 < days <= MOST_DAYS:
        raise ConfigError(f"days: expected more than 0, and {MOST_DAYS} at most")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ConfigError(f"role: expected one of {', '.join(ROLES)}")
