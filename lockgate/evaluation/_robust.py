"""Detection over several harmful sets, and whether one system is at least as robust as another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockgate.errors import ExchangeError
from lockgate.evaluation._curves import Floats, Mask
from lockgate.evaluation._intervals import RESAMPLES, Clusters, Estimate, Groups, percentiles, wilson

MARGIN = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """One system's flags on the harmful rows of one set [N], and the prompt of each row [N]."""

    flags: Mask
    groups: Groups


@dataclass(frozen=True, slots=True)
class Robustness:
    """First minus second in TPR, paired by prompt; `macro` is the mean over sets, otherwise rows are pooled.

    `at_least` holds when the interval's lower end lies above minus `margin`.
    """

    first: str
    second: str
    fpr: float
    macro: bool
    tpr_first: float
    tpr_second: float
    difference: Estimate
    margin: float
    at_least: bool


def pool(parts: Sequence[Detections]) -> Detections:
    """Several parts as one set; rows of one prompt stay together across parts."""
    groups = np.concatenate([np.asarray(part.groups, dtype=str) for part in parts])
    return Detections(np.concatenate([part.flags for part in parts]), groups)


def macro_rate(sets: Sequence[Detections], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate | None:
    """Mean over sets of each set's TPR, prompts resampled within sets; None without rows."""
    values = [found.flags.astype(np.float64) for found in sets]
    return mean_over_sets(values, [found.groups for found in sets], resamples, seed, lowest=0.0)


def at_least_as_robust(
    first: Sequence[Detections],
    second: Sequence[Detections],
    *,
    names: tuple[str, str] = ("first", "second"),
    fpr: float,
    macro: bool = True,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Robustness:
    """Compare two systems on the same harmful rows of the same sets, each at its own threshold for `fpr`.

    Raises ExchangeError when the two hold different rows or none at all.
    """
    if [list(found.groups) for found in first] != [list(found.groups) for found in second]:
        raise ExchangeError(f"{names[0]} and {names[1]} hold different harmful rows; compare the same ones")
    pairs = [
        (a.flags.astype(np.float64), b.flags.astype(np.float64)) for a, b in zip(first, second, strict=True)
    ]
    groups: list[Groups] = [np.asarray(found.groups, dtype=str) for found in first]
    if not macro:
        pairs = [(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))]
        groups = [np.concatenate(groups)]
    difference = mean_over_sets([a - b for a, b in pairs], groups, resamples, seed, lowest=-1.0)
    if difference is None:
        raise ExchangeError("no harmful row to compare systems on")
    means = [float(np.mean([side[i].mean() for side in pairs if len(side[i])])) for i in range(2)]
    lower = difference.lower if difference.lower is not None else -1.0
    return Robustness(*names, fpr, macro, means[0], means[1], difference, margin, lower > -margin)


def mean_over_sets(
    values: Sequence[Floats], groups: Sequence[Groups], resamples: int, seed: int, *, lowest: float
) -> Estimate | None:
    """Mean over sets of the mean over rows of `values`, each from `lowest` to 1."""
    filled = [(value, group) for value, group in zip(values, groups, strict=True) if len(value)]
    if not filled:
        return None
    # Sets are fixed and prompts drawn, so each set is resampled by itself, with draws of its own.
    clusters = [Clusters(group, resamples, seed + number) for number, (_, group) in enumerate(filled)]
    drawn = [own.means(value) for own, (value, _) in zip(clusters, filled, strict=True)]
    mean = float(np.mean([value.mean() for value, _ in filled]))
    lower, upper = percentiles(np.mean(drawn, axis=0))
    still = [number for number, own in enumerate(drawn) if np.ptp(own) == 0]
    if still and lower is not None and upper is not None:
        # All prompts agree, and resampling would claim certainty: one that differs may have been missed.
        missed = [wilson(0, clusters[number].count)[1] / len(filled) for number in still]
        below = [w for w, number in zip(missed, still, strict=True) if drawn[number][0] > lowest]
        above = [w for w, number in zip(missed, still, strict=True) if drawn[number][0] < 1]
        # Independent sets: half widths add in squares (Newcombe's and Zou's way of joining intervals).
        lower = max(lowest, mean - math.hypot(mean - lower, *below))
        upper = min(1.0, mean + math.hypot(upper - mean, *above))
    return Estimate(
        mean,
        lower,
        upper,
        "wilson" if len(still) == len(filled) else "cluster-bootstrap",
        sum(len(value) for value, _ in filled),
        sum(own.count for own in clusters),
    )
