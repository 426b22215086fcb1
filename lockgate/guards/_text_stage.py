"""The text baseline as a second stage: it reads the text of a conversation at the end of each block."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lockgate.backbones import Backbone, Detokeniser, RenderedChat
from lockgate.classifiers import BlockScores, block_ends, render_for
from lockgate.classifiers.text import ExchangeReader, TextBaseline, exchange_text
from lockgate.errors import ConfigError, ContextOverflow, ExchangeError, GuardError
from lockgate.exchanges import Exchange


class TextSession:
    """One conversation: the text of its request, and of its answer as far as its characters are whole.

    Attributes:
        length: conversation tokens known so far.
    """

    def __init__(self, baseline: TextBaseline, backbone: Backbone, chat: RenderedChat, capacity: int) -> None:
        if chat.answer_start > capacity:
            raise ContextOverflow(f"the prompt has {chat.answer_start} tokens, the session is for {capacity}")
        self.length = chat.answer_start
        self._request_length = chat.request_length
        self._capacity = capacity
        self._answer = Detokeniser(backbone.decode)
        # Without messages, as in a job of tokens, the prompt's text is what its tokens say.
        request = exchange_text(chat.request, "exchange") or backbone.decode(
            chat.token_ids[chat.prefix_length : self._request_length]
        )
        # The exchange that is judged ends in an answer, even if its first word is not written yet.
        self._reader = ExchangeReader(baseline, request, baseline.config.excerpt)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take the conversation's next tokens. Those of the request are known already.

        Raises:
            ContextOverflow: there are more tokens than the session was opened for.
        """
        if self.length + len(token_ids) > self._capacity:
            raise ContextOverflow(
                f"session knows {self.length} of {self._capacity} tokens; {len(token_ids)} more do not fit"
            )
        known = max(0, self._request_length - self.length)
        self.length += len(token_ids)
        for token in token_ids[known:]:
            self._reader.read(self._answer.push(token))

    @property
    def logit(self) -> float:
        """The logit of harm of the conversation so far."""
        return self._reader.logit

    def cost(self, new_tokens: int) -> int:
        """Return 0, because the backbone reads nothing."""
        return 0

    def close(self) -> None:
        """Do nothing, because the session has reserved no memory."""


class TextVerdicts:
    """The verdicts of a text baseline, as a `VerdictSource`. It needs no memory of a pool."""

    # The request's text is read as messages, and a verdict changes no later one.
    reads_in_pieces = True

    def __init__(self, baseline: TextBaseline, backbone: Backbone) -> None:
        self._baseline, self._backbone = baseline, backbone

    def open(self, chat: RenderedChat, capacity: int) -> TextSession:
        """See `VerdictSource.open`. It never raises PoolFull."""
        return TextSession(self._baseline, self._backbone, chat, capacity)

    def judge(self, asks: Sequence[tuple[TextSession, Sequence[int]]]) -> list[float]:
        """Return the logits after the new tokens of some conversations."""
        for session, token_ids in asks:
            session.extend(token_ids)
        return [session.logit for session, _ in asks]

    def flops(self, session: TextSession, cost: int) -> float:
        """Return 0, because hashing is not counted."""
        return 0.0

    def close(self) -> None:
        """Do nothing, because there is no pool."""


@dataclass(frozen=True, slots=True)
class TextStage:
    """A text baseline as a second stage, or as a voice of one.

    Its verdict on a conversation is `TextBaseline.decision_function` of the messages before the answer and
    the text of the answer's tokens so far.

    Attributes:
        baseline: the text baseline.
        backbone: renders conversations and decodes answers. No layer of it runs.

    Raises:
        GuardError: the baseline reads only prompts or only answers.
    """

    baseline: TextBaseline
    backbone: Backbone

    def __post_init__(self) -> None:
        if self.baseline.config.view != "exchange":
            raise GuardError(
                f"the text baseline reads {self.baseline.config.view}s; the second stage of a guard must "
                "read exchanges, prompt and answer together"
            )

    def open_verdicts(self, kv_tokens: int) -> TextVerdicts:
        """See `SecondStage.open_verdicts`."""
        return TextVerdicts(self.baseline, self.backbone)

    def read_blocks(self, exchanges: Iterable[Exchange], *, stride: int) -> Iterator[BlockScores]:
        """Judge whole exchanges at the end of every block, in input order.

        Raises:
            ExchangeError: the template refuses an exchange. The message names its number.
            ConfigError: the stride is below 1.
        """
        if stride < 1:
            raise ConfigError(f"stride: expected at least 1 token, found {stride}")
        for number, exchange in enumerate(exchanges):
            yield self._read_blocks(number, exchange, stride)

    def _read_blocks(self, number: int, exchange: Exchange, stride: int) -> BlockScores:
        started = time.process_time()
        try:
            chat = render_for(self.backbone, "exchange", exchange.messages)
        except Exception as error:
            raise ExchangeError(f"exchange {number} ({exchange.id}): {error}") from error
        answer = chat.token_ids[chat.answer_start : chat.answer_end]
        ends = block_ends(len(answer), stride)
        session = TextSession(self.baseline, self.backbone, chat, max(chat.answer_end, chat.answer_start))
        logits, done = [], 0
        for end in ends:
            session.extend(answer[done:end])
            done = end
            logits.append(session.logit if math.isfinite(session.logit) else math.inf)
        return BlockScores(number, exchange, ends, logits, 0, 0.0, time.process_time() - started)
