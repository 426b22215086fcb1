"""What runs in Ray's processes: the actor with the model, the replica that leases it, and a gateway.

These classes know nothing of guards. So a replica that only leases imports no library of models.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from lockgate._extras import need
from lockgate.errors import GuardError

# Seconds between two looks at whether a gateway still lives, and without a sign of life until its leases end.
BEAT, SILENCE = 2.0, 20.0


@dataclass(frozen=True, slots=True)
class Made:
    """A scorer that was made in the actor's process.

    Attributes:
        core: it has the methods of `lockgate.gateway.scorers.ScorerCore`.
        about: what gateways want to know of it.
        guard: hash of its guard.
        kv_tokens: tokens that its memory holds.
    """

    core: Any
    about: Any
    guard: str
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class MadeApp:
    """A gateway that was made in a replica's process.

    Attributes:
        app: the ASGI application.
        alive: tells whether its engine works.
    """

    app: Any
    alive: Callable[[], bool]


class Core:
    """The actor with a scorer's model.

    Ray calls it on one thread, in the order of each caller's calls. Only `stay` has a thread of its own.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._made = make()
        self._heard: dict[str, float] = {}

    def facts(self) -> tuple[str, int]:
        """Return the hash of the guard and the number of tokens. Once it answers, the model is loaded."""
        return self._made.guard, self._made.kv_tokens

    def stay(self) -> None:
        """Never return. The call fails when the actor ends, so its caller learns of that at once."""
        threading.Event().wait()

    def about(self) -> Any:  # noqa: ANN401 - the gateway knows its type
        """Return what gateways want to know."""
        return self._made.about

    def open(self, name: str, capacity: int, prefix: list[int]) -> None:
        """See `ScorerCore.open`."""
        self._made.core.open(name, capacity, prefix)

    def fork(self, name: str, parent: str, start: int, capacity: int) -> None:
        """See `ScorerCore.fork`."""
        self._made.core.fork(name, parent, start, capacity)

    def close(self, name: str) -> None:
        """See `ScorerCore.close`."""
        self._made.core.close(name)

    def read(self, parts: Any) -> Any:  # noqa: ANN401 - the gateway knows its types
        """See `ScorerCore.read`."""
        return self._made.core.read(parts)

    def beat(self, gateway: str) -> None:
        """Take a sign of life of a gateway."""
        self._heard[gateway] = time.monotonic()

    def lives(self, gateway: str) -> bool:
        """Tell whether a gateway has given a sign of life in time. If not, free what it has."""
        now = time.monotonic()
        if now - self._heard.setdefault(gateway, now) < SILENCE:
            return True
        self._made.core.forget(gateway)
        return False


class Scorer:
    """The deployment that leases its actor to gateways.

    Args:
        make: loads the model, in the actor.
        takes: cores and GPUs of the actor.
    """

    # Ray Serve awaits it, so that it can wait for the actor without holding up the replica.
    async def __init__(  # type: ignore[misc]
        self, make: Callable[[], Made], takes: dict[str, float]
    ) -> None:
        ray = need("ray", extra="ray", feature="scorers on Ray")
        self._core = ray.remote(concurrency_groups={"life": 1}, **takes)(Core).remote(make)
        self._guard, self._free = await self._core.facts.remote()
        self._room = asyncio.Condition()
        self._gone = asyncio.Event()
        self._watch = asyncio.create_task(self._wait_for_end())

    def core(self) -> Any:  # noqa: ANN401 - a handle of Ray
        """Return the actor, for who wants to know something of it."""
        return self._core

    async def lease(self, gateway: str, guard: str, tokens: int) -> AsyncIterator[Any]:
        """Wait for room, yield the actor, and hold the room until the caller cancels the call or is gone.

        Raises:
            GuardError: the gateway has another guard, as while a new version is rolled out.
            RuntimeError: the actor is gone.
        """
        if guard != self._guard:
            raise GuardError("the scorer has another guard")
        async with self._room:
            await self._room.wait_for(lambda: self._free >= tokens or self._gone.is_set())
            self._free -= tokens
        try:
            self._check()
            yield self._core
            while await self._core.lives.remote(gateway):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), BEAT)
                self._check()
        finally:
            self._free += tokens
            async with self._room:
                self._room.notify_all()

    async def check_health(self) -> None:
        """Raise if the actor is gone. Ray Serve replaces the replica then."""
        self._check()

    def _check(self) -> None:
        if self._gone.is_set():
            raise RuntimeError("the scorer is gone")

    async def _wait_for_end(self) -> None:
        """Learn of the actor's end. Open leases end then, and new ones are refused."""
        with contextlib.suppress(Exception):
            await self._core.stay.options(concurrency_group="life").remote()
        self._gone.set()
        async with self._room:
            self._room.notify_all()


class Proxy:
    """The deployment of gateways. Each has a decision log of its own, and all share the scorers.

    Args:
        make: makes the gateway around the scorers.
        scorers: Ray Serve's handle of the deployment `Scorer`.
    """

    def __init__(self, make: Callable[[Any], MadeApp], scorers: Any) -> None:  # noqa: ANN401
        self._made = make(scorers)

    def __serve_build_asgi_app__(self) -> Any:  # noqa: ANN401 - Ray Serve asks for it by this name
        return self._made.app

    async def check_health(self) -> None:
        """Raise if the engine has ended. Ray Serve replaces the replica then."""
        if not self._made.alive():
            raise RuntimeError("the engine has ended")
