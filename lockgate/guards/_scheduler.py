"""Packing of verdicts: which conversations the second stage judges in one step, and how they share memory.

Files, streams and the server all use the scheduler. It has no thread and no clock. The server's worker calls
it from its own thread and handles tickets and time-outs itself.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from lockgate.backbones import RenderedChat
from lockgate.errors import ConfigError, PoolFull
from lockgate.guards._verdicts import VerdictSession, VerdictSource

logger = logging.getLogger("lockgate.guards")

TOKENS_PER_STEP = 1024


@dataclass(slots=True, eq=False)
class Conversation:
    """A conversation that the second stage may have to judge. Its owner appends to `answer`.

    Attributes:
        chat: the rendered prompt. Tokens from `answer_start` on are ignored.
        capacity: largest number of tokens, prompt and answer.
        answer: tokens of the answer so far.
    """

    chat: RenderedChat
    capacity: int
    answer: list[int] = field(default_factory=list)

    def tokens(self, start: int, end: int) -> list[int]:
        """Return the tokens `start:end` of the conversation."""
        first = self.chat.answer_start
        return [
            *self.chat.token_ids[start : min(end, first)],
            *self.answer[max(0, start - first) : max(0, end - first)],
        ]


@dataclass(slots=True, eq=False)
class Ask:
    """A verdict that is due.

    Attributes:
        conversation: the conversation to judge.
        end: the verdict is on this many tokens from its start, including the prompt.
        alone: whether the ask must have a step of its own, because a step with others has failed.
    """

    conversation: Conversation
    end: int
    alone: bool = False


_A = TypeVar("_A", bound=Ask)


@dataclass(frozen=True, slots=True)
class Given(Generic[_A]):
    """The result of one step for an ask: a verdict, an error, or neither if only a piece was read.

    Attributes:
        ask: the ask.
        logit: the verdict, if it is given.
        error: the error, if the ask has failed.
        tokens, flops, cpu_s: the ask's share of the step; 0 after an error.
    """

    ask: _A
    logit: float | None = None
    error: Exception | None = None
    tokens: int = 0
    flops: float = 0.0
    cpu_s: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the ask is answered, by a verdict or an error."""
        return self.logit is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class _Portion(Generic[_A]):
    """The tokens that an ask feeds into a step."""

    ask: _A
    session: VerdictSession
    token_ids: list[int]
    cost: int
    last: bool


class VerdictScheduler:
    """A scheduler that gives verdicts in packed steps, in the order in which they are asked for.

    A conversation keeps its session until it is forgotten. If memory is short, a conversation without an ask
    loses its session to one with an ask. One thread uses the scheduler; any thread may call `holds`.

    Args:
        source: source of the verdicts; None if no verdict is ever due. It is closed with the scheduler.
        step_tokens: tokens of a packed step. A single ask may take more.
        piece_tokens: longest piece of a conversation in one step, so that other conversations need not wait
            for a long one. None reads without pieces. So does a source that can't read in pieces.
    """

    def __init__(
        self,
        source: VerdictSource | None,
        *,
        step_tokens: int = TOKENS_PER_STEP,
        piece_tokens: int | None = None,
    ) -> None:
        self._source = source
        self._step_tokens = step_tokens
        self._piece = piece_tokens if source is not None and source.reads_in_pieces else None
        self._sessions: OrderedDict[Conversation, VerdictSession] = OrderedDict()

    def __enter__(self) -> "VerdictScheduler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def holds(self, conversation: Conversation) -> int:
        """Return how many tokens the conversation's session knows; 0 without one. Any thread may call it."""
        session = self._sessions.get(conversation)
        return 0 if session is None else session.length

    def step(self, asks: Sequence[_A]) -> list[Given[_A]]:
        """Take one packed step over the first asks that fit it.

        Hand in again every ask that is not over afterwards. If a step fails, each of its asks gets a step of
        its own next, in a new session. Only an ask that fails alone gets the error.

        Args:
            asks: all asks that wait, oldest first, at most one for each conversation. They keep their
                sessions.

        Returns:
            The results of the asks that the step took or refused.

        Raises:
            ConfigError: there is no second stage.
        """
        if not asks:
            return []
        if self._source is None:
            raise ConfigError("a verdict is asked for, but there is no second stage")
        refused: list[Given[_A]] = []
        parts = self._choose(self._source, asks, refused)
        return [*refused, *self._judge(self._source, parts)]

    def verdict_on(self, ask: Ask) -> float:
        """Step until one ask has its verdict. Errors of the second stage are raised unchanged."""
        while True:
            for given in self.step([ask]):
                if given.error is not None:
                    raise given.error
                if given.logit is not None:
                    return given.logit

    def forget(self, conversation: Conversation) -> None:
        """Give a conversation's memory back, because it is over or its session is broken."""
        session = self._sessions.pop(conversation, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Give all memory back."""
        for conversation in list(self._sessions):
            self.forget(conversation)
        if self._source is not None:
            self._source.close()

    def _choose(
        self, source: VerdictSource, asks: Sequence[_A], refused: list[Given[_A]]
    ) -> list[_Portion[_A]]:
        """Choose the first asks that fit a step, each with its next piece. With memory, at least one fits."""
        parts: list[_Portion[_A]] = []
        room = self._step_tokens
        in_use = {ask.conversation for ask in asks}
        for ask in asks:
            if ask.alone and parts:
                continue
            try:
                session = self._session(source, ask.conversation, in_use)
            except Exception as error:
                refused.append(Given(ask, error=error))
                continue
            if session is None:
                continue
            start = session.length
            end = ask.end if self._piece is None else min(ask.end, start + self._piece)
            cost = session.cost(end - start)
            if parts and cost > room:
                break
            token_ids = ask.conversation.tokens(start, end)
            parts.append(_Portion(ask, session, token_ids, cost, end == ask.end))
            room -= cost
            if ask.alone:
                break
        return parts

    def _session(
        self, source: VerdictSource, conversation: Conversation, in_use: set[Conversation]
    ) -> VerdictSession | None:
        """Return the conversation's session. None: other asks need the memory, so it must wait."""
        held = self._sessions.get(conversation)
        if held is not None:
            self._sessions.move_to_end(conversation)
            return held
        chat = conversation.chat
        if self._piece is not None:
            first = max(chat.prefix_length, min(chat.answer_start, self._piece))
            chat = replace(chat, answer_start=first)
        while True:
            try:
                session = source.open(chat, conversation.capacity)
            except PoolFull:
                idle = next((other for other in self._sessions if other not in in_use), None)
                if idle is not None:
                    self.forget(idle)  # its next ask reads it again
                elif self._sessions:
                    return None
                else:
                    raise
            else:
                self._sessions[conversation] = session
                return session

    def _judge(self, source: VerdictSource, parts: Sequence[_Portion[_A]]) -> list[Given[_A]]:
        if not parts:
            return []
        started = time.process_time()
        try:
            logits = source.judge([(part.session, part.token_ids) for part in parts])
        except Exception as error:
            logger.warning("a verdict step failed (%s)", type(error).__name__)
            for part in parts:
                # It is unknown how far the sessions have read.
                self.forget(part.ask.conversation)
                part.ask.alone = True
            return [Given(part.ask, error=error) for part in parts] if len(parts) == 1 else []
        share = (time.process_time() - started) / max(1, sum(part.cost for part in parts))
        return [
            Given(
                part.ask,
                logit if part.last else None,
                tokens=part.cost,
                flops=source.flops(part.session, part.cost),
                cpu_s=share * part.cost,
            )
            for part, logit in zip(parts, logits, strict=True)
        ]
