"""Turn token ids into text step by step: an incremental detokeniser and a matcher of stop strings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPLACEMENT = "\ufffd"
# A byte-level token holds at least one byte, and a character has at most four. If the text still ends in a
# replacement character after this many tokens, no byte is missing: the model wrote malformed UTF-8.
LONGEST_INCOMPLETE = 8


class Detokeniser:
    """Turns a stream of token ids into text. Text that was returned never changes later.

    Tokens are decoded after a little context, because their text may depend on the token before (a leading
    space, a half-written character).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # first token that is decoded
        self._read = 0  # tokens before this one have been given out as text

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes. It is empty while a character is incomplete."""
        self._ids.append(token_id)
        return self._take(final=False)

    def finish(self) -> str:
        """Return the rest of the text at the end of the stream, with malformed bytes as U+FFFD."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        if self._read == len(self._ids):
            return ""
        before = self._decode(self._ids[self._context : self._read])
        after = self._decode(self._ids[self._context :])
        waiting = len(self._ids) - self._read
        if after.endswith(REPLACEMENT) and not final and waiting < LONGEST_INCOMPLETE:
            return ""
        self._context, self._read = self._read, len(self._ids)
        if self._context > 64:
            del self._ids[: self._context]
            self._read -= self._context
            self._context = 0
        return after[len(before) :]


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
