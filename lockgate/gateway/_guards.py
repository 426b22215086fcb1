"""The guards of one server: the default one, and further ones for the tenants and keys that name them."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from lockgate.errors import ConfigError
from lockgate.gateway._clients import Client
from lockgate.gateway._engine import Engine
from lockgate.gateway._errors import ApiError

# Name of the guard for all who name none.
DEFAULT = "default"
# Seconds for which a name that was asked for in vain counts as an open fault.
TOLD_SECONDS = 300.0


class Guarded(Protocol):
    """What serves under one guard."""

    engine: Engine
    about_guard: dict[str, Any] | None


G = TypeVar("G", bound=Guarded)


class Guards(Generic[G]):
    """What serves under each guard, by the guards' names in the config. Any thread may read it.

    All of them share a backbone, a log and clients. Each has an engine, so that a guard's faults and its
    change are nothing to the others.

    Args:
        first: what serves under the default guard.
        ticks: seconds that only grow.

    Attributes:
        first: as given.
        of_keys: names of guards by the names of keys in the config.
    """

    def __init__(self, first: G, ticks: Callable[[], float] = time.monotonic) -> None:
        self.first = first
        self.of_keys: Mapping[str, str] = {}
        self._all: dict[str, G] = {DEFAULT: first}
        self._ticks = ticks
        self._missed: dict[str, float] = {}

    def __iter__(self) -> Iterator[G]:
        """Iterate over all, the default one first."""
        return iter(list(self._all.values()))

    @property
    def engines(self) -> list[Engine]:
        """All engines, that of the default guard first."""
        return [one.engine for one in self]

    @property
    def named(self) -> Mapping[str, G]:
        """All, by name."""
        return dict(self._all)

    @property
    def further(self) -> Mapping[str, G]:
        """All but the default one, by name."""
        return {name: one for name, one in self._all.items() if name != DEFAULT}

    def add(self, name: str, one: G) -> None:
        """Add a further one. Raises ConfigError: the name is taken."""
        if name in self._all:
            raise ConfigError(f"guards.{name}: there is a guard of this name already")
        self._all[name] = one

    def find(self, name: str) -> G:
        """Return the one of a name. Raises ConfigError: there is none."""
        found = self._all.get(name)
        if found is None:
            raise ConfigError(f"guard {name}: this server has {', '.join(self._all)}")
        return found

    def of(self, client: Client) -> G:
        """Return the one that serves a client.

        Raises:
            ApiError: the client's guard is not on this server (503). No other guard may take its place.
        """
        name = client.settings.guard
        if name is None and client.tenant == "":
            name = self.of_keys.get(client.key or "")
        found = self._all.get(DEFAULT if name is None else name)
        if found is None:
            self._missed[str(name)] = self._ticks()
            raise ApiError(
                503,
                "This server lacks the guard that is meant for your requests. Its operator must change that.",
                kind="server_error",
                code="configuration",
            )
        return found

    def problems(self) -> list[str]:
        """List the open faults of further guards, and names that requests asked for in vain."""
        found = [
            f"guard {name}: {problem}"
            for name, one in self.further.items()
            for problem in engine_problems(one.engine)
        ]
        since = self._ticks() - TOLD_SECONDS
        missed = sorted(name for name, last in list(self._missed.items()) if last >= since)
        return found + [f"guard {name}: a tenant needs it, and this server has none" for name in missed]

    def halt_open(self) -> None:
        """Halt the open jobs under all guards, because the decision log can't be written."""
        for engine in self.engines:
            engine.halt_open()

    def end_open(self) -> None:
        """Take no more jobs under any guard, and end the open ones as given up."""
        for engine in self.engines:
            engine.end_open()


def engine_problems(engine: Engine) -> list[str]:
    """List the faults of an engine that are open now."""
    found = [f"{where}: {what}" for where, what in sorted(engine.faults.open.items())]
    if engine.alive and engine.verdicts.alive is False:
        found.append("second stage: its thread has ended; streams that need a verdict are halted")
    return found


def engine_state(engine: Engine) -> dict[str, Any]:
    """Return what `/readyz` tells of an engine."""
    faults, verdicts = engine.faults, engine.verdicts
    return {
        "faults": {
            "total": faults.total,
            "second_stage": faults.second_stage,
            "unguarded": faults.unguarded,
            "last": faults.last,
        },
        "streams": {"active": engine.active_streams, "waiting": engine.waiting},
        "verdicts": {
            "waiting": verdicts.waiting,
            "oldest_s": round(verdicts.oldest, 3),
            "alive": verdicts.alive,
        },
        "kv_tokens": {"used": engine.kv_used_tokens, "limit": engine.kv_tokens},
    }
