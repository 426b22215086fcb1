"""The gate of one stream: what may leave, and when. Pure state, without a model, threads or I/O.

A sampled token waits until the backbone has consumed it and its activations are scored. Then `AnswerGate`
takes it. Only text that `AnswerGate` returns ever reaches a client.
"""

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import Detokeniser
from lockgate.cascade import ExchangeState
from lockgate.decisions import Fault
from lockgate.gateway._events import ReleasedToken
from lockgate.gateway._text import StopMatcher


@dataclass(frozen=True, slots=True)
class Outflow:
    """What one step releases: text, the tokens that end in it, and whether a stop string was found."""

    text: str = ""
    tokens: tuple[ReleasedToken, ...] = ()
    stopped: bool = False


NOTHING = Outflow()


class OutgoingText(Protocol):
    """The text of cleared tokens, on its way to the client."""

    def push(
        self, token_id: int, score: float | None, logprob: float | None, threshold: float | None = None
    ) -> Outflow:
        """Take a cleared token and return what may leave now."""
        ...

    def finish(self) -> Outflow:
        """Return what was held back, at the end of the answer."""
        ...


class AnswerText:
    """Turns cleared tokens into text, cuts off stop strings, and keeps each token beside its text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._detokeniser = Detokeniser(decode)
        self._stops = StopMatcher(stops)
        # Score, logprob and threshold of the tokens of a half-written character.
        self._partial: list[tuple[float | None, float | None, float | None]] = []
        self._waiting: deque[tuple[int, ReleasedToken]] = deque()
        self._made = 0  # characters of all tokens so far
        self._given = 0  # characters given out

    def push(
        self, token_id: int, score: float | None, logprob: float | None, threshold: float | None = None
    ) -> Outflow:
        """Take a cleared token and return what may leave now."""
        text = self._detokeniser.push(token_id)
        self._partial.append((score, logprob, threshold))
        if text:
            self._complete(text)
        result = self._stops.push(text)
        return self._give(result.text, stopped=result.stopped)

    def finish(self) -> Outflow:
        """Return the text that was held back, when the stream ends without a stop string."""
        rest = self._detokeniser.finish()
        self._complete(rest)
        result = self._stops.push(rest)
        text = result.text if result.stopped else result.text + self._stops.finish()
        return self._give(text, stopped=result.stopped)

    def _complete(self, text: str) -> None:
        """Assign `text` to the tokens that make it. The last one carries it all, since it completes it."""
        self._made += len(text)
        for index, of_token in enumerate(self._partial, 1):
            carried = text if index == len(self._partial) else ""
            self._waiting.append((self._made, ReleasedToken(carried, *of_token)))
        self._partial.clear()

    def _give(self, text: str, *, stopped: bool) -> Outflow:
        self._given += len(text)
        tokens = []
        # A token leaves with its last character. So it waits while part of it may belong to a stop string.
        while self._waiting and self._waiting[0][0] <= self._given:
            tokens.append(self._waiting.popleft()[1])
        return Outflow(text, tuple(tokens), stopped)


@dataclass(frozen=True, slots=True)
class Pace:
    """Blocks in which every answer leaves, so that a client can't tell a held stream from a calm one.

    Attributes:
        grid: answer tokens of a block.
        kept: answer tokens that every stream keeps back at the end of a block. A guard that lets only held
            streams keep some back would show them otherwise.
    """

    grid: int
    kept: int = 0

    def __post_init__(self) -> None:
        if self.grid < 1 or self.kept < 0:
            raise ValueError("pace: expected at least one token in a block, and none or more kept back")

    def allowed(self, cleared: int, read: int) -> int | None:
        """Return how many of the `read` tokens may leave, if `cleared` are. None within a block."""
        if read % self.grid:
            return None
        return max(0, min(cleared, read - self.kept)) // self.grid * self.grid


class AnswerGate:
    """The gate of one stream. It scores tokens in order and releases the cleared ones.

    Args:
        state: the guard's state of this stream; None without a guard.
        text: turns cleared tokens into text.
        enforce: whether a flag stops the text (`enforce`) or is only noted (`shadow`).
        tolerant: whether a failure of the guard is only noted, and the text goes on unjudged. In shadow mode
            it always is.
        pace: the blocks in which the answer leaves; what is left over leaves at its end. None lets each token
            leave once it is cleared. In shadow mode that is always so.

    Attributes:
        broken: why the stream can't be judged any more (a tolerant gate only); None while it can.
        fault: the stage that `broken` is about.
    """

    def __init__(
        self,
        state: ExchangeState | None,
        text: OutgoingText,
        *,
        enforce: bool,
        tolerant: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.state = state
        self.broken: str | None = None
        self.fault: Fault = "scoring"
        self._text = text
        self._enforce = enforce
        self.tolerant = tolerant or not enforce
        self._pace = pace if enforce else None
        self._ending = False  # `finish` was called
        self._uncleared: deque[tuple[int, float | None, float | None, float | None]] = deque()
        self._left = 0  # tokens released so far
        self._shut = False

    @property
    def halted(self) -> bool:
        """Whether the gate is closed, by a flag or by `shut`."""
        return self._shut or (self._enforce and self.state is not None and self.state.flagged)

    @property
    def due(self) -> bool:
        """Whether the second stage must judge before more tokens are read."""
        if self._shut or self.broken or self.state is None:
            return False
        return self.state.due is not None

    def shut(self) -> None:
        """Close the gate for good. Nothing leaves after this."""
        self._shut = True
        self._uncleared.clear()

    def read_prompt(self, logits: NDArray[np.floating]) -> None:
        """Score prompt tokens, `[tokens, heads]`."""
        self._consume(logits)
        self._close_if_halted()

    def clear(self, token_id: int, logprob: float | None, logits: NDArray[np.floating] | None) -> Outflow:
        """Take the logits `[1, heads]` of a consumed answer token. Return what may leave now."""
        score = self._consume(logits)
        if self._close_if_halted():
            return NOTHING
        threshold = None if score is None or self.state is None else self.state.verdict.threshold
        self._uncleared.append((token_id, score, logprob, threshold))
        return self._release()

    def would_clear(self, logits: NDArray[np.floating] | None) -> bool:
        """Tell whether further tokens with these logits `[tokens, heads]` could leave at once.

        The gate does not change. Logits may be None if the stream can't be judged any more.
        """
        # A held stream lets no token leave before it is settled. In blocks a calm one must look the same.
        if self.halted or self._uncleared or self._pace is not None:
            return False
        if self.state is None or self.broken or not self._enforce:
            return True
        if logits is None:
            return False
        state = copy.deepcopy(self.state)
        for row in logits[:, None]:
            if state.due is not None:
                return False
            state.consume(row)
        return not state.flagged and state.due is None and state.released >= self._left + len(logits)

    def judge(self, logit: float) -> Outflow:
        """Take the verdict that was due from the second stage. Return what may leave now."""
        if self.state is None:
            raise RuntimeError("a stream without a guard takes no verdict")
        self.state.judge(logit)
        return NOTHING if self._close_if_halted() else self._release()

    def give_up(self, reason: str) -> Outflow:
        """In a tolerant gate, note why there is no verdict, and release everything."""
        if not self.broken:
            self.broken, self.fault = reason, "second stage"
        return NOTHING if self._close_if_halted() else self._release()

    def finish(self) -> Outflow:
        """End the answer: judge a stream that was too short to be judged, and release the rest.

        If a verdict is `due` after that, nothing leaves. Call `judge`, then `finish` again.
        """
        self._ending = True
        if self.state is not None and not self.broken:
            self.state.finish()
        if self._close_if_halted() or self.due:
            return NOTHING
        released = self._release(last=True)
        if released.stopped:
            return released
        rest = self._text.finish()
        return Outflow(released.text + rest.text, released.tokens + rest.tokens, rest.stopped)

    def _consume(self, logits: NDArray[np.floating] | None) -> float | None:
        """Return the newest token's smoothed logit. A failure is raised, or noted by a tolerant gate."""
        if self.state is None or self.broken:
            return None
        try:
            if logits is None:
                raise ValueError("a token without a score can't be cleared")
            return float(self.state.consume(logits)[-1])
        except Exception as error:
            if not self.tolerant:
                raise
            self.broken = type(error).__name__
            return None

    def _may_leave(self, *, last: bool) -> int:
        """Number of answer tokens that are cleared: all of them if nothing is held back."""
        read = self._left + len(self._uncleared)
        judged = self.state is not None and not self.broken and self._enforce
        cleared = self.state.released if judged and self.state is not None else read
        if self._pace is None or last:
            return cleared
        # Nothing leaves before a verdict. What a last one clears leaves with the end, as it does without one.
        allowed = None if self._ending or self.due else self._pace.allowed(cleared, read)
        return self._left if allowed is None else allowed

    def _release(self, *, last: bool = False) -> Outflow:
        text, stopped = "", False
        tokens: list[ReleasedToken] = []
        allowed = self._may_leave(last=last)
        while self._uncleared and self._left < allowed and not stopped:
            out = self._text.push(*self._uncleared.popleft())
            self._left += 1
            text += out.text
            tokens.extend(out.tokens)
            stopped = out.stopped
        if stopped:
            self._uncleared.clear()
        return Outflow(text, tuple(tokens), stopped)

    def _close_if_halted(self) -> bool:
        if self.halted:
            self.shut()
        return self._shut
