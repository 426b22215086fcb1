"""One whole exchange on its way through the state machine of its stages."""

import numpy as np
from numpy.typing import NDArray

from lockgate.backbones import RenderedChat
from lockgate.cascade import Block, ExchangeState
from lockgate.classifiers import BlockScores
from lockgate.guards._scheduler import Ask, Conversation, Given
from lockgate.guards._stage1 import regions_of
from lockgate.guards._stages import Stages


class Course:
    """Takes the probe's logits of an exchange and, wherever its state asks for one, a verdict.

    Logits that come while a verdict is due are kept: how far a block goes is only known afterwards.

    Attributes:
        state: what is known of the exchange.
        conversation: the exchange as the second stage reads it.
        ask: the verdict that is due; None while there is none.
        closed: the blocks so far, each as it stood when it was closed for the last time.
        verdicts: those given, by the number of their block.
        tokens, flops, cpu_s: what the second stage has spent.
    """

    def __init__(self, stages: Stages, chat: RenderedChat) -> None:
        self.state: ExchangeState = stages.new_state(regions_of(chat))
        answer = chat.token_ids[chat.answer_start :]
        # An answer without a token still closes the prompt: one token is always read.
        capacity = max(chat.answer_end, chat.prefix_length + 1, chat.answer_start)
        self.conversation = Conversation(chat, capacity, answer)
        self.ask: Ask | None = None
        self.closed: list[Block] = []
        self.verdicts: dict[int, float] = {}
        self.tokens, self.flops, self.cpu_s = 0, 0.0, 0.0
        self._logits: list[NDArray[np.floating]] = []
        self._ended = False
        self._advance()

    def consume(self, logits: NDArray[np.floating]) -> None:
        """Take the probe's logits of the next tokens."""
        self._logits.append(logits)
        self._advance()
        if self._logits:
            self._logits[-1] = self._logits[-1].copy()  # a view would keep all of the step

    def end(self) -> None:
        """Stage 1 has read all of the exchange."""
        self._ended = True
        self._advance()

    @property
    def over(self) -> bool:
        """Whether nothing more is to come: all is read, and no verdict is due."""
        return self._ended and self.ask is None

    def take(self, given: Given[Ask]) -> None:
        """Take what a step has given for the verdict that is due, and go on to the next one."""
        self.tokens += given.tokens
        self.flops += given.flops
        self.cpu_s += given.cpu_s
        if given.logit is not None and self.state.due is not None:
            self.verdicts[self.state.due.number] = given.logit
            self._judge(given.logit)

    def take_all(self, scores: BlockScores) -> None:
        """Take verdicts on all blocks; the state gets those that it asks for, the trace has them all."""
        while self.state.due is not None:
            self._judge(scores.logits[min(self.state.due.number, len(scores.logits) - 1)])
        self.verdicts = dict(enumerate(scores.logits))
        self.tokens, self.flops, self.cpu_s = scores.tokens, scores.flops, scores.cpu_s

    def _judge(self, logit: float) -> None:
        self.state.judge(logit)
        self.ask = None
        self._advance()

    def _advance(self) -> None:
        """Go on to the next verdict that is due, or as far as there are logits."""
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
        """Keep the newest block. A short exchange closes its last one again when it ends."""
        block = self.state.closed
        if block is None or (self.closed and self.closed[-1] is block):
            return
        if self.closed and self.closed[-1].number == block.number:
            self.closed.pop()
        self.closed.append(block)
