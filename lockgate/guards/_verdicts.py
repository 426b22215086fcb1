"""The second stage: what anything that gives verdicts must offer, and the exchange classifier that does."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lockgate.backbones import RenderedChat
from lockgate.classifiers import BlockScores, ClassifierSession, ExchangeClassifier, judge, score_blocks
from lockgate.exchanges import Exchange


class VerdictSession(Protocol):
    """One conversation before stage 2; `length` counts the tokens of it that are known there."""

    @property
    def length(self) -> int:
        """Conversation tokens known so far."""
        ...

    def cost(self, new_tokens: int) -> int:
        """Tokens that a verdict after `new_tokens` more will read."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class VerdictSource(Protocol):
    """What gives verdicts on conversations that grow. One thread uses it.

    `VerdictScheduler` decides which conversations go into one call of `judge`.
    """

    @property
    def reads_in_pieces(self) -> bool:
        """Whether a verdict is the same if the prompt was read with the help of earlier, unused verdicts."""
        ...

    def open(self, chat: RenderedChat, capacity: int) -> VerdictSession:
        """A session over what stands before the answer in `chat`. Raises PoolFull: no memory now."""
        ...

    # The sessions are those of `open`; their type is the source's own.
    def judge(self, asks: Sequence[tuple[Any, Sequence[int]]]) -> list[float]:
        """Verdict logits after new tokens of some conversations, in one packed step."""
        ...

    def flops(self, session: Any, cost: int) -> float:  # noqa: ANN401
        """Multiply-adds counted twice of a verdict just given for `cost` tokens; 0 where nobody counts."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


class SecondStage(Protocol):
    """What can be a guard's second stage: an exchange classifier, or any other judge of conversations."""

    def open_verdicts(self, kv_tokens: int) -> VerdictSource:
        """A source of verdicts on conversations that grow.

        Args:
            kv_tokens: tokens of memory for all its sessions together, if it needs any.
        """
        ...

    def read_blocks(self, exchanges: Iterable[Exchange], *, stride: int) -> Iterator[BlockScores]:
        """Verdicts on whole exchanges at the end of every block, in input order: for calibration, in bulk."""
        ...


class Verdicts:
    """Verdicts of an exchange classifier, with `kv_tokens` tokens of memory for all sessions together.

    The memory must hold one whole context at least: `kv_tokens` below it is raised to it.
    """

    def __init__(self, classifier: ExchangeClassifier, kv_tokens: int) -> None:
        self.classifier = classifier
        self._pool = classifier.pool(max(kv_tokens, classifier.backbone.context_length))

    @property
    def reads_in_pieces(self) -> bool:
        """True with verdict words; a value head remembers where the answer began."""
        return self.classifier.head == "verdict"

    @property
    def kv_used_tokens(self) -> int:
        """Tokens of memory that open sessions have reserved."""
        return self._pool.kv_used_tokens

    def open(self, chat: RenderedChat, capacity: int) -> ClassifierSession:
        """See `ExchangeClassifier.open`."""
        return self.classifier.open(self._pool, chat, capacity)

    def judge(self, asks: Sequence[tuple[ClassifierSession, Sequence[int]]]) -> list[float]:
        """See `lockgate.classifiers.judge`."""
        return judge(self._pool, asks)

    def flops(self, session: ClassifierSession, cost: int) -> float:
        """Multiply-adds counted twice of a verdict just given for `cost` tokens."""
        seen = min(session.length, self.classifier.tokens_per_window) + self.classifier.tokens_per_verdict
        return self.classifier.flops(cost, max(0, seen - cost))

    def close(self) -> None:
        """Drop the pool; sessions are closed by those who opened them."""
        self._pool.close()


@dataclass(frozen=True, slots=True)
class ClassifierStage:
    """An exchange classifier as a second stage."""

    classifier: ExchangeClassifier

    def open_verdicts(self, kv_tokens: int) -> Verdicts:
        """See `SecondStage.open_verdicts`."""
        return Verdicts(self.classifier, kv_tokens)

    def read_blocks(self, exchanges: Iterable[Exchange], *, stride: int) -> Iterator[BlockScores]:
        """See `lockgate.classifiers.score_blocks`."""
        return score_blocks(self.classifier, exchanges, stride=stride)
