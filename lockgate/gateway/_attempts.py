"""Wrong keys by client address. After too many, nobody looks for a key from there for a while."""

import time
from collections import OrderedDict
from collections.abc import Callable

# Wrong keys in a row that an address may send, and how many more each minute.
MOST_ATTEMPTS = 20
ATTEMPTS_PER_MINUTE = 20.0
# Addresses that are remembered; beyond them the one that was quiet longest is forgotten.
MOST_ADDRESSES = 10_000


class Attempts:
    """A leaky bucket of wrong keys for each address. Only the event loop uses it.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def wait(self, address: str) -> float:
        """Return the seconds until an address may try a key again; 0 if it may now."""
        over = self._level(address) + 1 - MOST_ATTEMPTS
        return max(0.0, 60 * over / ATTEMPTS_PER_MINUTE)

    def fail(self, address: str) -> None:
        """Note a wrong key."""
        level = self._level(address) + 1
        self._levels.pop(address, None)
        self._levels[address] = (level, self._clock())
        if len(self._levels) > MOST_ADDRESSES:
            self._levels.popitem(last=False)

    def _level(self, address: str) -> float:
        level, at = self._levels.get(address, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) * ATTEMPTS_PER_MINUTE / 60)
