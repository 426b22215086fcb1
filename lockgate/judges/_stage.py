"""A judge as a guard's second stage: it reads the text of a conversation at the end of each block."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from lockgate.backbones import Backbone, Detokeniser, RenderedChat
from lockgate.classifiers import BlockScores, block_ends, render_for
from lockgate.errors import ConfigError, ContextOverflow, ExchangeError, JudgeError
from lockgate.exchanges import Exchange, Message
from lockgate.judges._judge import Judge, Talk

logger = logging.getLogger("lockgate.judges")

# Exchanges whose blocks are judged in one call.
_GROUP = 16
_NOT_FINITE = "the logit is no finite number"


class JudgeSession:
    """One conversation: the messages of its request, and its answer as far as its characters are whole.

    Attributes:
        length: conversation tokens known so far, in the served model's tokens.
    """

    def __init__(self, backbone: Backbone, chat: RenderedChat, capacity: int) -> None:
        if chat.answer_start > capacity:
            raise ContextOverflow(f"the prompt has {chat.answer_start} tokens, the session is for {capacity}")
        self.length = chat.answer_start
        self._capacity = capacity
        self._answer = Detokeniser(backbone.decode)
        self._text = ""
        # Without messages, as in a job of tokens, the prompt's text is what its tokens say.
        self._request: Talk = chat.request or (
            Message("user", backbone.decode(chat.token_ids[chat.prefix_length : chat.request_length])),
        )

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take the next tokens of the answer.

        Raises:
            ContextOverflow: there are more tokens than the session was opened for.
        """
        if self.length + len(token_ids) > self._capacity:
            raise ContextOverflow(
                f"session knows {self.length} of {self._capacity} tokens; {len(token_ids)} more do not fit"
            )
        self.length += len(token_ids)
        for token in token_ids:
            self._text += self._answer.push(token)

    @property
    def talk(self) -> Talk:
        """The conversation as the judge reads it. Before the answer's first character it has none."""
        return (*self._request, Message("assistant", self._text)) if self._text else self._request

    def cost(self, new_tokens: int) -> int:
        """Return 0, so that all that wait are asked about at once. A judge batches by itself."""
        return 0

    def close(self) -> None:
        """Do nothing, because the session has reserved no memory."""


class JudgeVerdicts:
    """The verdicts of a judge, as a source for the scheduler. A verdict that fails is infinite, and halts."""

    # A judge reads whole conversations. A verdict on a piece of one would cost as much and be thrown away.
    reads_in_pieces = False

    def __init__(self, judge: Judge, backbone: Backbone) -> None:
        self._judge, self._backbone = judge, backbone

    def open(self, chat: RenderedChat, capacity: int) -> JudgeSession:
        """Open a session. It never raises PoolFull."""
        return JudgeSession(self._backbone, chat, capacity)

    def judge(self, asks: Sequence[tuple[JudgeSession, Sequence[int]]]) -> list[float]:
        """Return the logits after the new tokens of some conversations."""
        for session, token_ids in asks:
            session.extend(token_ids)
        found = self._judge.judge([session.talk for session, _ in asks])
        for reading in found:
            if not reading.given:
                logger.warning("a judge gave no verdict: %s", reading.error or _NOT_FINITE)
        return [reading.logit if reading.given else math.inf for reading in found]

    def flops(self, session: JudgeSession, cost: int) -> float:
        """Return 0, because a judge's operations are not known."""
        return 0.0

    def close(self) -> None:
        """Do nothing: the judge belongs to the guard, which may open another source."""


@dataclass(frozen=True, slots=True)
class JudgeStage:
    """A judge as a second stage.

    Attributes:
        judge: the judge.
        backbone: renders conversations and decodes answers. No layer of it runs.
    """

    judge: Judge
    backbone: Backbone

    def open_verdicts(self, kv_tokens: int) -> JudgeVerdicts:
        """Open a source of verdicts. It needs no memory for tokens."""
        return JudgeVerdicts(self.judge, self.backbone)

    def read_blocks(self, exchanges: Iterable[Exchange], *, stride: int) -> Iterator[BlockScores]:
        """Judge whole exchanges at the end of every block, in input order.

        Raises:
            ExchangeError: the template refuses an exchange. The message names its number.
            ConfigError: the stride is below 1.
            JudgeError: the judge gives no verdict.
        """
        if stride < 1:
            raise ConfigError(f"stride: expected at least 1 token, found {stride}")
        numbered = enumerate(exchanges)
        while group := list(islice(numbered, _GROUP)):
            courses = [self._course(number, exchange, stride) for number, exchange in group]
            readings = iter(self.judge.judge([talk for _, talks in courses for talk in talks]))
            for scores, talks in courses:
                own = list(islice(readings, len(talks)))
                for reading in own:
                    if not reading.given:
                        raise JudgeError(no_verdict(scores.number, scores.exchange, reading.error))
                yield replace(
                    scores,
                    logits=[reading.logit for reading in own],
                    tokens=sum(reading.prompt_tokens for reading in own),
                    cpu_s=sum(reading.seconds for reading in own),
                )

    def _course(self, number: int, exchange: Exchange, stride: int) -> tuple[BlockScores, list[Talk]]:
        try:
            chat = render_for(self.backbone, "exchange", exchange.messages)
        except Exception as error:
            raise ExchangeError(f"exchange {number} ({exchange.id}): {error}") from error
        answer = chat.token_ids[chat.answer_start : chat.answer_end]
        ends = block_ends(len(answer), stride)
        session = JudgeSession(self.backbone, chat, max(chat.answer_end, chat.answer_start))
        talks, done = [], 0
        for end in ends:
            session.extend(answer[done:end])
            done = end
            talks.append(session.talk)
        return BlockScores(number, exchange, ends, [], 0, 0.0, 0.0), talks


def no_verdict(number: int, exchange: Exchange, reason: str | None) -> str:
    """Return the message for an exchange without a verdict. It holds no text of the exchange."""
    why = reason or _NOT_FINITE
    return f"exchange {number} ({exchange.id}): the judge gave no verdict: {why}"
