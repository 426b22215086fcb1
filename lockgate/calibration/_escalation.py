"""How many benign exchanges reach stage 2: the escalation threshold, the drift and the shares by length.

A running maximum grows with the length of an answer, so one threshold escalates long answers more often than
short ones. `choose_drift` finds a `Cascade.drift` that evens this out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lockgate.calibration._threshold import plain_quantile_threshold
from lockgate.cascade import Cascade, FlagOn
from lockgate.errors import CalibrationError

# Drifts to choose from, in standard deviations of the probe's block maxima.
_DRIFTS = tuple(round(0.1 * step, 1) for step in range(16))
# Thirds of the exchanges hold enough escalated ones to compare. In tenths, chance would choose the drift.
_PARTS = 3
# Other streams in a batch and other library builds move a score by less than this share of its spread.
TOLERANCE_SHARE = 1e-3


class Trace(NamedTuple):
    """The blocks 0, 1, ... of one exchange.

    Attributes:
        probe: largest smoothed probe logit of each block, not corrected for length; NaN where no token
            counts.
        classifier: verdict on each block; NaN where there is none.
    """

    probe: ArrayLike
    classifier: ArrayLike


class LengthRow(NamedTuple):
    """Exchanges of similar length, and how many of them are escalated.

    Attributes:
        tokens: longest answer of these exchanges, in tokens up to the end of its last block.
        share: share of them that stage 2 is asked about.
        n: number of these exchanges.
    """

    tokens: int
    share: float
    n: int


def choose_drift(benign: Sequence[Trace], *, escalation: float, flag_on: FlagOn, stride: int) -> float:
    """Choose the drift with which short and long answers are escalated about equally often.

    Each candidate gets its own escalation threshold, for the same share of all exchanges. The exchanges are
    then split into thirds by their number of blocks. The candidate with the smallest ratio between the
    largest and the smallest escalated share of a third wins. A share is (escalated + 1/2) / (n + 1), so that
    none is 0. In a tie, the smallest drift wins.

    Candidates are 0 to 1.5 standard deviations of the probe's block maxima, in steps of 0.1. Exchanges with
    nothing to escalate are left out.

    Args:
        benign: traces of benign exchanges [N], with all blocks.
        escalation: largest share of benign exchanges that may be escalated.
        flag_on, stride: as in `calibrate_cascade`.

    Raises:
        CalibrationError: there is no finite probe logit, or one is infinite.
    """
    lengths = np.array([len(read_trace(trace)[0]) for trace in benign])
    maxima = np.concatenate([np.empty(0), *(read_trace(trace)[0] for trace in benign)])
    spread = float(np.std(maxima[np.isfinite(maxima)])) if np.isfinite(maxima).any() else 0.0
    best, smallest = 0.0, math.inf
    for step in _DRIFTS:
        drift = step * spread
        screen = read_screen(benign, Cascade(math.inf, math.inf, 0.5, stride=stride, drift=drift), flag_on)
        escalated = screen > choose_escalation(screen, escalation)
        kept = screen > -math.inf
        parts = split_by_length(lengths[kept], _PARTS)
        shares = [(escalated[kept][part].sum() + 0.5) / (len(part) + 1) for part in parts]
        ratio = max(shares) / min(shares)
        if ratio < smallest:
            best, smallest = drift, ratio
    return best


def escalated_by_length(
    benign: Sequence[Trace], escalated: NDArray[np.bool_], stride: int
) -> tuple[LengthRow, ...]:
    """Count the escalated exchanges in tenths of all exchanges by length.

    Exchanges of equal length stay together, so there may be fewer than ten rows, and of unequal size.

    Args:
        benign: traces of the exchanges [N], with all blocks.
        escalated: whether stage 2 is asked about each of them [N].
        stride: answer tokens of a block.
    """
    lengths = np.array([stride * (len(read_trace(trace)[0]) - 1) for trace in benign])
    return tuple(
        LengthRow(int(lengths[part].max()), float(escalated[part].mean()), len(part))
        for part in split_by_length(lengths, 10)
    )


def split_by_length(lengths: NDArray[np.int64] | NDArray[np.float64], parts: int) -> list[NDArray[np.intp]]:
    """Split exchanges into groups of rising length and about equal size. Equal lengths share a group.

    Args:
        lengths: length of each exchange [N].
        parts: number of groups. Ties may leave fewer.

    Returns:
        For each group, the numbers of its exchanges.
    """
    if not len(lengths):
        return []
    places = np.ceil(np.arange(1, parts + 1) / parts * len(lengths)).astype(np.int64) - 1
    edges = np.unique(np.sort(lengths)[places])
    group = np.searchsorted(edges, lengths)
    return [np.flatnonzero(group == number) for number in range(len(edges))]


def escalation_threshold(highest: NDArray[np.float64], share: float) -> float:
    """Return a logit with at most a share `share` of the exchanges above it.

    It lies half-way between the last exchange that is not escalated and the next one above, in single
    precision like traces. So neither rounding nor other exchanges in a batch move an exchange across it.

    Args:
        highest: largest corrected reading of each exchange [N].
        share: largest share of exchanges above the result.
    """
    cut = plain_quantile_threshold(highest, share, unjudged=True)
    finite = highest[np.isfinite(highest)]
    if cut == -math.inf and len(finite):
        # So many exchanges have nothing to judge that all others may be escalated.
        return math.nextafter(float(finite.min() - TOLERANCE_SHARE * finite.std()), -math.inf)
    above = highest[highest > cut]
    if not len(above):
        return cut
    middle = float(np.float32((cut + above.min()) / 2))
    return middle if cut <= middle < above.min() else cut


def choose_escalation(screen: NDArray[np.float64], share: float) -> float:
    """Return `escalation_threshold`. Raises CalibrationError if readings are infinite or all are missing."""
    if not np.isfinite(screen).any() or (screen == np.inf).any():
        raise CalibrationError("benign traces: expected finite probe logits; score those rows again")
    return escalation_threshold(screen, share)


def read_screen(traces: Sequence[Trace], cascade: Cascade, flag_on: FlagOn) -> NDArray[np.float64]:
    """Return the largest corrected reading of each exchange [N]; minus infinity if none can be escalated."""
    first = 0 if flag_on == "both" else 1
    found = np.full(len(traces), -math.inf)
    for row, trace in enumerate(traces):
        probe, _ = read_trace(trace)
        if len(probe) > first:
            found[row] = find_largest(cascade.corrected_blocks(probe))
    return found


def find_largest(readings: NDArray[np.float64]) -> float:
    """Return the largest reading of an exchange, or minus infinity if there is none."""
    return float(readings[~np.isnan(readings)].max(initial=-math.inf))


def read_trace(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both columns of a trace in double precision."""
    return np.asarray(trace.probe, dtype=np.float64), np.asarray(trace.classifier, dtype=np.float64)
