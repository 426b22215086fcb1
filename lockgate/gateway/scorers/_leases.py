"""Leases of scorers that Ray Serve runs, for the engine of one gateway."""

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from lockgate.gateway.scorers._core import Part, Reading
from lockgate.gateway.scorers._sessions import GONE, Lease

logger = logging.getLogger("lockgate.ray")

# Seconds between two tries to get a lease, after one has failed.
PAUSE = 0.2
# Seconds between two signs of life of a gateway.
BEAT = 2.0


@dataclass(frozen=True, slots=True)
class About:
    """What a gateway must know of its scorers.

    Attributes:
        guard: hash of the guard's bundle.
        described: the guard as clients see it, with the precision in which scorers compute.
        kv_tokens: key-value tokens of one scorer.
    """

    guard: str
    described: dict[str, Any]
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class RayScorer:
    """The actor of one scorer, for the engine's thread.

    Attributes:
        core: Ray's handle of the actor. Handles of one actor are equal.
    """

    core: Any

    def open(self, name: str, capacity: int, prefix: Sequence[int]) -> None:
        """See `ScorerCore.open`."""
        self.core.open.remote(name, capacity, list(prefix))

    def fork(self, name: str, parent: str, start: int, capacity: int) -> None:
        """See `ScorerCore.fork`."""
        self.core.fork.remote(name, parent, start, capacity)

    def close(self, name: str) -> None:
        """See `ScorerCore.close`."""
        self.core.close.remote(name)

    def read(self, parts: Sequence[Part]) -> "Future[list[Reading]]":
        """See `ScorerCore.read`."""
        found: Future[list[Reading]] = self.core.read.remote(list(parts)).future()
        return found


class RayScorers:
    """The scorers of a Ray Serve app, as `Scorers`.

    A lease is a call of the deployment that stays open. Ray Serve chooses the replica. If it dies, the call
    fails, and so the lease is lost. Tasks of a loop on a thread of its own hold the calls.

    Args:
        handle: Ray Serve's handle of the deployment `Scorer`.
    """

    def __init__(self, handle: Any) -> None:  # noqa: ANN401 - a handle of Ray Serve
        self.name = secrets.token_hex(8)
        self._handle = handle
        self._guard = ""
        self._held: dict[Lease, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lockgate-leases", daemon=True)
        self._thread.start()
        self._pulse = asyncio.run_coroutine_threadsafe(self._beat(), self._loop)

    def about(self) -> About:
        """Wait for a scorer, and return what it says of its guard. From then on only such scorers count."""
        found = asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result()
        self._guard = found.guard
        return found

    def lease(self, tokens: int, tell: Callable[[], None]) -> Lease:
        """Ask for a scorer with room for so many tokens. Return at once."""
        lease = Lease(tokens, tell)
        self._held[lease] = asyncio.run_coroutine_threadsafe(self._hold(lease), self._loop)
        return lease

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        if (held := self._held.pop(lease, None)) is not None:
            held.cancel()

    def close(self) -> None:
        """Give all leases back, and end the thread."""
        for lease in list(self._held):
            self.release(lease)
        self._pulse.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    async def _ask(self) -> About:
        core = await self._handle.core.remote()
        found: About = await core.about.remote()
        return found

    async def _hold(self, lease: Lease) -> None:
        """Get a lease and keep it until it is released or lost. Until it is granted, try again."""
        while lease.pending:
            call = self._handle.options(stream=True).lease.remote(self.name, self._guard, lease.tokens)
            try:
                lease.grant(RayScorer(await anext(call)))
                await anext(call)
            except Exception as error:  # whatever ends the call ends the lease
                if lease.pending:
                    logger.warning("no scorer could be leased (%s); trying again", type(error).__name__)
                    await asyncio.sleep(PAUSE)
            finally:
                with contextlib.suppress(Exception):
                    call.cancel()
        lease.lose(GONE)

    async def _beat(self) -> None:
        """Tell all scorers in use that this gateway lives. Otherwise they free what it has leased."""
        while True:
            await asyncio.sleep(BEAT)
            for scorer in {lease.scorer for lease in list(self._held)}:
                if isinstance(scorer, RayScorer):
                    scorer.core.beat.remote(self.name)
