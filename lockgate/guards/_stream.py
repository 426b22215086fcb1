"""A guard for your own generate loop: it takes token ids and returns verdicts."""

import logging
import math
from collections.abc import Iterable, Sequence
from operator import index

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.cascade import Verdict
from lockgate.classifiers import ProbeTap
from lockgate.errors import ConfigError, ContextOverflow, GuardError
from lockgate.exchanges import Message
from lockgate.guards._scheduler import Ask, Conversation, VerdictScheduler
from lockgate.guards._stage1 import regions_of
from lockgate.guards._stages import Stages

logger = logging.getLogger("lockgate.guards")

_CHUNK = 256


class GuardStream:
    """A stream that scores one answer while it is written.

    Push each token before you show it, and stop at a flag. The stream reads the prompt when it is made;
    `verdict` then says whether the prompt alone flags. `released` says how many tokens of the answer you may
    show. With two stages, `push` asks the second stage when a verdict is due, and other tokens wait for it. A
    verdict that fails flags; `failure` says why.
    """

    def __init__(
        self, backbone: Backbone, stages: Stages, messages: Sequence[Message], max_tokens: int
    ) -> None:
        chat = backbone.render(messages, add_generation_prompt=True)
        if max_tokens < 1:
            raise ConfigError(f"max_tokens: expected at least 1, found {max_tokens}")
        if len(chat.token_ids) >= backbone.context_length:
            raise ContextOverflow(
                f"the prompt has {len(chat.token_ids)} tokens; "
                f"the context holds {backbone.context_length} with the answer"
            )
        capacity = min(len(chat.token_ids) + max_tokens, backbone.context_length)
        self._tap = ProbeTap([stages.head], backbone.hidden_size, backbone.device)
        self._pool = SessionPool(backbone, capacity)
        self._session = self._pool.open(capacity, prefix=chat.token_ids[: chat.prefix_length])
        self._state = stages.new_state(regions_of(chat))
        self._scheduler = VerdictScheduler(stages.open_verdicts(0))
        self._conversation = Conversation(chat, capacity)
        self._failure: str | None = None
        self._closed = False
        self._vocab_size = backbone.vocab_size
        self._read(chat.token_ids[chat.prefix_length :])

    @property
    def verdict(self) -> Verdict:
        """The state after the newest token."""
        return self._state.verdict

    @property
    def released(self) -> int:
        """Number of answer tokens that may be shown, from the start of the answer."""
        return self._state.released

    @property
    def failure(self) -> str | None:
        """Why a verdict of the second stage failed; None if none failed."""
        return self._failure

    def push(self, token_ids: int | Iterable[int]) -> Verdict:
        """Read the next token or tokens of the answer, without the end-of-turn token.

        After an error nothing was read.

        Args:
            token_ids: one id or several. Tensors and arrays of integers work too.

        Raises:
            ContextOverflow: there are more tokens than `max_tokens` or the backbone's context allows.
            GuardError: the stream is finished, or the backbone does not have one of the ids.
        """
        if self._closed:
            raise GuardError("this stream is finished; open another one for the next answer")
        ids = _token_list(token_ids)
        if not all(0 <= token < self._vocab_size for token in ids):
            raise GuardError(f"push: expected token ids from 0 to {self._vocab_size - 1}")
        if self._session.length + len(ids) > self._session.capacity:
            raise ContextOverflow(
                f"push: {len(ids)} tokens, {self._session.capacity - self._session.length} more fit; "
                "open the stream with a larger max_tokens"
            )
        self._read(ids)
        return self.verdict

    def finish(self) -> Verdict:
        """End the answer and return the last verdict. It also judges answers shorter than `min_tokens`."""
        if self._closed:
            return self._state.verdict
        self._state.finish()
        self._judge_if_due()
        verdict = self._state.finish()
        self.close()
        return verdict

    def close(self) -> None:
        """Give the memory back."""
        self._closed = True
        self._session.close()
        self._pool.close()
        self._scheduler.close()

    def __enter__(self) -> "GuardStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, token_ids: Sequence[int]) -> None:
        start = 0
        while start < len(token_ids):
            piece = token_ids[start : start + min(self._state.room, _CHUNK)]
            self._pool.step([Feed(self._session, piece)], self._tap)
            self._state.consume(self._tap.logits.cpu().double().numpy())
            start += len(piece)
            if self._state.answered:
                self._conversation.answer.extend(piece)
            self._judge_if_due()

    def _judge_if_due(self) -> None:
        if self._state.due is None:
            return
        try:
            end = self._conversation.chat.answer_start + self._state.answered
            logit = self._scheduler.verdict_on(Ask(self._conversation, end))
            if not math.isfinite(logit):
                self._fail("the verdict is no finite number")
            self._state.judge(logit)
        except Exception as error:  # any error halts: a stream that can't be judged must not continue
            self._fail(type(error).__name__)
            self._state.judge(None)

    def _fail(self, reason: str) -> None:
        logger.error("a verdict of the second stage failed: %s", reason)
        self._failure = self._failure or reason


def _token_list(token_ids: int | Iterable[int]) -> list[int]:
    if isinstance(token_ids, Iterable) and getattr(token_ids, "ndim", None) != 0:
        return [index(token) for token in token_ids]
    return [index(token_ids)]  # type: ignore[arg-type]
