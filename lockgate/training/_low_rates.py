"""Recall at low false-positive rates, and whether one score beats another there beyond chance.

A guard serves at a rate of false alarms far below what a small set can show. The mean over a few low rates
is steadier than the recall at the lowest one. Unlike AUROC, it ignores the middle of the curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockgate.errors import TrainingError

LOW_RATES = (0.005, 0.01, 0.02, 0.05)
_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class LowRateGain:
    """The gain of one score over another.

    Attributes:
        value: difference of the mean recalls.
        error: its standard error over resampled groups.
        lower: the value that 95 % of the resampled differences exceed.
    """

    value: float
    error: float
    lower: float


class LowRateRecall:
    """The judge of scores of one set of rows.

    The false-positive rate is taken in each part of the harmless rows by itself, such as traffic and
    synthetic rows. Otherwise the hardest part alone would set the cut, or the largest. The parts then count
    alike.

    Args:
        harmful: labels [N].
        groups: group of each row [N]; rows of a group are resampled together.
        parts: part of each harmless row [N]. A harmless row with an empty part counts nowhere, and the part
            of a harmful row is ignored.
        seed: seed of the resampling.

    Raises:
        TrainingError: a label is missing, or the lengths differ.
    """

    def __init__(
        self,
        harmful: NDArray[np.bool_],
        groups: Sequence[int],
        parts: Sequence[str],
        *,
        rates: Sequence[float] = LOW_RATES,
        seed: int = 0,
    ) -> None:
        if not len(harmful) == len(groups) == len(parts):
            raise TrainingError("expected a label, a group and a part for each row")
        own = np.asarray(parts, dtype=str)
        self._parts = [~harmful & (own == name) for name in sorted(set(own[~harmful]) - {""})]
        if not harmful.any() or not self._parts:
            raise TrainingError("recall needs rows of both labels; found only one")
        self._harmful, self._rates = harmful, tuple(rates)
        self._weights = _resamples(groups, seed)

    def value(self, scores: NDArray[np.float64]) -> float:
        """Return the mean recall of scores [N] over the rates and the parts. Ties count against a score."""
        return float(self._recall(scores, np.ones((1, len(scores))))[0])

    def gain(self, scores: NDArray[np.float64], other: NDArray[np.float64]) -> LowRateGain:
        """Return by how much `scores` [N] beat `other` [N], over the same resamples of groups."""
        drawn = self._recall(scores, self._weights) - self._recall(other, self._weights)
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return LowRateGain(self.value(scores) - self.value(other), float("inf"), float("-inf"))
        found = self.value(scores) - self.value(other)
        return LowRateGain(found, float(drawn.std()), float(np.quantile(drawn, 0.05)))

    def _recall(self, scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        # Harmless rows come first where scores tie.
        order = np.lexsort((self._harmful, -scores))
        weights = weights[:, order]
        caught = weights * self._harmful[order]
        found = np.zeros(len(weights))
        with np.errstate(invalid="ignore", divide="ignore"):
            for part in self._parts:
                alarms = np.cumsum(weights * part[order], axis=1)
                share = alarms / alarms[:, -1:]
                hits = [(caught * (share <= rate)).sum(axis=1) for rate in self._rates]
                found += np.mean(hits, axis=0) / caught.sum(axis=1)
        return found / len(self._parts)


def _resamples(groups: Sequence[int], seed: int) -> NDArray[np.float64]:
    """Return how often each row is drawn in each resample of whole groups, `[resamples, rows]`."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), shares, size=_RESAMPLES)
    return drawn[:, index].astype(np.float64)
