"""The protocol that every state of an exchange follows, with one stage or two."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lockgate.cascade._stream import Block, Verdict


class ExchangeState(Protocol):
    """The state machine of one exchange: `StreamState` or `CascadeState`.

    A caller consumes tokens while there is `room`, judges when a verdict is `due`, and calls `finish` at the
    end. With one stage there is always room and no verdict is ever due. So one loop drives both.
    """

    @property
    def room(self) -> int:
        """Number of tokens that `consume` can take now. After them a verdict may be due."""
        ...

    @property
    def due(self) -> Block | None:
        """The block that needs a verdict before more tokens are read."""
        ...

    @property
    def closed(self) -> Block | None:
        """The newest closed block; None before the first."""
        ...

    def consume(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Read the probe's logits `[tokens, 1 + categories]` of the next tokens; return the smoothed ones."""
        ...

    def judge(self, logit: float | None) -> None:
        """Take the verdict on the block that is `due`. None means that stage 2 failed.

        Raises:
            ConfigError: no verdict is due.
        """
        ...

    def finish(self) -> Verdict:
        """End the exchange. If a verdict is `due` then, judge it and call this again."""
        ...

    @property
    def flagged(self) -> bool:
        """Whether the exchange must be halted."""
        ...

    @property
    def flag_token(self) -> int | None:
        """Number of the flagged token within its region; None without a flag."""
        ...

    @property
    def category(self) -> str | None:
        """The category whose head is highest at the flag; None without a flag or category heads."""
        ...

    @property
    def verdict(self) -> Verdict:
        """The state after the newest token."""
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
        """The probe's largest smoothed logit where it may flag; minus infinity if there is none."""
        ...

    @property
    def mixed_max(self) -> float:
        """Largest deciding score: a mixed score, or the probe's (corrected) score if there is one stage."""
        ...

    @property
    def ranked(self) -> float:
        """Score that ranks the exchange: `mixed_max`. With one stage, a prompt alone ranks by its maximum."""
        ...

    @property
    def classifier_max(self) -> float:
        """Largest verdict of stage 2; NaN while there is none."""
        ...

    @property
    def verdicts(self) -> int:
        """Verdicts taken."""
        ...

    @property
    def stage(self) -> int:
        """The highest stage that was asked, 1 or 2."""
        ...
