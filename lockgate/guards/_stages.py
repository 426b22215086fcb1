"""What judges an exchange: one value for one stage and for two, whatever the second one is."""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lockgate.cascade import Cascade, CascadeState, ExchangeState, Regions, StreamState, Thresholds
from lockgate.classifiers import BlockScores, ProbeHead
from lockgate.errors import GuardError
from lockgate.exchanges import Exchange
from lockgate.guards._verdicts import SecondStage, VerdictSource

# Exchanges whose verdicts are given together; the logits of all of them are kept meanwhile.
GROUP = 64


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The stages of a guard. Files, streams and the server all judge through it, and through nothing else.

    Whether there is a second stage is asked here alone: with one stage no verdict is ever due, so that who
    drives an `ExchangeState` needs no case for it.

    Attributes:
        head: the probe, stage 1.
        thresholds: when the probe alone flags. With a second stage only `min_tokens` and `flag_on` count.
        cascade: how both stages decide.
        second: what gives verdicts, such as an exchange classifier.

    Raises:
        GuardError: a cascade without a second stage, or the other way round.
    """

    head: ProbeHead
    thresholds: Thresholds
    cascade: Cascade | None = None
    second: SecondStage | None = None

    def __post_init__(self) -> None:
        if (self.cascade is None) != (self.second is None):
            raise GuardError("a guard of two stages needs both a classifier and a cascade; give both")

    @property
    def count(self) -> int:
        """1 or 2, for those who describe a guard."""
        return 1 if self.second is None else 2

    @property
    def alarm(self) -> float:
        """Smoothed logit of the probe above which a stream is flagged, or its second stage is asked."""
        return self.thresholds.flag if self.cascade is None else self.cascade.escalate

    @property
    def tolerance(self) -> float:
        """Numeric uncertainty of the score that decides."""
        return (self.cascade or self.thresholds).tolerance

    @property
    def group(self) -> int:
        """Exchanges of a file that are judged together: all that there are where none waits for a verdict."""
        return sys.maxsize if self.second is None else GROUP

    def new_state(self, regions: Regions) -> ExchangeState:
        """The state machine of one exchange."""
        head, limits = self.head, self.thresholds
        if self.cascade is None:
            return StreamState(limits, head.gamma, regions, head.category_ids)
        # What the probe alone would flag at plays no part.
        alone = Thresholds(math.inf, min_tokens=limits.min_tokens, flag_on=limits.flag_on)
        return CascadeState(self.cascade, StreamState(alone, head.gamma, regions, head.category_ids))

    def open_verdicts(self, kv_tokens: int) -> VerdictSource | None:
        """The source of verdicts, with memory for `kv_tokens` tokens; None where none is ever due."""
        return None if self.second is None else self.second.open_verdicts(kv_tokens)

    def require_second(self) -> tuple[Cascade, SecondStage]:
        """How two stages decide, and the second one.

        Raises:
            GuardError: there is no second stage.
        """
        if self.cascade is None or self.second is None:
            raise GuardError(
                "this guard has one stage; verdicts on blocks and their trace need a guard with a classifier"
            )
        return self.cascade, self.second

    def read_blocks(self, exchanges: Iterable[Exchange]) -> Iterator[BlockScores]:
        """Have the second stage judge whole exchanges at the end of every block.

        Raises:
            GuardError: there is no second stage.
        """
        cascade, second = self.require_second()
        return second.read_blocks(exchanges, stride=cascade.stride)
