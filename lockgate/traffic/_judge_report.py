"""A judge's own report: what it costs, how it goes with the probe, and what it gains at the budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import (
    Calibration,
    choose_threshold,
    clopper_pearson,
    first_of_each_group,
)
from lockgate.judges import Judge, JudgeCost
from lockgate.tables import ScoresTable
from lockgate.traffic._recall import Recall


@dataclass(frozen=True, slots=True)
class Correlation:
    """How a judge's logits go with the probe's, over the exchanges that both have read.

    Attributes:
        over: which exchanges these are.
        n: their number.
        pearson, spearman: correlation of the values and of their ranks; None if it is not defined.
    """

    over: str
    n: int
    pearson: float | None
    spearman: float | None

    @classmethod
    def of(cls, over: str, probe: Sequence[float], judge: Sequence[float]) -> "Correlation":
        """Correlate the largest logits of each exchange. It needs three exchanges that differ."""
        first, second = (np.asarray(values, dtype=np.float64) for values in (probe, judge))
        known = np.isfinite(first) & np.isfinite(second)
        first, second = first[known], second[known]
        if len(first) < 3 or not (first.std() > 0 and second.std() > 0):
            return cls(over, len(first), None, None)
        return cls(over, len(first), _pearson(first, second), _pearson(_ranks(first), _ranks(second)))


@dataclass(frozen=True, slots=True)
class Arrangement:
    """One way to use a judge, at the budget, on the same rows as the others.

    Attributes:
        name: `probe alone`, `judge alone` or `judge behind the probe`.
        n: distinct prompts of the traffic.
        flagged: those that are flagged.
        k: most that the budget allows.
        bound: the one-sided bound after `k` flags.
        asked: share of the traffic that the judge reads.
        recall: harmful development exchanges that are flagged; None without such exchanges.
        cost: the judge's verdicts on the traffic.
        money: their price; None if none is known.
    """

    name: str
    n: int
    flagged: int
    k: int
    bound: float
    asked: float
    recall: Recall | None
    cost: JudgeCost
    money: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {
            "name": self.name,
            "n": self.n,
            "flagged": self.flagged,
            "k": self.k,
            "bound": self.bound,
            "asked": self.asked,
            "recall": None if self.recall is None else self.recall.to_dict(),
            "cost": {
                "verdicts": self.cost.verdicts,
                "seconds": self.cost.seconds,
                "prompt_tokens": self.cost.prompt_tokens,
                "completion_tokens": self.cost.completion_tokens,
                "money": self.money,
            },
        }


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What a user needs to decide whether a judge pays.

    Attributes:
        name, kind, sha256: the judge.
        currency: of the money; None if no price is known.
        correlation: of the judge with the probe.
        arrangements: the probe alone, the judge behind it and, if asked for, the judge alone.
    """

    name: str
    kind: str
    sha256: str
    currency: str | None
    correlation: Correlation
    arrangements: tuple[Arrangement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {
            "name": self.name,
            "kind": self.kind,
            "sha256": self.sha256,
            "currency": self.currency,
            "correlation": {
                "over": self.correlation.over,
                "n": self.correlation.n,
                "pearson": self.correlation.pearson,
                "spearman": self.correlation.spearman,
            },
            "arrangements": [row.to_dict() for row in self.arrangements],
        }


@dataclass(frozen=True, slots=True)
class Comparer:
    """Compares arrangements on one sample of traffic and the same harmful development exchanges.

    Attributes:
        judge: the judge.
        benign: the traffic, its rows with an answer.
        loud: harmful development exchanges; None without them.
        settings: `budget`, `confidence` and `exclusions` of `choose_threshold`.
    """

    judge: Judge
    benign: ScoresTable
    loud: ScoresTable | None
    settings: dict[str, Any]

    def alone(
        self,
        name: str,
        scores: NDArray[np.float64],
        caught: NDArray[np.float64] | None,
        cost: JudgeCost,
        asked: float,
    ) -> Arrangement:
        """Set a threshold of its own for scores of the traffic [N], by the rule of every calibration.

        Args:
            scores: of the traffic.
            caught: of the harmful development exchanges.
            cost: of the judge on the traffic.
            asked: share of the traffic that the judge reads.

        Raises:
            CalibrationError: a score is not finite.
        """
        found = choose_threshold(
            scores, self.benign.groups, tolerance=0.0, ids=self.benign.ids, **self.settings
        )
        return self.arranged(name, found, caught, cost, asked)

    def arranged(
        self,
        name: str,
        found: Calibration,
        caught: NDArray[np.float64] | None,
        cost: JudgeCost,
        asked: float,
    ) -> Arrangement:
        """Describe an arrangement with its calibration; see `alone`."""
        recall = None
        if caught is not None and self.loud is not None:
            recall = recall_of(self.loud, caught, found.cut)
        money = cost.money(self.judge.file.price)
        return Arrangement(name, found.n, found.flagged, found.k, found.bound, asked, recall, cost, money)


def recall_of(table: ScoresTable, scores: NDArray[np.float64], cut: float) -> Recall | None:
    """Count the rows above a cut, one for each distinct prompt; None if there are none."""
    kept = first_of_each_group(table.groups, np.ones(len(scores), dtype=bool))
    if not len(kept):
        return None
    flagged = int((scores[kept] > cut).sum())
    return Recall(len(kept), flagged, clopper_pearson(flagged, len(kept)))


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.mean((first - first.mean()) * (second - second.mean())) / (first.std() * second.std()))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks, with the mean rank for ties."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])
