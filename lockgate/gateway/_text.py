"""Stop strings in a text that arrives piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """Text that may leave, and whether a stop string ended the stream."""

    text: str
    stopped: bool


class StopMatcher:
    """Holds back text that may be the beginning of a stop string. It never gives out a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> StopResult:
        if not self._stops:
            return StopResult(text, False)
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self._held = ""
            return StopResult(text[: min(found)], True)
        keep = max(_partial_match(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return StopResult(text[: len(text) - keep], False)

    def finish(self) -> str:
        """Return the text that is still held back, when the stream has ended for another reason."""
        held, self._held = self._held, ""
        return held


def _partial_match(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of `stop` that `text` ends with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
