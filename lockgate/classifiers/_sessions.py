"""Sessions of a classifier: a conversation that grows, and its verdicts at any cut, each token read once."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from lockgate.backbones import Backbone, Feed, Session, SessionPool
from lockgate.errors import BackboneError, ContextOverflow

TOKENS_PER_FEED = 1024


class VerdictReader(Protocol):
    """What sessions need of the classifier that they belong to.

    Attributes:
        backbone: what it reads with.
        suffix: tokens read behind a cut for the verdict and forgotten again; none with a value head.
        tokens_per_verdict: length of the suffix.
        tokens_per_window: conversation tokens that one session can hold.
    """

    backbone: Backbone
    suffix: tuple[int, ...]
    tokens_per_verdict: int
    tokens_per_window: int

    def verdicts(self, hidden: Tensor) -> list[float]:
        """Verdict logits of final hidden states `[rows, hidden]`."""
        ...


class RunningVerdict:
    """The verdict of one conversation, from the hidden states of what is read.

    With verdict words it is that of the suffix's last token. With a value head it is the highest value so far
    of the answer's tokens and the one before them: a halt can't be undone, and that is what the head's loss
    has seen.

    Attributes:
        value: None as long as nothing that counts was read.
    """

    def __init__(self, classifier: VerdictReader, answer_start: int) -> None:
        self._classifier = classifier
        self._first = answer_start - 1
        self.value: float | None = None

    def see(self, hidden: Tensor, position: int) -> None:
        """Take in final hidden states `[tokens, hidden]` from token `position` on, suffix included."""
        if self._classifier.suffix:
            self.value = self._classifier.verdicts(hidden[-1:])[0]
        elif len(counted := hidden[max(0, self._first - position) :]):
            values = self._classifier.verdicts(counted)
            # numpy's maximum, since that of Python may lose what is no number.
            self.value = float(np.max(values if self.value is None else [self.value, *values]))

    def forget(self) -> None:
        """Start anew, for a window that is read again."""
        self.value = None


class ClassifierSession:
    """One conversation before a classifier.

    Tokens are read when a verdict is asked for, not before: a stream that nobody suspects costs nothing.
    A conversation beyond the context is read in windows: behind the template's prefix stand its last tokens,
    from a start that depends on the cut alone, so that a verdict does not depend on the verdicts before it.

    Attributes:
        length: conversation tokens known so far, read or not.
    """

    def __init__(
        self,
        classifier: VerdictReader,
        pool: SessionPool,
        token_ids: Sequence[int],
        prefix_length: int,
        capacity: int,
    ) -> None:
        if pool.backbone is not classifier.backbone:
            raise BackboneError("a classifier's sessions need a pool of its own; make it with `pool`")
        if len(token_ids) > capacity:
            raise ContextOverflow(f"the prompt has {len(token_ids)} tokens, the session is for {capacity}")
        self.classifier = classifier
        self.pool = pool
        self.verdict = RunningVerdict(classifier, len(token_ids))
        self._tokens = list(token_ids)
        self._prefix = prefix_length
        self._start = prefix_length
        self._capacity = capacity
        self.is_open = True
        self._held = self._open_memory()

    @property
    def length(self) -> int:
        return len(self._tokens)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take note of new tokens of the answer; they are read with the next verdict.

        Raises:
            ContextOverflow: more tokens than the session was opened for.
        """
        self._check_room(len(token_ids))
        self._tokens.extend(token_ids)

    def cost(self, new_tokens: int) -> int:
        """Tokens that a verdict after `new_tokens` more will read, its suffix included."""
        length = self.length + new_tokens
        start = self._window_start(length)
        done = self._position() if start == self._start else start
        return length - done + len(self.classifier.suffix)

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        self.is_open = False
        self._held.close()

    def _check_room(self, new_tokens: int) -> None:
        if self.length + new_tokens > self._capacity:
            raise ContextOverflow(
                f"session knows {self.length} of {self._capacity} tokens; {new_tokens} more do not fit"
            )

    def _advance(self) -> list[int]:
        """Move the window if it must move; the tokens that are still to be read, the suffix behind them."""
        start = self._window_start(self.length)
        if start != self._start:
            self._held.close()
            self._start = start
            self._held = self._open_memory()
            self.verdict.forget()
        return [*self._tokens[self._position() :], *self.classifier.suffix]

    def _settle(self, hidden: Tensor) -> None:
        """A verdict's pass is over: take it in and forget the suffix."""
        self.verdict.see(hidden, self._position() - len(hidden))
        self._held.truncate(self._held.length - len(self.classifier.suffix))

    def _position(self) -> int:
        """Conversation tokens read so far, counted in the conversation."""
        return self._start + self._held.length - self._prefix

    def _window_start(self, length: int) -> int:
        """First conversation token behind the prefix that a verdict after `length` tokens sees."""
        room = self.classifier.tokens_per_window - self._prefix
        over = length - self._prefix - room
        if over <= 0:
            return self._prefix
        stride = max(1, room // 2)
        return self._prefix + -(-over // stride) * stride

    def _open_memory(self) -> Session:
        capacity = min(self._capacity, self.classifier.tokens_per_window)
        return self.pool.open(
            capacity + self.classifier.tokens_per_verdict, prefix=self._tokens[: self._prefix]
        )


def judge(pool: SessionPool, requests: Sequence[tuple[ClassifierSession, Sequence[int]]]) -> list[float]:
    """Verdict logits after new tokens of some conversations, all in one packed step.

    Only a session that has more to read than fits one step (a long prompt at its first verdict) takes
    steps of its own before. Every conversation token is read once; suffixes are forgotten.

    Args:
        pool: the pool of all the sessions.
        requests: sessions, each with the tokens that are new to it, which may be none.

    Raises:
        ContextOverflow: more tokens than a session was opened for. BackboneError: a session that is closed,
            of another pool or asked twice. Nothing was read then.
    """
    if not requests:
        return []
    if len({id(session) for session, _ in requests}) < len(requests):
        raise BackboneError("a session is asked twice in one step; give it all its tokens at once")
    if any(session.pool is not pool or not session.is_open for session, _ in requests):
        raise BackboneError("all sessions of a step need to be open and of its pool")
    for session, token_ids in requests:
        session._check_room(len(token_ids))
    for session, token_ids in requests:
        session.extend(token_ids)
    feeds = []
    for session, _ in requests:
        ids = session._advance()
        while len(ids) > TOKENS_PER_FEED:
            head, ids = ids[:TOKENS_PER_FEED], ids[TOKENS_PER_FEED:]
            rows = pool.read([Feed(session._held, head)])[0]
            if not session.classifier.suffix:
                session._settle(rows)
        if ids:
            feeds.append((session, Feed(session._held, ids)))
    for (session, _), rows in zip(feeds, pool.read([feed for _, feed in feeds]), strict=True):
        session._settle(rows)
    return [verdict_of(session.verdict) for session, _ in requests]


def verdict_of(verdict: RunningVerdict) -> float:
    """Its value. Raises BackboneError if nothing was read."""
    if verdict.value is None:
        raise BackboneError("a conversation without a token has no verdict")
    return verdict.value
