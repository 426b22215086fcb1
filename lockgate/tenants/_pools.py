"""Where limits are counted: in this process, or in a database that replicas share."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, delete, func, insert, select, text, update

from lockgate.databases import Database
from lockgate.tenants._schema import BUCKETS, LEASES, TENANTS

# Seconds for which slots are lent to a replica.
LEASE_SECONDS = 30.0
# Seconds from the moment when a lease that has run out is missed until its slots are lent to others. In an
# outage of the database all leases run out, and so their holders have time to renew them after it.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Draw:
    """What is to be taken out of a bucket.

    Attributes:
        capacity: tokens that the bucket holds when it is full.
        rate: tokens that fill it, per second.
        least, most: how many to take. If fewer than `least` are there, none are taken.
    """

    capacity: float
    rate: float
    least: float
    most: float

    def from_level(self, level: float, passed: float) -> tuple[float, float]:
        """Fill a bucket for the seconds that have passed, and draw. Return what is taken and what is left."""
        level = min(self.capacity, level + self.rate * passed)
        # Sums of many small steps are not exact.
        if level < self.least - 1e-6:
            return 0.0, level
        taken = max(self.least, min(self.most, level))
        return taken, level - taken


class Pool(Protocol):
    """The buckets and slots of all tenants.

    Attributes:
        local: whether it answers at once.
    """

    local: bool

    def take(self, tenant: str, kind: str, draw: Draw) -> tuple[float, float]:
        """Take tokens out of a bucket. Return what was taken, and the level that is left."""

    def lease(self, tenant: str, limit: int, wanted: int, used: int) -> int:
        """Lend slots to this replica for some time. Return how many it has now.

        Args:
            wanted: how many it would have. Fewer than it has gives some back, and 0 all.
            used: how many of them are in use, and can't be taken away.
        """

    def probe(self) -> None:
        """Find out whether it can be asked. Raises OperationsError."""


class OwnPool:
    """Counts in this process, for a server that is alone."""

    local = True

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, tenant: str, kind: str, draw: Draw) -> tuple[float, float]:
        """See `Pool.take`."""
        now = self._ticks()
        level, at = self._buckets.get((tenant, kind), (draw.capacity, now))
        taken, left = draw.from_level(level, max(0.0, now - at))
        self._buckets[tenant, kind] = (left, now)
        return taken, left

    def lease(self, tenant: str, limit: int, wanted: int, used: int) -> int:
        """See `Pool.lease`. There is no other replica."""
        return limit if wanted else 0

    def probe(self) -> None:
        """See `Pool.probe`."""


class SharedPool:
    """Counts in a database of PostgreSQL, by its clock. Each call is a short transaction.

    Args:
        replica: this server's own name.
    """

    local = False

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self._replica = replica

    def take(self, tenant: str, kind: str, draw: Draw) -> tuple[float, float]:
        """See `Pool.take`."""
        where = (BUCKETS.c.tenant == tenant, BUCKETS.c.kind == kind)
        with self._database.writing() as connection:
            connection.execute(_NEW_BUCKET, {"tenant": tenant, "kind": kind, "level": draw.capacity})
            level, at = connection.execute(
                select(BUCKETS.c.level, BUCKETS.c.at).where(*where).with_for_update()
            ).one()
            # After the row is locked: another replica may have changed it while this one waited.
            now = max(at, _now(connection))
            taken, left = draw.from_level(level, now - at)
            connection.execute(update(BUCKETS).where(*where).values(level=left, at=now))
        return taken, left

    def lease(self, tenant: str, limit: int, wanted: int, used: int) -> int:
        """See `Pool.lease`."""
        own = (LEASES.c.tenant == tenant, LEASES.c.replica == self._replica)
        with self._database.writing() as connection:
            # Replicas take turns for each tenant.
            connection.execute(
                select(TENANTS.c.name).where(TENANTS.c.name == tenant).with_for_update(key_share=True)
            )
            now = _now(connection)
            of_others = (LEASES.c.tenant == tenant, LEASES.c.replica != self._replica)
            late = (*of_others, LEASES.c.expires <= now)
            connection.execute(delete(LEASES).where(*late, LEASES.c.late_since <= now - GRACE_SECONDS))
            missed = update(LEASES).where(*late, LEASES.c.late_since.is_(None))
            connection.execute(missed.values(late_since=now))
            others = select(func.coalesce(func.sum(LEASES.c.slots), 0)).where(*of_others)
            free = limit - int(connection.execute(others).scalar_one())
            slots = max(used, min(wanted, free))
            connection.execute(delete(LEASES).where(*own))
            if slots:
                row = {"tenant": tenant, "replica": self._replica, "slots": slots}
                connection.execute(insert(LEASES).values(**row, expires=now + LEASE_SECONDS))
        return slots

    def probe(self) -> None:
        """See `Pool.probe`."""
        with self._database.reading() as connection:
            connection.execute(text("SELECT 1"))


_NEW_BUCKET = text(
    "INSERT INTO buckets (tenant, kind, level, at) "
    "VALUES (:tenant, :kind, :level, extract(epoch from clock_timestamp())) ON CONFLICT DO NOTHING"
)


def _now(connection: Connection) -> float:
    found = connection.execute(text("SELECT extract(epoch from clock_timestamp())"))
    return float(found.scalar_one())
