"""The stages that judge an exchange, as one value: one stage or two, with any kind of second stage."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from lockgate.cascade import Cascade, CascadeState, ExchangeState, Regions, StreamState, Thresholds
from lockgate.classifiers import BlockScores, ProbeHead
from lockgate.errors import GuardError
from lockgate.exchanges import Exchange
from lockgate.guards._verdicts import SecondStage, VerdictSource

# Exchanges that stage 2 judges together. Until then the logits of all of them are kept.
GROUP = 64


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The stages of a guard. Files, streams and the server all judge through this object alone.

    Only this object asks whether there is a second stage. With one stage no verdict is ever due, so a loop
    over an `ExchangeState` needs no special case.

    Attributes:
        head: the probe, stage 1.
        thresholds: when the probe alone flags. With a second stage only `min_tokens` and `flag_on` count.
        cascade: the rule by which both stages decide.
        second: the second stage, such as an exchange classifier.
        screens_for: the cascade whose stage 1 this is, for a guard's `screen`.

    Raises:
        GuardError: only one of `cascade` and `second` is given.
    """

    head: ProbeHead
    thresholds: Thresholds
    cascade: Cascade | None = None
    second: SecondStage | None = None
    screens_for: Cascade | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.cascade is None) != (self.second is None):
            raise GuardError("a guard of two stages needs both a classifier and a cascade; give both")

    @property
    def count(self) -> int:
        """Number of stages, 1 or 2, for descriptions of a guard."""
        return 1 if self.second is None else 2

    @property
    def alarm(self) -> float:
        """Smoothed logit above which the probe flags a stream or, with two stages, escalates it.

        With a `Cascade.drift` this is the threshold of corrected readings, and of the prompt.
        """
        return self.thresholds.flag if self.cascade is None else self.cascade.escalate

    @property
    def decides(self) -> float:
        """The threshold that flags: of the mixed score with two stages, or else of the probe's."""
        return (self.cascade or self.thresholds).flag

    @property
    def tolerance(self) -> float:
        """Numeric uncertainty of the score that decides."""
        return (self.cascade or self.thresholds).tolerance

    @property
    def screen(self) -> "Stages":
        """Stage 1 alone. It flags what the probe would flag or, with two stages, what it would escalate.

        A token of the last user turn counts too, also if it may not flag: it makes a stream suspicious. The
        score of an exchange is its largest corrected reading.
        """
        tolerance = self.thresholds.tolerance if self.cascade is None else 0.0
        alarm = Thresholds(self.alarm, tolerance, self.thresholds.min_tokens, "both")
        return Stages(self.head, alarm, screens_for=self.cascade)

    @property
    def group(self) -> int:
        """Number of exchanges of a file that are judged together. With one stage it has no limit."""
        return sys.maxsize if self.second is None else GROUP

    def new_state(self, regions: Regions, lowered: float = 0.0) -> ExchangeState:
        """Make the state machine of one exchange.

        Args:
            lowered: by how much the threshold that flags lies lower for it; see `Memory`.
        """
        head, limits, cascade = self.head, self.thresholds, self.cascade
        if cascade is None:
            limits = replace(limits, flag=limits.flag - lowered)
            return StreamState(limits, head.gamma, regions, head.category_ids, correct=self._correct)
        # The probe alone never flags here.
        alone = Thresholds(math.inf, min_tokens=limits.min_tokens, flag_on=limits.flag_on)
        stream = StreamState(alone, head.gamma, regions, head.category_ids)
        return CascadeState(replace(cascade, flag=cascade.flag - lowered), stream)

    def margin(self, state: ExchangeState) -> float:
        """Return by how much an exchange's score lies above the threshold that flags; see `Memory`."""
        return state.mixed_max - (self.decides - self.tolerance)

    @property
    def _correct(self) -> Callable[[float, int], float] | None:
        cascade = self.screens_for
        if cascade is None:
            return None
        return lambda logit, answered: cascade.corrected(logit, cascade.block_of(answered))

    def open_verdicts(self, kv_tokens: int) -> VerdictSource | None:
        """Open a source of verdicts with memory for `kv_tokens` tokens. With one stage, return None."""
        return None if self.second is None else self.second.open_verdicts(kv_tokens)

    def require_second(self) -> tuple[Cascade, SecondStage]:
        """Return the cascade and the second stage.

        Raises:
            GuardError: there is no second stage.
        """
        if self.cascade is None or self.second is None:
            raise GuardError(
                "this guard has one stage; verdicts on blocks and their trace need a guard with a classifier"
            )
        return self.cascade, self.second

    def read_blocks(self, exchanges: Iterable[Exchange]) -> Iterator[BlockScores]:
        """Let the second stage judge whole exchanges at the end of every block.

        Raises:
            GuardError: there is no second stage.
        """
        cascade, second = self.require_second()
        return second.read_blocks(exchanges, stride=cascade.stride)
