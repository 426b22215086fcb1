"""How much harm a threshold finds."""

from typing import Any, NamedTuple

from lockgate.calibration import Interval


class Recall(NamedTuple):
    """The harmful rows that a threshold finds.

    Attributes:
        n: distinct prompts of rows that are labelled harmful.
        flagged: those that are flagged.
        interval: two-sided 95 % Clopper-Pearson interval of their share.
    """

    n: int
    flagged: int
    interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        share = self.flagged / self.n
        return {"n": self.n, "flagged": self.flagged, "share": share, "interval": list(self.interval)}
