"""The gateway's side of sessions that a scorer holds."""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from lockgate.backbones import Backbone, Session, SessionPool
from lockgate.errors import ContextOverflow, PoolFull
from lockgate.gateway.scorers._core import Part, Reading

GONE = "the scorer of this answer is gone"
NONE_FREE = "no scorer was free in time"
LATE = "the scorer did not answer in time"


class Scorer(Protocol):
    """A scorer as the engine's thread sees it. No method waits, and calls arrive in their order."""

    def open(self, name: str, capacity: int, prefix: Sequence[int]) -> None:
        """See `ScorerCore.open`. An error shows when the session is read."""
        ...

    def fork(self, name: str, parent: str, start: int, capacity: int) -> None:
        """See `ScorerCore.fork`. An error shows when the session is read."""
        ...

    def close(self, name: str) -> None:
        """See `ScorerCore.close`. A scorer that is gone is no error."""
        ...

    def read(self, parts: Sequence[Part]) -> "Future[list[Reading]]":
        """Start to read. The result has an exception if the scorer is gone."""
        ...


class Lease:
    """A request's claim on one scorer. It holds for all its choices and as long as the request is open.

    It is `pending` until a scorer has room. Then it has a scorer, until it is over or `lost`.

    Args:
        tokens: key-value tokens that the request needs.
        tell: called at each change, on any thread.
    """

    def __init__(self, tokens: int, tell: Callable[[], None]) -> None:
        self.tokens = tokens
        self.since = time.monotonic()
        self.scorer: Scorer | None = None
        self.lost: str | None = None
        self.holders = 0
        self._tell = tell

    @property
    def pending(self) -> bool:
        """Whether no scorer has been found yet."""
        return self.scorer is None and self.lost is None

    def grant(self, scorer: Scorer) -> None:
        """Bind the request to a scorer for the rest of its life."""
        self.scorer = scorer
        self._tell()

    def lose(self, reason: str) -> None:
        """Note that the request has no scorer any more. It never gets another one."""
        self.lost = self.lost or reason
        self._tell()


class Scorers(Protocol):
    """All scorers, and who may use which. The engine's thread calls it.

    Attributes:
        name: name of the gateway. Those of its sessions begin with it.
    """

    name: str

    def lease(self, tokens: int, tell: Callable[[], None]) -> Lease:
        """Ask for a scorer with room for so many tokens. Return at once."""
        ...

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        ...

    def close(self) -> None:
        """Give all leases back."""
        ...


class ScorerSession(Session):
    """A stream whose keys and values are with a scorer. Only its length is here.

    Attributes:
        name: by which the scorer knows it.
        busy: whether a step of it is under way.
    """

    def __init__(self, pool: "ScorerPool", name: str, capacity: int, lease: Lease, read: int) -> None:
        super().__init__(pool, capacity)
        self.name = name
        self.lease = lease
        self.length = self.reached = read
        self.busy = False
        self._home = pool
        self._renewed = False
        self._known = False  # whether the scorer was told of it
        self._over = False
        lease.holders += 1

    def introduce(self, prefix: Sequence[int]) -> None:
        """Tell the scorer of the session before its first step."""
        if not self._known and self.lease.scorer is not None:
            self._known = True
            self.lease.scorer.open(self.name, self.capacity, prefix)

    def renew(self) -> bool:
        """Ask for another scorer, if nothing has been read yet. Tell whether that was done.

        It is done once: a prompt that ends its scorer must not end all of them.
        """
        if self._renewed or self._over or self.lease.holders > 1 or self.lease.lost in (None, NONE_FREE):
            return False
        self._renewed, self._known = True, False
        self.lease = self._home.lease_again(self.lease)
        return True

    def fork(self, capacity: int) -> "ScorerSession":
        """Open a session that has read the same tokens, with the same scorer. The lease has room for it."""
        twin = self._home.twin(self, capacity)
        if self.lease.scorer is not None:
            twin._known = True
            self.lease.scorer.fork(twin.name, self.name, self.length, capacity)
        return twin

    def close(self) -> None:
        """Free the memory. The last session of a lease gives the lease back. Closing twice does nothing."""
        if self._over:
            return
        self._over = True
        if self._known and self.lease.scorer is not None:
            self.lease.scorer.close(self.name)
        self._home.left(self)


class ScorerPool(SessionPool):
    """The sessions of one gateway. Scorers hold their memory, and lease it to requests.

    Args:
        kv_tokens: key-value tokens that all scorers together have for this gateway.
        tell: called when a lease changes.
    """

    def __init__(
        self, backbone: Backbone, kv_tokens: int, scorers: Scorers, tell: Callable[[], None]
    ) -> None:
        super().__init__(backbone, kv_tokens)
        self._scorers = scorers
        self._tell = tell
        self._names = (f"{scorers.name}-{number}" for number in itertools.count())

    def open_leased(self, capacity: int, prefix: Sequence[int], choices: int) -> ScorerSession:
        """Open a session, and ask for a scorer with room for so many of its kind.

        Raises:
            ContextOverflow: the capacity is larger than the backbone's context.
            PoolFull: the memory is used up for now.
        """
        if not len(prefix) < capacity <= self.backbone.context_length:
            raise ContextOverflow(f"{capacity} tokens asked for")
        self._take(capacity)
        lease = self._scorers.lease(choices * capacity, self._tell)
        return ScorerSession(self, next(self._names), capacity, lease, len(prefix))

    def twin(self, origin: ScorerSession, capacity: int) -> ScorerSession:
        """Open a session under the lease of another one. Raises PoolFull."""
        self._take(capacity)
        return ScorerSession(self, next(self._names), capacity, origin.lease, origin.length)

    def lease_again(self, lost: Lease) -> Lease:
        """Return a new lease in place of one that is lost. It has to be granted by the same time."""
        self._scorers.release(lost)
        lease = self._scorers.lease(lost.tokens, self._tell)
        lease.since, lease.holders = lost.since, lost.holders
        return lease

    def left(self, session: ScorerSession) -> None:
        """Note that a session is closed."""
        self.kv_used_tokens -= session.capacity
        session.lease.holders -= 1
        if not session.lease.holders:
            self._scorers.release(session.lease)

    def close(self) -> None:
        """Give all leases back."""
        self._scorers.close()

    def _take(self, capacity: int) -> None:
        if self.kv_used_tokens + capacity > self.kv_budget_tokens:
            raise PoolFull(f"{self.kv_used_tokens} of {self.kv_budget_tokens} key-value tokens are in use")
        self.kv_used_tokens += capacity
