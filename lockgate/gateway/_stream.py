"""One stream's way out: what may leave, and when. Pure state, without a model, threads or I/O.

A sampled token waits until the backbone has consumed it and its activations have been scored. Only then does
`AnswerGate.clear` see it, and only what `clear` returns ever reaches a client.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.cascade import ExchangeState
from lockgate.gateway._decisions import Fault
from lockgate.gateway._events import ReleasedToken
from lockgate.gateway._text import Detokeniser, StopMatcher


@dataclass(frozen=True, slots=True)
class Outflow:
    """What one step lets out: text, the tokens that lie wholly in it, and whether a stop string was met."""

    text: str = ""
    tokens: tuple[ReleasedToken, ...] = ()
    stopped: bool = False


NOTHING = Outflow()


class AnswerText:
    """Cleared tokens to text, with stop strings cut off and each token kept beside the text it makes."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._detokeniser = Detokeniser(decode)
        self._stops = StopMatcher(stops)
        self._partial: list[tuple[float | None, float | None]] = []  # tokens of a half-written character
        self._waiting: deque[tuple[int, ReleasedToken]] = deque()
        self._made = 0  # characters that the tokens so far have made
        self._given = 0  # characters that were given out

    def push(self, token_id: int, score: float | None, logprob: float | None) -> Outflow:
        text = self._detokeniser.push(token_id)
        self._partial.append((score, logprob))
        if text:
            self._complete(text)
        result = self._stops.push(text)
        return self._give(result.text, stopped=result.stopped)

    def finish(self) -> Outflow:
        """The end of the stream by another way than a stop string: what was held back may leave."""
        rest = self._detokeniser.finish()
        self._complete(rest)
        result = self._stops.push(rest)
        text = result.text if result.stopped else result.text + self._stops.finish()
        return self._give(text, stopped=result.stopped)

    def _complete(self, text: str) -> None:
        """The tokens so far make `text`; the last of them carries it, since no other can be shown alone."""
        self._made += len(text)
        for index, (score, logprob) in enumerate(self._partial, 1):
            carried = text if index == len(self._partial) else ""
            self._waiting.append((self._made, ReleasedToken(carried, score, logprob)))
        self._partial.clear()

    def _give(self, text: str, *, stopped: bool) -> Outflow:
        self._given += len(text)
        tokens = []
        # A token leaves with its last character: one that reaches into a held-back stop string waits with it.
        while self._waiting and self._waiting[0][0] <= self._given:
            tokens.append(self._waiting.popleft()[1])
        return Outflow(text, tuple(tokens), stopped)


class AnswerGate:
    """Scores a stream's tokens in order and lets out the cleared ones.

    Args:
        state: the guard's state of this stream, None where no guard is at work.
        text: where cleared tokens become text.
        enforce: whether a flag holds the text back (enforce) or is only noted (shadow).
    """

    def __init__(self, state: ExchangeState | None, text: AnswerText, *, enforce: bool) -> None:
        self.state = state
        self.broken: str | None = None
        self.fault: Fault = "scoring"  # where it broke
        self._text = text
        self._enforce = enforce
        self._uncleared: deque[tuple[int, float | None, float | None]] = deque()
        self._left = 0  # tokens that have left
        self._shut = False

    @property
    def halted(self) -> bool:
        """Whether nothing more may leave because of a flag."""
        return self._shut or (self._enforce and self.state is not None and self.state.flagged)

    @property
    def due(self) -> bool:
        """Whether the second stage must judge before more tokens are read."""
        if self._shut or self.broken or self.state is None:
            return False
        return self.state.due is not None

    def shut(self) -> None:
        """Let nothing out any more, whatever follows."""
        self._shut = True
        self._uncleared.clear()

    def read_prompt(self, logits: NDArray[np.floating]) -> None:
        """Score prompt tokens, `[tokens, heads]`."""
        self._consume(logits)
        self._close_if_halted()

    def clear(self, token_id: int, logprob: float | None, logits: NDArray[np.floating] | None) -> Outflow:
        """Take the logits `[1, heads]` of a consumed answer token; give back what may leave now."""
        score = self._consume(logits)
        if self._close_if_halted():
            return NOTHING
        self._uncleared.append((token_id, score, logprob))
        return self._release()

    def judge(self, logit: float) -> Outflow:
        """Take the second stage's verdict that was due; give back what may leave now."""
        if self.state is None:
            raise RuntimeError("a stream without a guard takes no verdict")
        self.state.judge(logit)
        return NOTHING if self._close_if_halted() else self._release()

    def give_up(self, reason: str) -> Outflow:
        """In shadow mode: no verdict can be had on this stream; note why, and let all out."""
        if not self.broken:
            self.broken, self.fault = reason, "second stage"
        return NOTHING if self._close_if_halted() else self._release()

    def finish(self) -> Outflow:
        """The model has ended: judge a stream too short to have been judged, then let out the rest.

        If that leaves a verdict `due`, nothing leaves: judge, then finish again.
        """
        if self.state is not None and not self.broken:
            self.state.finish()
        if self._close_if_halted() or self.due:
            return NOTHING
        released = self._release()
        if released.stopped:
            return released
        rest = self._text.finish()
        return Outflow(released.text + rest.text, released.tokens + rest.tokens, rest.stopped)

    def _consume(self, logits: NDArray[np.floating] | None) -> float | None:
        """Smoothed logit of the newest token. Enforcing, a failure is raised; in shadow mode it is noted."""
        if self.state is None or self.broken:
            return None
        try:
            if logits is None:
                raise ValueError("a token without a score can't be cleared")
            return float(self.state.consume(logits)[-1])
        except Exception as error:
            if self._enforce:
                raise
            self.broken = type(error).__name__
            return None

    @property
    def _may_leave(self) -> int:
        """Tokens of the answer that the guard has cleared; all of them where it holds nothing back."""
        if self.state is None or self.broken or not self._enforce:
            return self._left + len(self._uncleared)
        return self.state.released

    def _release(self) -> Outflow:
        text, stopped = "", False
        tokens: list[ReleasedToken] = []
        while self._uncleared and self._left < self._may_leave and not stopped:
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
