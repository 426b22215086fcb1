"""Looking up keys while requests come in: a memory of a few seconds in front of the database."""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import RowMapping, or_, select, update

from lockgate.errors import OperationsError
from lockgate.tenants._book import Book, state_of
from lockgate.tenants._limits import PAUSE_SECONDS, Limits
from lockgate.tenants._pools import OwnPool, SharedPool
from lockgate.tenants._principal import Principal
from lockgate.tenants._schema import KEYS, PASSWORD_VARIABLE, TENANTS
from lockgate.tenants._secrets import fits, prefix_of
from lockgate.tenants._settings import Settings

logger = logging.getLogger("lockgate.tenants")

CACHE_SECONDS = 5.0
# Keys that are remembered, and prefixes that are remembered as unknown.
MOST_KEYS = 10_000
MOST_UNKNOWN = 10_000
USED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what holds for it.

    Attributes:
        locked_for: seconds for which the key is still locked out; 0 if it is not.
    """

    principal: Principal
    settings: Settings
    locked_for: float


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key as the database had it at `read`, in ticks."""

    row: RowMapping
    settings: Settings
    read: float


class Tenants(Book):
    """Tenants and keys, with a memory for lookups. Any thread may call it.

    What is remembered of a key holds for `cache_seconds`, also if the database is gone. So a key that was
    revoked on another server ends here within that time. A key in use is read again in the background before
    that time is over, so that its requests do not wait.

    Attributes:
        limits: the limits of the tenants.
        fault: why the database could not be read the last time; None if it could.

    Args:
        ticks: seconds of a clock that is never set, by which the memory ages.
        background: runs what no request waits for. By default a thread of its own.
    """

    def __init__(
        self,
        where: str | Path,
        password_env: str = PASSWORD_VARIABLE,
        *,
        cache_seconds: float = CACHE_SECONDS,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        background: Executor | None = None,
    ) -> None:
        super().__init__(where, password_env, clock=clock)
        self.cache_seconds = cache_seconds
        self._ticks = ticks
        shared = self.database.place.path is None
        pool = SharedPool(self.database, secrets.token_hex(16)) if shared else OwnPool(ticks)
        self.limits = Limits(pool, ticks)
        self._background = background or ThreadPoolExecutor(1, "lockgate-tenants")
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._reading: set[str] = set()
        self._epoch = 0  # of the memory; what was read before `forget` is not remembered
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # one reader at a time; the others then find what it has read
        self._down_until = float("-inf")
        self.fault: str | None = None

    def open(self, *, create: bool = True) -> None:
        """See `Book.open`."""
        super().open(create=create)
        self.limits.start()

    def close(self) -> None:
        """Give back what this replica holds of the limits, and close the database."""
        self.limits.close()
        self._background.shutdown(wait=True, cancel_futures=True)
        super().close()

    def forget(self) -> None:
        with self._lock:
            self._epoch += 1
            self._known.clear()
            self._unknown.clear()

    def find(self, secret: str) -> Principal | None:
        """Return whose key this is, or None if it is no valid key. A key that is locked out is valid.

        Raises:
            OperationsError: the key is not remembered, and the database can't be read.
        """
        caller = self.identify(secret)
        return None if caller is None else caller.principal

    def identify(self, secret: str) -> Caller | None:
        """Do as `find`, and return also what holds for the caller."""
        entry = self._entry(secret)
        if entry is None:
            return None
        row, now = entry.row, self._clock()
        state = state_of(row, now)
        if state not in ("valid", "locked"):
            return None
        principal = Principal(row["tenant"], row["prefix"], row["role"])
        return Caller(principal, entry.settings, row["locked_until"] - now if state == "locked" else 0.0)

    def remembers(self, secret: str) -> bool:
        """Tell whether `find` answers at once, without the database."""
        prefix = prefix_of(secret)
        return prefix is None or self._recall(prefix) is not None or self._is_unknown(prefix)

    def later(self, act: Callable[[], None]) -> None:
        """Do something in the background that no request waits for. A closed server does nothing more."""
        with suppress(RuntimeError):
            self._background.submit(act)

    def _entry(self, secret: str) -> _Entry | None:
        prefix = prefix_of(secret)
        if prefix is None:
            return None
        entry = self._recall(prefix)
        if entry is None:
            if self._is_unknown(prefix):
                return None
            entry = self._read_in_turn(prefix)
        if entry is None or not fits(secret, entry.row["hash"]):
            return None
        self._keep_fresh(prefix, entry)
        return entry

    def _read_in_turn(self, prefix: str) -> _Entry | None:
        with self._turn:
            entry = self._recall(prefix)
            return self._read(prefix) if entry is None and not self._is_unknown(prefix) else entry

    def _read(self, prefix: str) -> _Entry | None:
        """Read a key, and remember it or that it is not there. Raises OperationsError."""
        now, epoch = self._ticks(), self._epoch
        if now < self._down_until:
            raise OperationsError(f"operations database {self.database.place}: could not be read just now")
        join = select(KEYS, TENANTS.c.settings).join(TENANTS, TENANTS.c.name == KEYS.c.tenant)
        try:
            with self.database.reading() as connection:
                row = connection.execute(join.where(KEYS.c.prefix == prefix)).mappings().one_or_none()
        except OperationsError as error:
            if self.fault is None:
                logger.error("%s", error)
            self._down_until, self.fault = now + PAUSE_SECONDS, str(error)
            raise
        self.fault = None
        entry = None
        if row is not None:
            # Settings that this version can't read stop their own tenant alone.
            entry = _Entry(row, Settings.from_json(row["settings"], row["tenant"]), now)
        with self._lock:
            if epoch == self._epoch:
                self._remember(prefix, entry, now)
        return entry

    def _remember(self, prefix: str, entry: _Entry | None, now: float) -> None:
        self._known.pop(prefix, None)
        if entry is not None:
            self._known[prefix] = entry
            if len(self._known) > MOST_KEYS:
                self._known.popitem(last=False)
            return
        self._unknown[prefix] = now
        if len(self._unknown) > MOST_UNKNOWN:
            self._unknown.popitem(last=False)

    def _recall(self, prefix: str) -> _Entry | None:
        with self._lock:
            entry = self._known.get(prefix)
        return entry if entry is not None and self._ticks() - entry.read < self.cache_seconds else None

    def _is_unknown(self, prefix: str) -> bool:
        with self._lock:
            read = self._unknown.get(prefix)
        return read is not None and self._ticks() - read < self.cache_seconds

    def _keep_fresh(self, prefix: str, entry: _Entry) -> None:
        """Have a key in use read again, and its use noted, in the background."""
        stale = self._ticks() - entry.read >= self.cache_seconds / 2
        used = (entry.row["last_used"] or 0.0) <= self._clock() - USED_SECONDS
        if not stale and not used:
            return
        with self._lock:
            if prefix in self._reading:
                return
            self._reading.add(prefix)
        self.later(partial(self._refresh, prefix, used=used))

    def _refresh(self, prefix: str, *, used: bool) -> None:
        try:
            # Without the database, what is remembered holds for its time.
            with suppress(OperationsError):
                if used:
                    self._note_use(prefix)
                self._read(prefix)
        finally:
            with self._lock:
                self._reading.discard(prefix)

    def _note_use(self, prefix: str) -> None:
        now = self._clock()
        older = or_(KEYS.c.last_used.is_(None), KEYS.c.last_used <= now - USED_SECONDS)
        with self.database.writing() as connection:
            connection.execute(update(KEYS).where(KEYS.c.prefix == prefix, older).values(last_used=now))
