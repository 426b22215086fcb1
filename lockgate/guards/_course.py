"""The scoring of one whole exchange by the state machine of a guard's stages."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import RenderedChat
from lockgate.cascade import Block, ExchangeState
from lockgate.classifiers import BlockScores
from lockgate.guards._scheduler import Ask, Conversation, Given
from lockgate.guards._stage1 import regions_of
from lockgate.guards._stages import Stages


class Course:
    """One exchange that is being scored: it takes the probe's logits, and a verdict where its state asks.

    Logits that arrive while a verdict is due are kept until the verdict is given.

    Attributes:
        state: the state machine of the exchange.
        conversation: the exchange as the second stage reads it.
        ask: the verdict that is due; None if none is due.
        closed: the blocks so far, each in its last form. A short exchange closes its last block twice.
        verdicts: verdicts given, by block number.
        voices: logits of each voice on all blocks, if the second stage mixes several and judged all blocks.
        tokens, flops, cpu_s: cost of the second stage.
    """

    def __init__(self, stages: Stages, chat: RenderedChat) -> None:
        self.state: ExchangeState = stages.new_state(regions_of(chat))
        answer = chat.token_ids[chat.answer_start :]
        # Even without an answer token the prompt is closed, because at least one token is always read.
        capacity = max(chat.answer_end, chat.prefix_length + 1, chat.answer_start)
        self.conversation = Conversation(chat, capacity, answer)
        self.ask: Ask | None = None
        self.closed: list[Block] = []
        self.verdicts: dict[int, float] = {}
        self.voices: Mapping[str, Sequence[float]] = {}
        self.tokens, self.flops, self.cpu_s = 0, 0.0, 0.0
        self._logits: list[NDArray[np.floating]] = []
        self._ended = False
        self._advance()

    def consume(self, logits: NDArray[np.floating]) -> None:
        """Take the probe's logits `[tokens, 1 + categories]` of the next tokens."""
        self._logits.append(logits)
        self._advance()
        if self._logits:
            self._logits[-1] = self._logits[-1].copy()  # a view would keep the whole step in memory

    def end(self) -> None:
        """End the exchange, because stage 1 has read all of it."""
        self._ended = True
        self._advance()

    @property
    def over(self) -> bool:
        """Whether the exchange is read to its end and no verdict is due."""
        return self._ended and self.ask is None

    def take(self, given: Given[Ask]) -> None:
        """Take a step's result for the verdict that is due. Continue until the next verdict is due."""
        self.tokens += given.tokens
        self.flops += given.flops
        self.cpu_s += given.cpu_s
        if given.logit is not None and self.state.due is not None:
            self.verdicts[self.state.due.number] = given.logit
            self._judge(given.logit)

    def take_all(self, scores: BlockScores) -> None:
        """Take verdicts on all blocks. The state gets those that it asks for; the trace gets all."""
        while self.state.due is not None:
            self._judge(scores.logits[min(self.state.due.number, len(scores.logits) - 1)])
        self.verdicts, self.voices = dict(enumerate(scores.logits)), scores.voices
        self.tokens, self.flops, self.cpu_s = scores.tokens, scores.flops, scores.cpu_s

    def _judge(self, logit: float) -> None:
        self.state.judge(logit)
        self.ask = None
        self._advance()

    def _advance(self) -> None:
        """Continue until a verdict is due or no logits are left."""
        self._note()
        while self.state.due is None and self._logits:
            rows = self._logits.pop(0)
            taken = rows[: self.state.room]
            self.state.consume(taken)
            if len(taken) < len(rows):
                self._logits.insert(0, rows[len(taken) :])
            self._note()
        if self._ended and self.state.due is None:
            self.state.finish()
            self._note()
        if self.state.due is not None and self.ask is None:
            start = self.conversation.chat.answer_start
            self.ask = Ask(self.conversation, start + self.state.answered)

    def _note(self) -> None:
        """Keep the newest block. A short exchange closes its last block again at its end."""
        block = self.state.closed
        if block is None or (self.closed and self.closed[-1] is block):
            return
        if self.closed and self.closed[-1].number == block.number:
            self.closed.pop()
        self.closed.append(block)
