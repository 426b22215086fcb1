"""Signals of a campaign: what many exchanges of a key have in common, each of which may look harmless.

Only counts and keyed hashes are kept, for a sliding window and a bounded number of keys.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from lockgate.errors import ConfigError
from lockgate.tenants._sketches import Sketcher, Sketches

Signal = Literal["flags", "close", "duplicates"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

# Exchanges of a key in the window, below which shares say nothing.
LEAST_EXCHANGES = 20
# Keys that are watched; beyond them the one that was quiet longest is forgotten.
MOST_KEYS = 10_000
_PARTS = 12


@dataclass(frozen=True, slots=True)
class CampaignOptions:
    """What counts as a campaign. None leaves a signal out.

    Attributes:
        window_minutes: how far back exchanges count.
        flags_per_hundred: flagged exchanges in a hundred of a key.
        close_per_hundred: exchanges in a hundred of a key that come close below the threshold.
        close_margin: how close that is, in units of the score that decides.
        duplicates: exchanges of a key, flagged or close, whose prompts are near-duplicates of such prompts of
            other keys.
        lock_out_minutes: how long an alert locks the key out. None: not at all.
    """

    window_minutes: float = 60.0
    flags_per_hundred: float | None = None
    close_per_hundred: float | None = None
    close_margin: float = 1.0
    duplicates: int | None = None
    lock_out_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.flags_per_hundred is None and self.close_per_hundred is None and self.duplicates is None:
            raise ConfigError("campaigns: give flags_per_hundred, close_per_hundred or duplicates")


@dataclass(frozen=True, slots=True)
class Sign:
    """A signal that a key gives.

    Attributes:
        value: what was found; `bound`: from which value on it counts.
        exchanges: exchanges of the key in the window.
    """

    signal: Signal
    value: float
    bound: float
    exchanges: int


@dataclass(slots=True)
class _Part:
    """Counts of one part of the window."""

    number: int
    exchanges: int = 0
    flags: int = 0
    close: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class _Watch:
    parts: list[_Part] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)


class Campaigns:
    """Watches the exchanges of keys. Any thread may call it.

    Args:
        ticks: seconds that only grow.
    """

    def __init__(self, options: CampaignOptions, ticks: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self._ticks = ticks
        self._window = 60 * options.window_minutes
        self._watched: OrderedDict[str, _Watch] = OrderedDict()
        self._sketcher, self._sketches = Sketcher(), Sketches()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._watched)

    def note(self, key: str, margin: float, prompt: Sequence[int]) -> list[Sign]:
        """Note an exchange that is over. Return the signals that its key gives now, each once in a window.

        Args:
            key: the key, by a name that no other has.
            margin: by how much the exchange's score lies above the threshold that flags. A failed reading
                (NaN) counts like a flag.
            prompt: tokens of the last user turn.
        """
        flagged = not margin <= 0
        close = not flagged and margin > -self.options.close_margin
        with self._lock:
            now = self._ticks()
            watch = self._watched.pop(key, None) or _Watch()
            self._watched[key] = watch
            if len(self._watched) > MOST_KEYS:
                self._watched.popitem(last=False)
            part = self._part(watch, now)
            part.exchanges += 1
            part.flags += flagged
            part.close += close
            if (flagged or close) and self.options.duplicates is not None:
                part.duplicates += self._is_known(key, now, prompt)
            return self._signs(watch, now)

    def _part(self, watch: _Watch, now: float) -> _Part:
        number = int(now * _PARTS / self._window)
        watch.parts = [part for part in watch.parts if part.number > number - _PARTS]
        if not watch.parts or watch.parts[-1].number != number:
            watch.parts.append(_Part(number))
        return watch.parts[-1]

    def _is_known(self, key: str, now: float, prompt: Sequence[int]) -> bool:
        """Tell whether another key has sent something alike, and remember the prompt's sketch."""
        self._sketches.forget(now - self._window)
        signature = self._sketcher.sketch(prompt)
        found = bool(self._sketches.others_like(key, signature))
        self._sketches.add(now, key, signature)
        return found

    def _signs(self, watch: _Watch, now: float) -> list[Sign]:
        options, parts = self.options, watch.parts
        exchanges = sum(part.exchanges for part in parts)
        values: dict[Signal, tuple[float, float | None]] = {
            "flags": (100 * sum(part.flags for part in parts) / exchanges, options.flags_per_hundred),
            "close": (100 * sum(part.close for part in parts) / exchanges, options.close_per_hundred),
            "duplicates": (sum(part.duplicates for part in parts), options.duplicates),
        }
        found = []
        for signal, (value, bound) in values.items():
            if bound is None or value < bound or (signal != "duplicates" and exchanges < LEAST_EXCHANGES):
                continue
            if now - watch.told.get(signal, float("-inf")) >= self._window:
                watch.told[signal] = now
                found.append(Sign(signal, value, bound, exchanges))
        return found
