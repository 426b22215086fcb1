"""Sessions of a classifier: a conversation grows and gets verdicts at any cut. Each token is read once."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from lockgate.backbones import Backbone, Feed, Session, SessionPool
from lockgate.errors import BackboneError, ContextOverflow

TOKENS_PER_FEED = 1024


class VerdictReader(Protocol):
    """The parts of a classifier that its sessions use.

    Attributes:
        backbone: the backbone that it reads with.
        suffix: tokens that are read after a cut for the verdict and then forgotten; none with a value head.
        tokens_per_verdict: length of the suffix.
        tokens_per_window: conversation tokens that one session can hold.
    """

    backbone: Backbone
    suffix: tuple[int, ...]
    tokens_per_verdict: int
    tokens_per_window: int

    def verdicts(self, hidden: Tensor) -> list[float]:
        """Return the verdict logits of final hidden states `[rows, hidden]`."""
        ...


class RunningVerdict:
    """The verdict on one conversation, computed from the hidden states of its tokens.

    With verdict words, the verdict comes from the suffix's last token. With a value head, it is the highest
    value so far of the answer's tokens and of the token before them. A halt can't be undone, so the
    head's training loss uses this maximum too.

    Attributes:
        value: the verdict's logit; None until a token that counts was read.
    """

    def __init__(self, classifier: VerdictReader, answer_start: int) -> None:
        self._classifier = classifier
        self._first = answer_start - 1
        self.value: float | None = None

    def see(self, hidden: Tensor, position: int) -> None:
        """Take final hidden states `[tokens, hidden]` of the tokens from `position` on, with the suffix."""
        if self._classifier.suffix:
            self.value = self._classifier.verdicts(hidden[-1:])[0]
        elif len(counted := hidden[max(0, self._first - position) :]):
            values = self._classifier.verdicts(counted)
            # numpy's maximum keeps NaN; Python's may lose it.
            self.value = float(np.max(values if self.value is None else [self.value, *values]))

    def forget(self) -> None:
        """Start again, because a new window is read."""
        self.value = None


class ClassifierSession:
    """One conversation that a classifier judges.

    Tokens are read only when a verdict is asked for, so a calm stream costs nothing.

    A conversation that is longer than the context is read in windows: the template's prefix, followed by the
    conversation's last tokens. The window's start depends on the cut alone, so a verdict does not depend on
    earlier verdicts.

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
        """Add new tokens of the answer. The next verdict reads them.

        Raises:
            ContextOverflow: there are more tokens than the session was opened for.
        """
        self._check_room(len(token_ids))
        self._tokens.extend(token_ids)

    def cost(self, new_tokens: int) -> int:
        """Return the number of tokens that a verdict after `new_tokens` more reads, including its suffix."""
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
        """Move the window if needed. Return the tokens that are not yet read, followed by the suffix."""
        start = self._window_start(self.length)
        if start != self._start:
            self._held.close()
            self._start = start
            self._held = self._open_memory()
            self.verdict.forget()
        return [*self._tokens[self._position() :], *self.classifier.suffix]

    def _settle(self, hidden: Tensor) -> None:
        """Take the hidden states of a verdict's pass and forget the suffix."""
        self.verdict.see(hidden, self._position() - len(hidden))
        self._held.truncate(self._held.length - len(self.classifier.suffix))

    def _position(self) -> int:
        """Return the conversation position up to which tokens are read."""
        return self._start + self._held.length - self._prefix

    def _window_start(self, length: int) -> int:
        """Return the first token after the prefix that a verdict after `length` tokens sees."""
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
    """Judge some conversations after their new tokens, in one packed step.

    A session with more tokens than fit one step, such as a long prompt at its first verdict, takes extra
    steps before. Every conversation token is read once. Suffixes are forgotten. After an error nothing was
    read.

    Args:
        pool: the pool of all the sessions.
        requests: sessions, each with its new tokens. There may be none.

    Returns:
        One verdict logit for each request.

    Raises:
        ContextOverflow: there are more tokens than a session was opened for.
        BackboneError: a session is closed, of another pool or asked twice.
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
    """Return a verdict's value. Raises BackboneError if nothing was read."""
    if verdict.value is None:
        raise BackboneError("a conversation without a token has no verdict")
    return verdict.value
