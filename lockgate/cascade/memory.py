"""The memory of a conversation: evidence that adds up over its exchanges.

An attacker may ask again and again, each time a little below the threshold. Each exchange is judged by
itself; this adds what they have in common. It is a cumulative sum of scores (CUSUM) that is slow to forget.
As it grows, the threshold of the next exchange falls.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lockgate.errors import ConfigError

__all__ = ["Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """How the exchanges of a conversation add up. All numbers are in units of the score that decides.

    The *margin* of an exchange is its score less the threshold, so it is above 0 if the exchange flags.

    Attributes:
        allowance: an exchange is evidence if its margin lies above minus this.
        forget: most that a calm exchange takes off the evidence.
        limit: sum of evidence above which an exchange flags. A single exchange can't reach it.

    Raises:
        ConfigError: a number is not finite, not above 0, or the limit lies below the allowance.
    """

    allowance: float
    forget: float
    limit: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) and x > 0 for x in (self.allowance, self.forget, self.limit)):
            raise ConfigError("memory: expected finite numbers above 0 for allowance, forget and limit")
        if self.limit < self.allowance:
            raise ConfigError("memory: a limit below the allowance would flag exchanges without a past")

    def add(self, evidence: float, margin: float) -> float:
        """Return the evidence after one more exchange.

        Args:
            margin: of the exchange. Minus infinity if nothing in it was judged. A failed reading (NaN or plus
                infinity) counts like a flag.
        """
        reached = min(margin, 0.0) if margin == margin else 0.0
        return max(0.0, evidence + max(self.allowance + reached, -self.forget))

    def lowered(self, evidence: float) -> float:
        """Return by how much the threshold of the next exchange lies lower."""
        return max(0.0, evidence + self.allowance - self.limit)

    def highest(self, margins: Iterable[float]) -> float:
        """Return the largest sum that a conversation reaches: any limit below it flags one of its exchanges.

        Args:
            margins: of its exchanges in order. None of them flags by itself.
        """
        evidence, highest = 0.0, -math.inf
        for margin in margins:
            highest = max(highest, evidence + self.allowance + margin)
            evidence = self.add(evidence, margin)
        return highest
