"""Figures for parts of the rows (by source, category, length), curves for plots, and rows worth reading."""

from collections.abc import Mapping, Sequence

import numpy as np

from lockgate.evaluation._curves import Floats, Mask, tpr_on_grid
from lockgate.evaluation._intervals import Clusters, Estimate, exact_rate, rate_by_prompt
from lockgate.evaluation._result import Breakdown, Histogram, RankedRow, RocPoints
from lockgate.tables import ScoresTable

_BINS = 40
_GRID = 121


def by_key(
    keys: Sequence[str | None],
    wanted: Mask,
    flags: Mapping[str, Mask],
    clusters: Clusters,
    *,
    exact: bool,
) -> tuple[Breakdown, ...]:
    """Compute the flagged share of the wanted rows for each key, in sorted order.

    Rows without a key are left out.

    Args:
        keys: the key of each row [N], such as its source.
        wanted: the rows to use [N].
        flags: flagged rows [N] by the name of an operating point.
        clusters: the prompts of all N rows.
        exact: use Clopper-Pearson intervals instead of intervals by prompt.
    """
    column = np.asarray([key if key is not None else "" for key in keys], dtype=str)
    has_key = np.asarray([key is not None for key in keys], dtype=bool)
    parts = []
    for key in sorted({str(key) for key in column[wanted & has_key]}):
        rows = wanted & has_key & (column == key)
        parts.append(_breakdown(key, rows, flags, clusters, exact))
    return tuple(parts)


def by_length(
    lengths: Floats, wanted: Mask, flags: Mapping[str, Mask], clusters: Clusters
) -> tuple[Breakdown, ...]:
    """Compute the flagged share for each decile of the wanted rows' lengths. Equal deciles are joined."""
    usable = wanted & np.isfinite(lengths)
    if not usable.any():
        return ()
    edges = np.unique(np.quantile(lengths[usable], np.linspace(0, 1, 11)))
    # The last decile includes its upper edge.
    which = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    parts = []
    for decile in np.unique(which[usable]):
        rows = usable & (which == decile)
        key = f"{lengths[rows].min():.0f}-{lengths[rows].max():.0f}"
        parts.append(_breakdown(key, rows, flags, clusters, exact=True))
    return tuple(parts)


def worst(parts: Sequence[Breakdown], point: str) -> str | None:
    """Return the part with the highest flagged share, or None if no part has a flag.

    Parts are ranked by the lower end of the interval, then by the share.
    """

    def rank(part: Breakdown) -> tuple[float, float]:
        rate = part.rates[point]
        return (rate.lower or 0.0, rate.value)

    flagged = [part for part in parts if point in part.rates and part.rates[point].value > 0]
    return max(flagged, key=rank).key if flagged else None


def histogram(values: Floats, harmful: Mask) -> Histogram | None:
    """Count scores in equal bins over their range. Return None if all scores are the same."""
    low, high = float(values.min()), float(values.max())
    if not low < high:
        return None
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(values[rows], edges)[0].tolist() for rows in (harmful, ~harmful)]
    return Histogram(tuple(edges.tolist()), tuple(counts[0]), tuple(counts[1]))


def roc_points(values: Floats, harmful: Mask) -> RocPoints | None:
    """Compute the ROC curve on a logarithmic FPR grid from 1e-4 to 1. None unless both labels occur."""
    if harmful.all() or not harmful.any():
        return None
    grid = np.logspace(-4, 0, _GRID)
    return RocPoints(tuple(grid.tolist()), tuple(tpr_on_grid(values, harmful, grid).tolist()))


def ranked(
    table: ScoresTable, values: Floats, wanted: Mask, *, highest: bool, count: int
) -> tuple[RankedRow, ...]:
    """Return the `count` wanted rows with the highest or lowest scores, the most extreme first."""
    rows = np.flatnonzero(wanted)
    order = rows[np.argsort(-values[rows] if highest else values[rows], kind="stable")][:count]
    part = table.select(order)
    columns = zip(part.ids, part.texts("source"), part.texts("category"), values[order], strict=True)
    return tuple(
        RankedRow(identity, str(source), category, float(v)) for identity, source, category, v in columns
    )


def _breakdown(
    key: str,
    rows: Mask,
    flags: Mapping[str, Mask],
    clusters: Clusters,
    exact: bool,
) -> Breakdown:
    own = clusters.index[rows]
    part = Clusters(own, clusters.resamples, clusters.seed)
    rates: dict[str, Estimate] = {}
    for point, flagged in flags.items():
        rate = exact_rate(flagged[rows], own) if exact else rate_by_prompt(flagged[rows], part)
        if rate is not None:
            rates[point] = rate
    return Breakdown(key, int(rows.sum()), part.count, rates)
