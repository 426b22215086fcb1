"""What every way of scoring asks of the state of one exchange, however many stages judge it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lockgate.cascade._block import Block
from lockgate.cascade._stream import Verdict


class ExchangeState(Protocol):
    """The state machine of one exchange; `StreamState` and `CascadeState` are such.

    Whoever drives it consumes tokens as far as there is `room`, judges whenever a verdict is `due`, and
    finishes at the end. With one stage there is always room and a verdict is never due, so that the same loop
    drives both.
    """

    @property
    def room(self) -> int:
        """Tokens that may be consumed before a verdict can be due."""
        ...

    @property
    def due(self) -> Block | None:
        """The block that a verdict must be given on before more tokens are read."""
        ...

    @property
    def closed(self) -> Block | None:
        """The newest block that has ended."""
        ...

    def consume(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Take the probe's logits `[tokens, 1 + categories]` of the next tokens; return the smoothed ones."""
        ...

    def judge(self, logit: float | None) -> None:
        """Take the verdict on the block that is `due`. None is a verdict that failed.

        Raises:
            ConfigError: no verdict is due.
        """
        ...

    def finish(self) -> Verdict:
        """The exchange has ended. A verdict may be due then: judge it and finish again."""
        ...

    @property
    def flagged(self) -> bool:
        """Whether the exchange is to be halted."""
        ...

    @property
    def flag_token(self) -> int | None:
        """Place of the flag within its region."""
        ...

    @property
    def category(self) -> str | None:
        """The category whose head stood highest at the flag."""
        ...

    @property
    def verdict(self) -> Verdict:
        """What is known after the newest token."""
        ...

    @property
    def released(self) -> int:
        """Answer tokens that may leave now."""
        ...

    @property
    def suspicious(self) -> bool:
        """Whether tokens are held until the next verdict."""
        ...

    @property
    def answered(self) -> int:
        """Answer tokens read."""
        ...

    @property
    def scored(self) -> int:
        """Tokens that the probe has scored."""
        ...

    @property
    def max_prompt(self) -> float:
        """The probe's largest smoothed logit in the last user turn; NaN if there is none."""
        ...

    @property
    def max_answer(self) -> float:
        """The probe's largest smoothed logit in the answer; NaN if there is none."""
        ...

    @property
    def max_score(self) -> float:
        """The larger one of the regions that may flag; minus infinity if there is none."""
        ...

    @property
    def mixed_max(self) -> float:
        """Largest score of those that decide: mixed scores, or those of the probe where it decides alone."""
        ...

    @property
    def ranked(self) -> float:
        """What the exchange is ranked by: `mixed_max`. With one stage a prompt alone has its own maximum."""
        ...

    @property
    def classifier_max(self) -> float:
        """Largest verdict of the second stage; NaN while there is none."""
        ...

    @property
    def verdicts(self) -> int:
        """Verdicts taken."""
        ...

    @property
    def stage(self) -> int:
        """The last stage that was asked, 1 or 2."""
        ...
