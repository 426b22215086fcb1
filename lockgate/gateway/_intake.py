"""The text of an answer that is written elsewhere, on its way from the event loop to the engine's thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lockgate.backbones import AnswerTokeniser, TextToken
from lockgate.gateway._events import ReleasedToken
from lockgate.gateway._options import NO_HOLD, Hold
from lockgate.gateway._stream import NOTHING, Outflow


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step reads of an answer.

    Attributes:
        settled: tokens that more text does not change.
        tail: tokens behind them, as long as no more text arrives.
    """

    settled: Sequence[TextToken] = ()
    tail: Sequence[TextToken] = ()


class Intake:
    """The text of one choice. One thread gives it, the engine's thread takes its tokens.

    Args:
        hold: how much of it is taken at a time.
        clock: seconds that only grow.
    """

    def __init__(
        self, tokeniser: AnswerTokeniser, hold: Hold = NO_HOLD, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokeniser = tokeniser
        self._hold = hold
        self._clock = clock
        self._since: float | None = None  # when the oldest text that waits has arrived
        self._lock = threading.Lock()
        self._arrived: list[str] = []
        self._ended: str | None = None
        self._settled: list[TextToken] = []  # only the engine's thread uses these
        self._tail: list[TextToken] = []
        self._tail_read = True
        self._tail_tokens: int | None = 0  # None: not counted
        self._tried = 0  # tokens that were only read as a tail, and are read again
        self.characters = 0  # characters that the engine's thread has taken

    def give(self, text: str) -> None:
        """Take more text. Text that arrives after `end` is an error.

        Raises:
            RuntimeError: the answer has ended.
        """
        with self._lock:
            if self._ended is not None:
                raise RuntimeError("text arrived after the end of its answer")
            self._arrived.append(text)
            if self._since is None:
                self._since = self._clock()

    def end(self, reason: str) -> None:
        """The answer is whole. `reason` says why it ended, as in `finish_reason`."""
        with self._lock:
            if self._ended is None:
                self._ended = reason

    @property
    def ended(self) -> str | None:
        """Why the answer is over; None while more may arrive, or while some of it is not taken."""
        with self._lock:
            over = self._ended is not None and not self._arrived
        # The end may arrive while the tail is read: it was only tried then, and is read again as settled.
        return self._ended if over and not (self._settled or self._tokeniser.rest) else None

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to read: settled tokens, a tail that was not read yet, or the end."""
        with self._lock:
            news = bool(self._arrived) or self._ended is not None
        return news or bool(self._settled) or not self._tail_read

    @property
    def holds(self) -> bool:
        """Whether more than a token is read at a time, as far as there is time."""
        return self._hold.tokens > 1

    @property
    def is_due(self) -> bool:
        """Whether what is waiting should be read now: it is enough, has waited for long, or is the last."""
        if not self.is_waiting:
            return False
        due_at = self.due_at
        if not self.holds or due_at is None or due_at <= self._clock():
            return True
        self._collect(self._hold.tokens + self._tried)
        if self._tail_tokens is None:
            self._tail_tokens = len(self._tokeniser.tail())
        return len(self._settled) + self._tail_tokens - self._tried >= self._hold.tokens

    @property
    def due_at(self) -> float | None:
        """When the text that waits is due, if nothing more arrives; None without such text or at the end."""
        with self._lock:
            if self._since is None or self._ended is not None:
                return None
            return self._since + self._hold.seconds

    def take(self, most: int) -> Taken:
        """Take up to `most` settled tokens. The tail comes with them, if it stands directly behind."""
        self._collect(most)
        settled, self._settled = self._settled[:most], self._settled[most:]
        if settled:
            self._tried = 0
        if self._settled or self._tokeniser.unsettled or self._tail_read:
            return Taken(settled)
        self._tail_read, self._tail_tokens = True, 0
        with self._lock:
            if not self._arrived:
                self._since = None
        tail = self._tokeniser.tail()
        self._tried = len(tail)
        return Taken(settled, tail)

    def _collect(self, most: int) -> None:
        """Tokenise what has arrived, until `most` tokens are settled."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
            ended = self._ended is not None
        for text in arrived:
            self.characters += len(text)
            self._tokeniser.push(text)
            self._tail_read, self._tail_tokens = False, None
        if ended:
            self._tokeniser.end()
        while len(self._settled) < most and self._tokeniser.unsettled:
            self._settled += self._tokeniser.settle()
            self._tail_tokens = None


class GivenText:
    """The text of a given answer as it leaves: exactly as it arrived, token by token.

    It takes the place of `AnswerText`. Stop strings are the affair of whoever writes the answer.
    """

    def __init__(self) -> None:
        self._expected: deque[str] = deque()
        self._early = ""  # what has left beyond the pushed tokens

    def expect(self, text: str) -> None:
        """Say which text the next token that will be pushed completes."""
        self._expected.append(text)

    def push(
        self, token_id: int, score: float | None, logprob: float | None, threshold: float | None = None
    ) -> Outflow:
        """Take a cleared token and return its text, as far as it has not left yet."""
        text = self._expected.popleft()
        left = self._early[: len(text)]
        if not text.startswith(left):
            raise RuntimeError("a settled token has other text than the one that has left")
        self._early = self._early[len(left) :]
        return Outflow(text[len(left) :], (ReleasedToken(text, score, logprob, threshold),))

    def ahead(self, text: str) -> Outflow:
        """Let the text behind all pushed tokens leave, before its tokens are settled."""
        if self._expected or not text.startswith(self._early):
            return NOTHING
        out, self._early = text[len(self._early) :], text
        return Outflow(out) if out else NOTHING

    def finish(self) -> Outflow:
        """Return nothing: the tokens make up the text."""
        return NOTHING
