"""Paired differences between two scorers: both are resampled on the same rows together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockgate.errors import ExchangeError
from lockgate.evaluation._curves import Floats, Mask, area, log_area, weighted_roc
from lockgate.evaluation._intervals import RESAMPLES, Clusters, Estimate, curve_statistic, percentiles
from lockgate.evaluation._result import Comparison, Difference
from lockgate.evaluation._scorers import Scorer, align, collect_scorers, threshold_of
from lockgate.tables import ScoresTable

RANKINGS = (area, log_area)


@dataclass(frozen=True, slots=True)
class Decisions:
    """A scorer's values and what it flags.

    Attributes:
        values: scores [N].
        flags: flagged rows [N] by the name of an operating point.
        drawn: result of `draw_rankings`, if it is known already.
    """

    values: Floats
    flags: dict[str, Mask]
    drawn: Floats | None = None


def draw_rankings(values: Floats, harmful: Mask, clusters: Clusters) -> Floats:
    """Resample AUROC and log-FPR AUROC. Return an array [2, resamples]."""
    return curve_statistic(RANKINGS, values, harmful, clusters)


def decide(scorer: Scorer, harmful: Mask, fprs: Sequence[float]) -> Decisions:
    """Flag rows at the plain quantiles. Without calibration they come from the evaluated benign rows."""
    flags = {}
    for fpr in fprs:
        found = threshold_of(scorer, scorer.values[~harmful], fpr)
        if found is not None:
            flags[f"{fpr:g}"] = scorer.values > found[0]
    return Decisions(scorer.values, flags)


def compare(
    first: ScoresTable,
    second: ScoresTable,
    *,
    names: tuple[str, str] = ("first", "second"),
    calibrations: tuple[ScoresTable | None, ScoresTable | None] = (None, None),
    fprs: Sequence[float] = (0.01, 0.001),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the deciding scores of two tables on the labelled exchanges that both hold.

    Differences are paired by prompt. Each table takes its thresholds from its own calibration table.

    Raises:
        ExchangeError: the tables share no labelled exchange, or they disagree about a label.
    """
    rows_first, rows_second = align(first, second)
    only = (len(first) - len(rows_first), len(second) - len(rows_second))
    first, second = first.select(rows_first), second.select(rows_second)
    labels = first.labels
    if not np.array_equal(labels, second.labels, equal_nan=True):
        raise ExchangeError(
            "the two scores tables give different labels to the same exchange; score one file"
        )
    known = ~np.isnan(labels)
    if not known.any():
        raise ExchangeError("the two scores tables share no labelled exchange; score both on the same file")
    first, second = first.select(known), second.select(known)
    harmful = labels[known] >= 0.5
    decided = []
    for table, calibration in zip((first, second), calibrations, strict=True):
        decisions = decide(collect_scorers(table, calibration, ())[0], harmful, fprs)
        decisions.flags["guard"] = table.flagged
        decided.append(decisions)
    clusters = Clusters(first.groups, resamples, seed)
    differences = paired_differences(decided[0], decided[1], harmful, clusters)
    return Comparison(*names, len(first), clusters.count, *only, differences)


def paired_differences(
    first: Decisions, second: Decisions, harmful: Mask, clusters: Clusters
) -> tuple[Difference, ...]:
    """Compute first minus second for AUROC, log-FPR AUROC, and TPR and FPR at each shared operating point."""
    differences = []
    if harmful.any() and not harmful.all():
        drawn = [
            draw_rankings(side.values, harmful, clusters) if side.drawn is None else side.drawn
            for side in (first, second)
        ]
        whole = np.ones((1, len(harmful)))
        for i, metric in enumerate(("auroc", "log_auroc")):
            values = [
                float(RANKINGS[i](weighted_roc(side.values, harmful, whole))[0]) for side in (first, second)
            ]
            differences.append(_difference(metric, values, drawn[0][i] - drawn[1][i], clusters))
    for kind, rows in (("tpr", harmful), ("fpr", ~harmful)):
        if not rows.any():
            continue
        part = Clusters(clusters.index[rows], clusters.resamples, clusters.seed)
        for name in first.flags:
            if name in second.flags:
                flags = [side.flags[name][rows].astype(np.float64) for side in (first, second)]
                means = [float(flag.mean()) for flag in flags]
                drawn_difference = part.means(flags[0] - flags[1])
                metric = f"{kind}_guard" if name == "guard" else f"{kind}_at_{name}"
                differences.append(_difference(metric, means, drawn_difference, part))
    return tuple(differences)


def _difference(metric: str, values: Sequence[float], drawn: Floats, clusters: Clusters) -> Difference:
    estimate = Estimate(
        values[0] - values[1], *percentiles(drawn), "cluster-bootstrap", len(clusters.index), clusters.count
    )
    return Difference(metric, values[0], values[1], estimate)
