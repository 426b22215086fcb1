"""A circuit breaker: after failures in a row nobody waits for the same failure again for a while."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from lockgate.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """When a breaker opens, and for how long.

    Attributes:
        failures: failures in a row that open it.
        pause: seconds that it stays open. Then one attempt is let through, and its result decides.
    """

    failures: int = 5
    pause: float = 15.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not (self.pause > 0 and math.isfinite(self.pause)):
            raise ConfigError("breaker: expected failures of at least 1 and a pause above 0 s")


class Breaker:
    """The state of one breaker. One thread calls its methods; any thread may read the properties.

    Args:
        clock: tells the time in seconds.
    """

    def __init__(self, options: BreakerOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._failures = 0
        self._until: float | None = None  # when an attempt may be made again; None while all may
        self._probing = False

    @property
    def wait(self) -> float:
        """Seconds until the next attempt may be let through. 0 while attempts are let through."""
        until = self._until
        if until is None:
            return 0.0
        return max(until - self._clock(), 1.0 if self._probing else 0.0)

    @property
    def is_open(self) -> bool:
        """Whether it has opened, and no attempt has succeeded since."""
        return self._until is not None

    def enter(self) -> bool:
        """Tell whether an attempt may be made. After each that may, call `succeed`, `fail` or `leave`."""
        if self._until is None:
            return True
        if self._probing or self._clock() < self._until:
            return False
        self._probing = True
        return True

    def succeed(self) -> None:
        """Note that an attempt was successful."""
        self._failures, self._until, self._probing = 0, None, False

    def fail(self) -> None:
        """Note that an attempt failed."""
        self._failures += 1
        if self._probing or self._failures >= self._options.failures:
            self._until = self._clock() + self._options.pause
        self._probing = False

    def leave(self) -> None:
        """Note that the one attempt of an open breaker ended without a result: its client left."""
        self._probing = False
