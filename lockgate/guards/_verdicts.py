"""The second stage: the interface of anything that gives verdicts, and the exchange classifier behind it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lockgate.backbones import RenderedChat
from lockgate.classifiers import BlockScores, ClassifierSession, ExchangeClassifier, judge, score_blocks
from lockgate.exchanges import Exchange


class VerdictSession(Protocol):
    """One conversation in stage 2. A `cost` of 0 never fills a step."""

    @property
    def length(self) -> int:
        """Conversation tokens known so far."""
        ...

    def cost(self, new_tokens: int) -> int:
        """Return the number of tokens that a verdict after `new_tokens` more will read."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class VerdictSource(Protocol):
    """A source of verdicts on conversations that grow. One thread uses it.

    `VerdictScheduler` decides which conversations go into one call of `judge`.
    """

    @property
    def reads_in_pieces(self) -> bool:
        """Whether a prompt may be read in pieces. The verdicts in between must not change a later one."""
        ...

    def open(self, chat: RenderedChat, capacity: int) -> VerdictSession:
        """Open a session over the tokens before the answer in `chat`.

        Args:
            capacity: largest number of tokens, prompt and answer.

        Raises:
            PoolFull: there is no memory now. A source without memory never raises it.
        """
        ...

    # `open` makes the sessions; each source has its own type of them.
    def judge(self, asks: Sequence[tuple[Any, Sequence[int]]]) -> list[float]:
        """Return verdict logits after the new tokens of some conversations, in one packed step."""
        ...

    def flops(self, session: Any, cost: int) -> float:  # noqa: ANN401
        """Return the FLOPs of the newest verdict, which read `cost` tokens; 0 if they are not counted."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


class SecondStage(Protocol):
    """A guard's second stage: an exchange classifier, or any other judge of conversations."""

    def open_verdicts(self, kv_tokens: int) -> VerdictSource:
        """Open a source of verdicts on conversations that grow.

        Args:
            kv_tokens: tokens of memory for all its sessions together, if it needs memory.
        """
        ...

    def read_blocks(self, exchanges: Iterable[Exchange], *, stride: int) -> Iterator[BlockScores]:
        """Judge whole exchanges at the end of every block, in input order. Calibration uses this."""
        ...


class Verdicts:
    """The verdicts of an exchange classifier, as a `VerdictSource`.

    Args:
        kv_tokens: tokens of memory for all sessions together. It is raised to one context if it is smaller.
    """

    def __init__(self, classifier: ExchangeClassifier, kv_tokens: int) -> None:
        self.classifier = classifier
        self._pool = classifier.pool(max(kv_tokens, classifier.backbone.context_length))

    @property
    def reads_in_pieces(self) -> bool:
        """True with verdict words. A value head has to know from the start where the answer begins."""
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
        """Return the FLOPs of the newest verdict, which read `cost` tokens."""
        seen = min(session.length, self.classifier.tokens_per_window) + self.classifier.tokens_per_verdict
        return self.classifier.flops(cost, max(0, seen - cost))

    def close(self) -> None:
        """Close the pool. Callers close the sessions that they opened."""
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
