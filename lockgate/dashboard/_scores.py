"""Recorded scores: their histogram, how much they have moved, and other thresholds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lockgate.decisions import Decision, deciding_score
from lockgate.guards import GuardRecord
from lockgate.traffic import Counts, count_changes

# Usual levels of the population stability index.
PSI_WATCH, PSI_ALARM = 0.1, 0.25
BINS = 48


@dataclass(frozen=True, slots=True)
class Recorded:
    """Scores that the served guard would give too.

    Attributes:
        scores: infinite where a reading failed; minus infinity where nothing was read.
        before: whether the exchange was flagged.
        others: decisions whose scores come from something else, or that could not be checked.
    """

    scores: Sequence[float]
    before: Sequence[bool]
    others: int


def score_of(decision: Decision, record: GuardRecord) -> float:
    """Return the score of a decision that is compared with the threshold."""
    flag_on = record.thresholds.flag_on
    return deciding_score(
        decision.scores, two_stages=record.cascade is not None, flag_on=flag_on, flagged=decision.flagged
    )


def margin_of(decision: Decision, record: GuardRecord | None) -> float:
    """Return by how much a score lies above its threshold then; NaN if there is no number to compare."""
    threshold = decision.scores.threshold
    if threshold is None:
        return math.nan
    if record is not None:
        return score_of(decision, record) - threshold
    known = [score for score in (decision.scores.max_prompt, decision.scores.max_answer) if score is not None]
    return max(known, default=math.nan) - threshold


def recorded(decisions: Sequence[Decision], record: GuardRecord, sha256: str) -> Recorded:
    """Pick the decisions whose scores are those of a guard, as `lockgate replay` does."""
    own = [
        found
        for found in decisions
        if found.decision != "error" and (found.measure == record.measure or found.guard == sha256)
    ]
    scores = [score_of(found, record) for found in own]
    return Recorded(scores, [found.flagged for found in own], len(decisions) - len(own))


def at_threshold(found: Recorded, record: GuardRecord, threshold: float) -> Counts:
    """Count what another threshold would have decided."""
    before, scores = np.array(found.before, dtype=bool), np.array(found.scores, dtype=np.float64)
    return count_changes(before, scores, threshold, record.decides.tolerance)


def stability(scores: Sequence[float], quantiles: Mapping[str, float]) -> float | None:
    """Compute the population stability index of scores over the bands between a calibration's quantiles.

    Returns:
        None without scores, or with fewer than two quantiles below the highest, which is only the largest
        score of a sample.
    """
    known = sorted((float(name), value) for name, value in quantiles.items() if 0 < float(name) < 1)
    n = len(scores)
    if len(known) < 2 or not n:
        return None
    column = np.array(scores, dtype=np.float64)
    expected = -np.diff([1.0, *(1 - share for share, _ in known), 0.0])
    above = [int((column > value).sum()) for _, value in known]
    # Half an exchange in place of none keeps the logarithm finite.
    found = np.maximum(-np.diff([n, *above, 0]), 0.5) / n
    return float(((found - expected) * np.log(found / expected)).sum())


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of margins in bins of one width.

    Attributes:
        low, high: the outermost edges.
        counts: exchanges in each bin; the first and last hold what lies further out too.
        unread: exchanges without a number.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    unread: int

    def place(self, margin: float) -> float:
        """Return where a margin stands between the edges, from 0 to 1."""
        return min(1.0, max(0.0, (margin - self.low) / (self.high - self.low)))


def histogram(margins: Sequence[float]) -> Histogram | None:
    """Count margins; None if none is a number. The threshold always lies within the edges."""
    column = np.array([margin for margin in margins if math.isfinite(margin)], dtype=np.float64)
    if not len(column):
        return None
    low, high = np.quantile(column, [0.005, 0.995])
    low, high = min(float(low), -1.0), max(float(high), 1.0)
    room = 0.04 * (high - low)
    counts, _ = np.histogram(np.clip(column, low, high), bins=BINS, range=(low - room, high + room))
    return Histogram(low - room, high + room, tuple(map(int, counts)), len(margins) - len(column))
