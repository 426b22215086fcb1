"""Recorded scores: their histogram, whether they have left what calibration saw, and other thresholds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lockgate.calibration import clopper_pearson
from lockgate.decisions import Decision, deciding_score
from lockgate.guards import GuardRecord
from lockgate.traffic import Counts, count_changes

# An alarm is false in one of a hundred looks at traffic like the calibration's, over all quantiles together.
FALSE_ALARMS = 0.01
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


@dataclass(frozen=True, slots=True)
class Band:
    """One of the calibration's quantiles against the traffic.

    Attributes:
        value: the score at the quantile.
        expected: share of exchanges above it in the calibration's sample.
        k: exchanges above it now.
        lower, upper: exact interval of the share now.
    """

    name: str
    value: float
    expected: float
    k: int
    lower: float
    upper: float

    @property
    def left(self) -> bool:
        """Whether the traffic can hardly have the calibration's share."""
        return not self.lower <= self.expected <= self.upper


@dataclass(frozen=True, slots=True)
class Drift:
    """How the scores of traffic differ from those that calibration saw.

    Attributes:
        n: exchanges.
        bands: quantiles below the highest, which is only the largest score of a sample.
        psi: population stability index over the bands between them; None with fewer than two quantiles.
    """

    n: int
    bands: tuple[Band, ...]
    psi: float | None

    @property
    def alarm(self) -> bool:
        return any(band.left for band in self.bands)


def drift(scores: Sequence[float], quantiles: Mapping[str, float]) -> Drift:
    """Compare scores with the quantiles of a calibration.

    Raises:
        MissingExtra: exact intervals can't be computed here.
    """
    known = sorted((float(name), value) for name, value in quantiles.items() if 0 < float(name) < 1)
    column = np.array(scores, dtype=np.float64)
    n = len(column)
    bands = []
    for share, value in known:
        k = int((column > value).sum())
        interval = clopper_pearson(k, n, 1 - FALSE_ALARMS / len(known))
        bands.append(Band(f"{share:g}", value, 1 - share, k, interval.lower, interval.upper))
    return Drift(n, tuple(bands), _psi(bands, n) if len(bands) > 1 and n else None)


def _psi(bands: Sequence[Band], n: int) -> float:
    expected = -np.diff([1.0, *(band.expected for band in bands), 0.0])
    # Half an exchange in place of none keeps the logarithm finite.
    found = np.maximum(-np.diff([n, *(band.k for band in bands), 0]), 0.5) / n
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
