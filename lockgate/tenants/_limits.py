"""Limits of tenants while requests come and go. They hold for all replicas that share a database.

A replica takes tokens from a shared bucket in batches, and slots for requests at a time as a lease. So most
requests are decided here, without the database, and no limit is ever exceeded: what lies in a replica's share
is gone from the bucket. A share that is not used in time is dropped, so that it can't add up to a burst.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from lockgate.errors import OperationsError
from lockgate.tenants._pools import LEASE_SECONDS, Draw, Pool
from lockgate.tenants._settings import Settings

logger = logging.getLogger("lockgate.tenants")

LimitName = Literal["requests", "tokens", "concurrent"]

# Seconds for which a share may be used.
SHARE_SECONDS = 2.0
# Seconds between looks at leases: which to renew, and which slots to give back.
TICK_SECONDS = 1.0
# Seconds for which the database counts as down after a fault, so that not every request waits for it.
PAUSE_SECONDS = 1.0
# For so long a full house is not asked about again.
FULL_SECONDS = 0.25
# Tries to get a share before a request is refused. Others of the same tenant may be quicker.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit stops a request, and after how many seconds another try makes sense."""

    limit: LimitName
    wait: float


@dataclass(frozen=True, slots=True)
class Use:
    """What a tenant uses now.

    Attributes:
        open: its requests that are open on this server.
        left: what its buckets still hold, by limit. Below zero it owes.
    """

    open: int
    left: Mapping[LimitName, float]


@dataclass(slots=True)
class _Share:
    """Tokens that were taken from a bucket and are not used. After a large use there are fewer than none."""

    held: float = 0.0
    until: float = 0.0
    empty_until: float = 0.0


@dataclass(slots=True)
class _State:
    """What this replica has of a tenant's limits. `turn` lets one thread at a time ask the database."""

    shares: dict[str, _Share] = field(default_factory=lambda: {"requests": _Share(), "tokens": _Share()})
    most_tokens: int | None = None
    limit: int = 0
    used: int = 0
    slots: int = 0
    slots_until: float = 0.0
    full_until: float = 0.0
    renew_at: float = 0.0
    idle_since: float | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A bucket that a request needs: the tokens that it takes, and those that must be there."""

    kind: LimitName
    capacity: float
    rate: float
    takes: float
    needs: float


Leave = Callable[[], None]


class Limits:
    """The limits of all tenants on this replica. Any thread may call it.

    A replica that is cut off from the database lets in what its shares and leases still hold. When they are
    used up or run out, it refuses the tenants that have limits, until it reaches the database again. Requests
    that are open then go on.

    Attributes:
        fault: why the database could not be asked the last time; None if it could.

    Args:
        ticks: seconds that only grow.
    """

    def __init__(self, pool: Pool, ticks: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._ticks = ticks
        self._states: dict[str, _State] = {}
        self._mutex = threading.RLock()
        self._down_until = float("-inf")
        self._stopped = threading.Event()
        self._keeper: threading.Thread | None = None
        self.fault: str | None = None

    def start(self) -> None:
        """Start the thread that renews leases, if there are any."""
        if not self._pool.local and self._keeper is None:
            self._stopped.clear()
            self._keeper = threading.Thread(target=self._keep, name="lockgate-leases", daemon=True)
            self._keeper.start()

    def close(self) -> None:
        """Stop that thread, and give slots back as far as they are free."""
        self._stopped.set()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.join()
            self.tend(ending=True)

    def try_enter(self, tenant: str, settings: Settings) -> Leave | Refusal | None:
        """Let a request in or refuse it, without the database. None: it must be asked, see `enter`."""
        with self._mutex:
            return self._decide(tenant, settings)

    def enter(self, tenant: str, settings: Settings) -> Leave | Refusal:
        """Let a request in, and return what must be called when it is over; or refuse it.

        Raises:
            OperationsError: the database must be asked and can't be.
        """
        state = self._state(tenant)
        for _ in range(_TRIES):
            with state.turn:
                found = self.try_enter(tenant, settings)
                if found is not None:
                    return found
                if self._ticks() < self._down_until:
                    raise OperationsError("operations database: could not be reached just now")
                with self._noting():
                    self._fetch(tenant, state, settings)
        return self.try_enter(tenant, settings) or Refusal("requests", 1.0)

    def spend(self, tenant: str, tokens: int) -> None:
        """Count tokens that were read. They are known late, so a request may exceed what is left.

        What it owes then is at most what flows in within a minute.
        """
        with self._mutex:
            state = self._own(tenant)
            if state.most_tokens is not None:
                share = state.shares["tokens"]
                share.held = max(share.held - tokens, 1.0 - state.most_tokens)

    def try_spend(self, tenant: str, tokens: int) -> Refusal | None:
        """Count the tokens of a prompt, unless the tenant owes tokens already: then refuse."""
        with self._mutex:
            state = self._own(tenant)
            share = state.shares["tokens"]
            if state.most_tokens is not None and share.held < 0:
                return Refusal("tokens", -share.held * 60 / state.most_tokens)
            self.spend(tenant, tokens)
            return None

    def use(self, tenant: str, settings: Settings) -> Use:
        """Tell what a tenant uses now. Nothing is taken. Raises OperationsError."""
        left: dict[LimitName, float] = {}
        for bucket in _buckets(settings):
            draw = Draw(bucket.capacity, bucket.rate, 0.0, 0.0)
            with self._mutex if self._pool.local else nullcontext():
                _, level = self._pool.take(tenant, bucket.kind, draw)
            with self._mutex:
                share = self._own(tenant).shares[bucket.kind]
                held = share.held if self._ticks() < share.until else min(share.held, 0.0)
            left[bucket.kind] = min(bucket.capacity, level + held)
        return Use(self.in_use(tenant), left)

    def in_use(self, tenant: str) -> int:
        """Return how many requests of a tenant are open here."""
        with self._mutex:
            return self._own(tenant).used

    def tend(self, *, ending: bool = False) -> None:
        """Renew leases that grow old, and give slots back that rest. The thread calls it again and again."""
        now = self._ticks()
        with self._mutex:
            due = [
                tenant
                for tenant, state in self._states.items()
                if state.slots
                and (
                    ending
                    or now >= state.renew_at
                    or (state.idle_since is not None and now - state.idle_since >= TICK_SECONDS)
                )
            ]
        for tenant in due:
            state = self._state(tenant)
            # What can't be renewed runs out, and then requests are refused.
            with suppress(OperationsError), state.turn, self._noting():
                self._lease(tenant, state, state.limit, 0)
        if self.fault is not None and not due:
            with suppress(OperationsError), self._noting():
                self._pool.probe()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Ask the database, and note whether it could be asked."""
        try:
            yield
        except OperationsError as error:
            if self.fault is None:
                logger.error(
                    "%s; tenants with limits are refused when what this server holds is used up", error
                )
            self._down_until, self.fault = self._ticks() + PAUSE_SECONDS, str(error)
            raise
        if self.fault is not None:
            logger.warning("limits of tenants can be kept again")
            self.fault = None

    def _keep(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            self.tend()

    def _state(self, tenant: str) -> _State:
        with self._mutex:
            return self._own(tenant)

    def _own(self, tenant: str) -> _State:
        return self._states.setdefault(tenant, _State())

    def _decide(self, tenant: str, settings: Settings) -> Leave | Refusal | None:
        state, now = self._own(tenant), self._ticks()
        limit = settings.concurrent
        state.limit, state.most_tokens = limit or 0, settings.tokens_per_minute
        if limit is not None:
            if state.used >= limit or (now < state.full_until and not self._has_slot(state, now)):
                return Refusal("concurrent", 1.0)
            if not self._has_slot(state, now) and not self._pool.local:
                return None
        buckets = _buckets(settings)
        for bucket in buckets:
            share = state.shares[bucket.kind]
            if now >= share.until:
                share.held = min(share.held, 0.0)
            if share.held >= bucket.needs:
                continue
            if now < share.empty_until:
                return Refusal(bucket.kind, share.empty_until - now)
            if not self._pool.local:
                return None
            self._add(tenant, bucket, share)
            if share.held < bucket.needs:
                return Refusal(bucket.kind, share.empty_until - now)
        for bucket in buckets:
            state.shares[bucket.kind].held -= bucket.takes
        state.used += 1
        state.idle_since = None
        return partial(self._leave, state)

    def _has_slot(self, state: _State, now: float) -> bool:
        return state.used < state.slots and now < state.slots_until

    def _leave(self, state: _State) -> None:
        with self._mutex:
            state.used -= 1
            if state.used < state.slots:
                state.idle_since = self._ticks()

    def _fetch(self, tenant: str, state: _State, settings: Settings) -> None:
        """Get what a request lacks from the database. Raises OperationsError."""
        now, limit = self._ticks(), settings.concurrent
        if limit is not None and not self._has_slot(state, now):
            # A few more than are needed, so that not each request asks.
            self._lease(tenant, state, limit, 1 + limit // 8)
            if not self._has_slot(state, now):
                state.full_until = self._ticks() + FULL_SECONDS
                return
        for bucket in _buckets(settings):
            share = state.shares[bucket.kind]
            if share.held < bucket.needs or now >= share.until:
                self._add(tenant, bucket, share)

    def _lease(self, tenant: str, state: _State, limit: int, more: int) -> None:
        asked = self._ticks()
        with self._mutex:
            used = state.used
            # What is given back is not used meanwhile.
            state.slots = min(state.slots, used + more)
        slots = self._pool.lease(tenant, limit, used + more, used)
        with self._mutex:
            state.slots = slots
            # By this clock the lease ends before it does by the database's.
            state.slots_until = asked + LEASE_SECONDS * 0.8
            state.renew_at = asked + LEASE_SECONDS / 3
            state.idle_since = self._ticks() if state.used < state.slots else None

    def _add(self, tenant: str, bucket: _Bucket, share: _Share) -> None:
        """Take a batch out of a bucket into a share."""
        lacks = min(bucket.capacity, bucket.needs - min(share.held, 0.0))
        # A few more than are needed, so that not each request asks.
        more = 0 if self._pool.local else math.floor(min(bucket.rate, bucket.capacity / 4))
        draw = Draw(bucket.capacity, bucket.rate, lacks, lacks + more)
        taken, left = self._pool.take(tenant, bucket.kind, draw)
        with self._mutex:
            now = self._ticks()
            share.held += taken
            share.until = now + SHARE_SECONDS
            share.empty_until = 0.0 if taken else now + max(0.0, lacks - left) / bucket.rate


def _buckets(settings: Settings) -> list[_Bucket]:
    found = []
    if settings.requests_per_minute is not None:
        rate = settings.requests_per_minute / 60
        found.append(_Bucket("requests", settings.most_requests, rate, 1.0, 1.0))
    if settings.tokens_per_minute is not None:
        capacity = float(settings.tokens_per_minute)
        found.append(_Bucket("tokens", capacity, capacity / 60, 0.0, 1.0))
    return found
