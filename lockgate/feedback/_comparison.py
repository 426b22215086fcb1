"""The comparison of an old guard with a new one: what changes in each category."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockgate._extras import need
from lockgate.errors import ExchangeError
from lockgate.evaluation import (
    RESAMPLES,
    Clusters,
    Detections,
    Estimate,
    Mask,
    align,
    collect_scorers,
    macro_rate,
    mean_over_sets,
    rate_by_prompt,
    threshold_of,
)
from lockgate.exchanges import Exchange
from lockgate.tables import ScoresTable

NO_CATEGORY = "(none)"
ALL = "all"
MACRO = "macro"


@dataclass(frozen=True, slots=True)
class CategoryChange:
    """The flagged share of one category's harmful or harmless exchanges, under the old and the new guard.

    Attributes:
        category: an id, `(none)` for exchanges without one, `all` for all exchanges, or `macro` for the mean
            over categories.
        harmful: whether the exchanges are harmful. If so, the share is a TPR, otherwise an FPR.
        n, n_prompts: numbers of exchanges and distinct prompts.
        old, new: flagged shares with intervals by prompt.
        difference: new minus old, paired by prompt.
        newly_flagged, newly_passed: ids in row order; empty for `macro`.
        p_worse: p value of a one-sided sign test over the prompts that changed. A small value says that the
            new guard is worse.
    """

    category: str
    harmful: bool
    n: int
    n_prompts: int
    old: Estimate
    new: Estimate
    difference: Estimate
    newly_flagged: tuple[str, ...]
    newly_passed: tuple[str, ...]
    p_worse: float

    @property
    def lost(self) -> tuple[str, ...]:
        """Ids that the old guard judged correctly and the new one doesn't."""
        return self.newly_passed if self.harmful else self.newly_flagged

    @property
    def gained(self) -> tuple[str, ...]:
        """Ids that the new guard judges correctly and the old one didn't."""
        return self.newly_flagged if self.harmful else self.newly_passed


@dataclass(frozen=True, slots=True)
class GuardComparison:
    """Two guards on the same labelled exchanges.

    Attributes:
        old, new: names of the guards.
        point: `guard` for the guards' own decisions, otherwise the FPR that both thresholds were set for.
        budgets: refusal budgets of the two guards, or `point` for both; None if unknown.
        n, n_prompts: numbers of labelled exchanges compared and of their distinct prompts.
        unlabelled: rows left out because they have no label.
        only_old, only_new: rows left out because only one table holds them.
        tpr, tpr_macro, fpr: change over all categories; None without such exchanges. `tpr_macro` needs two
            harmful categories.
        categories: one entry for each category and label, harmful ones first.
    """

    old: str
    new: str
    point: str
    budgets: tuple[float, float] | None
    n: int
    n_prompts: int
    unlabelled: int
    only_old: int
    only_new: int
    tpr: CategoryChange | None
    tpr_macro: CategoryChange | None
    fpr: CategoryChange | None
    categories: tuple[CategoryChange, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dicts, lists and numbers for JSON."""
        return asdict(self)


def compare_guards(
    old: ScoresTable,
    new: ScoresTable,
    exchanges: Iterable[Exchange] | None = None,
    *,
    names: tuple[str, str] = ("old", "new"),
    budgets: tuple[float, float] | None = None,
    calibrations: tuple[ScoresTable, ScoresTable] | None = None,
    fpr: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> GuardComparison:
    """Compare two guards on the labelled exchanges that both tables hold.

    Neither guard may have been trained or calibrated on these exchanges. Exchanges that were reviewed because
    the old guard was wrong favour the new guard; compare them separately.

    Args:
        old, new: scores tables of the same exchanges.
        exchanges: source of labels and categories, matched by id. Other rows count as unlabelled. Without
            it, the tables give labels and categories.
        names: names of the two guards.
        budgets: refusal budgets of the guards' own decisions. `UpdateRule` expects equal ones.
        calibrations: benign scores tables of the two guards. Give them together with `fpr`.
        fpr: flag exchanges above the plain quantile of each guard's calibration table instead of by the
            guards' own decisions. Then both guards have the same budget.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ExchangeError: the tables share no labelled exchange, an exchange has different labels, or only one of
            `calibrations` and `fpr` is given.
    """
    rows_old, rows_new = align(old, new)
    only = (len(old) - len(rows_old), len(new) - len(rows_new))
    flags = [
        part[rows]
        for part, rows in zip(_flags(old, new, calibrations, fpr), (rows_old, rows_new), strict=True)
    ]
    first, second = old.select(rows_old), new.select(rows_new)
    labels, categories = _truth(first, second, exchanges)
    known = ~np.isnan(labels)
    if not known.any():
        raise ExchangeError("the two guards share no labelled exchange; score both on one labelled file")
    parts = _Parts(
        np.asarray(first.ids, dtype=str)[known],
        np.asarray(first.groups, dtype=str)[known],
        np.asarray(categories, dtype=str)[known],
        labels[known] >= 0.5,
        flags[0][known],
        flags[1][known],
        resamples,
        seed,
    )
    return GuardComparison(
        old=names[0],
        new=names[1],
        point="guard" if fpr is None else f"{fpr:g}",
        budgets=budgets if fpr is None else (fpr, fpr),
        n=len(parts.ids),
        n_prompts=len(np.unique(parts.groups)),
        unlabelled=int((~known).sum()),
        only_old=only[0],
        only_new=only[1],
        tpr=parts.change(ALL, parts.harmful),
        tpr_macro=parts.macro(),
        fpr=parts.change(ALL, ~parts.harmful),
        categories=tuple(parts.by_category()),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Columns [N] of the compared rows."""

    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    categories: NDArray[np.str_]
    harmful: Mask
    old: Mask
    new: Mask
    resamples: int
    seed: int

    def by_category(self) -> Iterable[CategoryChange]:
        for harmful in (True, False):
            own = self.harmful == harmful
            for category in sorted(set(self.categories[own].tolist())):
                change = self.change(category, own & (self.categories == category))
                if change is not None:
                    yield change

    def change(self, category: str, rows: Mask) -> CategoryChange | None:
        if not rows.any():
            return None
        harmful = bool(self.harmful[rows][0])
        clusters = Clusters(self.groups[rows], self.resamples, self.seed)
        old, new = self.old[rows], self.new[rows]
        rates = [rate_by_prompt(flags, clusters) for flags in (old, new)]
        difference = self._difference([rows])
        if rates[0] is None or rates[1] is None or difference is None:
            return None
        ids = self.ids[rows]
        return CategoryChange(
            category=category,
            harmful=harmful,
            n=int(rows.sum()),
            n_prompts=clusters.count,
            old=rates[0],
            new=rates[1],
            difference=difference,
            newly_flagged=tuple(ids[new & ~old].tolist()),
            newly_passed=tuple(ids[old & ~new].tolist()),
            p_worse=_sign_test(old, new, clusters, harmful=harmful),
        )

    def macro(self) -> CategoryChange | None:
        """Compute the mean over harmful categories, as in reports. Return None for fewer than two."""
        names = sorted(set(self.categories[self.harmful].tolist()))
        whole = self.change(ALL, self.harmful)
        if len(names) < 2 or whole is None:
            return None
        masks = [self.harmful & (self.categories == name) for name in names]
        estimates = [
            macro_rate(
                [Detections(flags[rows], self.groups[rows]) for rows in masks],
                resamples=self.resamples,
                seed=self.seed,
            )
            for flags in (self.old, self.new)
        ]
        difference = self._difference(masks)
        if estimates[0] is None or estimates[1] is None or difference is None:
            return None
        p_worse = whole.p_worse
        return CategoryChange(
            MACRO, True, whole.n, whole.n_prompts, estimates[0], estimates[1], difference, (), (), p_worse
        )

    def _difference(self, masks: Sequence[Mask]) -> Estimate | None:
        change = self.new.astype(np.float64) - self.old.astype(np.float64)
        return mean_over_sets(
            [change[rows] for rows in masks],
            [self.groups[rows] for rows in masks],
            self.resamples,
            self.seed,
            lowest=-1.0,
        )


def _sign_test(old: Mask, new: Mask, clusters: Clusters, *, harmful: bool) -> float:
    """Return the probability that as many of the changed prompts get worse by chance; 1 if none got worse."""
    worse = (old.astype(float) - new.astype(float)) * (1 if harmful else -1)
    by_prompt = np.bincount(clusters.index, weights=worse, minlength=clusters.count)
    lost, gained = int((by_prompt > 0).sum()), int((by_prompt < 0).sum())
    if not lost:
        return 1.0
    special = need("scipy.special", extra="calibrate", feature="comparing two guards")
    return float(special.bdtrc(lost - 1, lost + gained, 0.5))


def _flags(
    old: ScoresTable,
    new: ScoresTable,
    calibrations: tuple[ScoresTable, ScoresTable] | None,
    fpr: float | None,
) -> list[Mask]:
    if (calibrations is None) != (fpr is None):
        raise ExchangeError("calibrations and fpr belong together; give both or neither")
    if calibrations is None or fpr is None:
        return [old.flagged, new.flagged]
    flags = []
    for table, calibration in zip((old, new), calibrations, strict=True):
        scorer = collect_scorers(table, calibration, ())[0]
        found = threshold_of(scorer, np.empty(0), fpr)
        if found is None:
            raise ExchangeError("a calibration table holds no benign exchange; score benign traffic for it")
        flags.append(scorer.values > found[0])
    return flags


def _truth(
    first: ScoresTable, second: ScoresTable, exchanges: Iterable[Exchange] | None
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the labels [N] (NaN where there is none) and the categories of two aligned tables."""
    if exchanges is None:
        if not np.array_equal(first.labels, second.labels, equal_nan=True):
            raise ExchangeError(
                "the two tables give different labels to one exchange; score one file with both"
            )
        return first.labels, [category or NO_CATEGORY for category in first.texts("category")]
    truth: dict[str, tuple[float | None, str | None]] = {}
    for exchange in exchanges:
        found = truth.setdefault(exchange.id, (exchange.label, exchange.category))
        if found[0] != exchange.label:
            raise ExchangeError(
                f"exchange {exchange.id} occurs twice with different labels; keep one of the two"
            )
    known = [truth.get(identity, (None, None)) for identity in first.ids]
    labels = np.array([np.nan if label is None else label for label, _ in known], dtype=np.float64)
    return labels, [category or NO_CATEGORY for _, category in known]
