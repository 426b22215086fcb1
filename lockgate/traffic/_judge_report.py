"""A judge's own report: what it costs, how it goes with the probe, and what it gains at the budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate.calibration import (
    Calibration,
    Interval,
    choose_threshold,
    clopper_pearson,
    first_of_each_group,
)
from lockgate.judges import JudgeCost, Price
from lockgate.tables import ScoresTable
from lockgate.traffic._recall import Recall

BEHIND = "judge behind the probe"
STAGE_BEHIND = "second stage behind the probe"
_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Correlation:
    """How a judge's logits go with the probe's, over the exchanges that both have read.

    Attributes:
        over: which exchanges these are.
        n: their number.
        pearson, spearman: correlation of the values and of their ranks; None if it is not defined.
        interval: two-sided 95 % interval of the correlation of ranks (Bonett and Wright 2000); None for fewer
            than four exchanges.
    """

    over: str
    n: int
    pearson: float | None
    spearman: float | None
    interval: Interval | None = None

    @classmethod
    def of(cls, over: str, probe: Sequence[float], judge: Sequence[float]) -> "Correlation":
        """Correlate the largest logits of each exchange. It needs three exchanges that differ."""
        first, second = (np.asarray(values, dtype=np.float64) for values in (probe, judge))
        known = np.isfinite(first) & np.isfinite(second)
        first, second = first[known], second[known]
        if len(first) < 3 or not (first.std() > 0 and second.std() > 0):
            return cls(over, len(first), None, None)
        ranks = _pearson(_ranks(first), _ranks(second))
        return cls(over, len(first), _pearson(first, second), ranks, spearman_interval(ranks, len(first)))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {
            "over": self.over,
            "n": self.n,
            "pearson": self.pearson,
            "spearman": self.spearman,
            "spearman_interval": None if self.interval is None else list(self.interval),
        }


def spearman_interval(value: float, n: int) -> Interval | None:
    """Return the 95 % interval of a rank correlation of `n` pairs, by Fisher's transformation.

    The standard error of the transformed value is sqrt((1 + r^2 / 2) / (n - 3)) (Bonett and Wright 2000).
    """
    if n < 4:
        return None
    value = max(-1.0, min(1.0, value))
    if abs(value) == 1.0:
        return Interval(value, value)
    half = _NORMAL_975 * math.sqrt((1 + value**2 / 2) / (n - 3))
    return Interval(math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half))


@dataclass(frozen=True, slots=True)
class Gain:
    """What the mixture finds beyond another arrangement at the same budget, on the same harmful prompts.

    Attributes:
        over: the other arrangement.
        n: distinct prompts of harmful development exchanges.
        gained, lost: those that only the mixture flags, and those that only the other one flags.
        interval: interval of the difference of both recalls, of at least 95 % (from exact intervals of both
            counts).
    """

    over: str
    n: int
    gained: int
    lost: int
    interval: Interval

    @classmethod
    def of(cls, over: str, mixture: NDArray[np.bool_], other: NDArray[np.bool_]) -> "Gain":
        """Compare what two arrangements flag [N]."""
        n, gained = len(mixture), int((mixture & ~other).sum())
        lost = int((other & ~mixture).sum())
        # Each of the two intervals misses in at most 2.5 %, so that both hold in at least 95 %.
        first, second = clopper_pearson(gained, n, 0.975), clopper_pearson(lost, n, 0.975)
        return cls(over, n, gained, lost, Interval(first.lower - second.upper, first.upper - second.lower))

    @property
    def share(self) -> float:
        """The difference of both recalls."""
        return (self.gained - self.lost) / self.n

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        counts = {"over": self.over, "n": self.n, "gained": self.gained, "lost": self.lost}
        return {**counts, "share": self.share, "interval": list(self.interval)}


@dataclass(frozen=True, slots=True)
class Arrangement:
    """One way to use a judge, at the budget, on the same rows as the others.

    Attributes:
        name: `probe alone`, `judge alone`, `judge behind the probe` (`BEHIND`); for other second stages
            `second stage alone` and `STAGE_BEHIND`.
        n: distinct prompts of the traffic.
        flagged: those that are flagged.
        k: most that the budget allows.
        bound: the one-sided bound after `k` flags.
        asked: share of the traffic that the judge reads.
        recall: harmful development exchanges that are flagged; None without such exchanges.
        cost: the judge's verdicts on the traffic.
        money: their price; None if none is known.
        caught: which of the harmful development prompts are flagged [N]; None without such exchanges.
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
    caught: NDArray[np.bool_] | None = field(default=None, compare=False)

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
        voices: of a mixture of several, the correlation of each with the probe, by its name.
    """

    name: str
    kind: str
    sha256: str
    currency: str | None
    correlation: Correlation
    arrangements: tuple[Arrangement, ...]
    voices: Mapping[str, Correlation] = field(default_factory=dict)

    @property
    def gains(self) -> tuple[Gain, ...]:
        """What the judge behind the probe finds beyond each other arrangement."""
        found = next((row for row in self.arrangements if row.name in (BEHIND, STAGE_BEHIND)), None)
        if found is None or found.caught is None or not len(found.caught):
            return ()
        others = [row for row in self.arrangements if row is not found and row.caught is not None]
        return tuple(Gain.of(row.name, found.caught, row.caught) for row in others if row.caught is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready figures."""
        return {
            "name": self.name,
            "kind": self.kind,
            "sha256": self.sha256,
            "currency": self.currency,
            "correlation": self.correlation.to_dict(),
            "voices": {name: found.to_dict() for name, found in self.voices.items()},
            "arrangements": [row.to_dict() for row in self.arrangements],
            "gains": [gain.to_dict() for gain in self.gains],
        }


@dataclass(frozen=True, slots=True)
class Comparer:
    """Compares arrangements on one sample of traffic and the same harmful development exchanges.

    Attributes:
        price: what the judge's tokens cost; None if it is not known.
        benign: the traffic, its rows with an answer.
        loud: harmful development exchanges; None without them.
        settings: `budget`, `confidence` and `exclusions` of `choose_threshold`.
    """

    price: Price | None
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
        recall = flags = None
        if caught is not None and self.loud is not None:
            recall = recall_of(self.loud, caught, found.cut)
            flags = caught[_firsts(self.loud)] > found.cut
        money = cost.money(self.price)
        return Arrangement(
            name, found.n, found.flagged, found.k, found.bound, asked, recall, cost, money, flags
        )


def recall_of(table: ScoresTable, scores: NDArray[np.float64], cut: float) -> Recall | None:
    """Count the rows above a cut, one for each distinct prompt; None if there are none."""
    kept = _firsts(table)
    if not len(kept):
        return None
    flagged = int((scores[kept] > cut).sum())
    return Recall(len(kept), flagged, clopper_pearson(flagged, len(kept)))


def probe_scores(table: ScoresTable, flag_on: str) -> NDArray[np.float64]:
    """Return the probe's largest logit of each exchange [N] in the regions that may flag."""
    answer, prompt = table.floats("max_answer"), table.floats("max_prompt")
    return answer if flag_on == "answer" else np.asarray(np.fmax(answer, prompt))


def _firsts(table: ScoresTable) -> NDArray[np.int64]:
    """Return the row that stands for each distinct prompt."""
    return np.asarray(first_of_each_group(table.groups, np.ones(len(table), dtype=bool)))


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.mean((first - first.mean()) * (second - second.mean())) / (first.std() * second.std()))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks, with the mean rank for ties."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])
