"""Thresholds from benign scores: the budget rule, the plain quantile, and the budget table.

One convention holds in all of them. The cut is one of the sample's own scores and a flag lies strictly above
it. Serving, however, flags `score > threshold - tolerance`, so that a score within float tolerance of the
threshold is flagged (fail closed); a `Calibration` therefore stores cut + tolerance as its threshold.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lockgate.calibration._bounds import allowed_flags, clopper_pearson_upper, required_n
from lockgate.errors import CalibrationError
from lockgate.exchanges import PromptMatch

DEFAULT_BUDGETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_NAMED_IDS = 3
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


class Exclusion(NamedTuple):
    """A calibration row left out on purpose: its exchange id and why. Never applied to a test set."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and the evidence it stands on.

    `k` flags among `n` distinct benign prompts keep the one-sided upper `bound` within `budget`; `flagged`
    calibration exchanges lie above the threshold (fewer than k where scores tie). Serving flags
    `score > threshold - tolerance`, which is `score > cut`. Scores are logits, lengths are tokens.
    """

    budget: float
    confidence: float
    n: int
    k: int
    bound: float
    cut: float
    threshold: float
    tolerance: float
    flagged: int
    duplicates_dropped: int = 0
    score: str = "mixed_max"
    excluded: tuple[Exclusion, ...] = ()
    threshold_without_exclusions: float | None = None
    quantiles: Mapping[str, float] = field(default_factory=dict)
    length_deciles: tuple[float, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for YAML and JSON; `from_dict` is its inverse."""
        values = asdict(self)
        values["excluded"] = [row._asdict() for row in self.excluded]
        values["length_deciles"] = list(self.length_deciles)
        for name in ("quantiles", "sources", "languages"):
            values[name] = dict(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Read what `to_dict` wrote. Raises CalibrationError for unknown or missing keys."""
        content = dict(values)
        try:
            content["excluded"] = tuple(Exclusion(row["id"], row["reason"]) for row in content["excluded"])
            content["length_deciles"] = tuple(content["length_deciles"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise CalibrationError(f"not a calibration record: {error}") from None


class BudgetRow(NamedTuple):
    """One line of the budget table; `k`, `bound` and `cut` are None where n cannot carry the budget."""

    budget: float
    n: int
    k: int | None
    bound: float | None
    cut: float | None
    required_n: int


def choose_threshold(
    scores: ArrayLike,
    groups: Sequence[str],
    budget: float,
    tolerance: float,
    *,
    confidence: float = 0.95,
    ids: Sequence[str] | None = None,
    exclusions: Iterable[Exclusion | tuple[str, str]] = (),
    lengths: ArrayLike | None = None,
    sources: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    score: str = "mixed_max",
    unjudged: bool = False,
) -> Calibration:
    """Set the threshold at which a refusal budget can be claimed (design.md, invariant 6).

    `scores` [N] are the per-exchange streaming maxima that serving computes, `groups` [N] name each row's
    prompt: n counts distinct prompts, the first row of a prompt stands for it and later ones are dropped and
    counted. k is fixed by n and the budget alone; the cut is the (k+1)-th largest score. `lengths`, `sources`
    and `languages` [N] are only described in the result. Exclusions need `ids` [N]. With `unjudged`, minus
    infinity stands for an exchange that was never escalated: it counts in n and can't flag.

    Raises CalibrationError when n cannot carry the budget (the message says how many distinct prompts would),
    for scores that are not finite, for exclusions that match no row, and when so few exchanges were judged
    that the budget would allow to flag them all.
    """
    values = _finite(scores, unjudged=unjudged)
    listed = tuple(Exclusion(*row) for row in exclusions)
    lengths = None if lengths is None else np.asarray(lengths, dtype=np.float64)
    _check_arguments(len(values), tolerance, (groups, ids, lengths, sources, languages))
    allowed = ~_excluded_rows(listed, ids, len(values))
    kept = _first_of_each_group(groups, allowed)
    n = len(kept)
    k = check_sample(n, budget, confidence)
    cut = _largest(values[kept], k)
    if cut == -math.inf:
        raise CalibrationError(
            f"{int(np.isfinite(values[kept]).sum())} of {n} exchanges were escalated, and the budget allows "
            f"{k} flags: the second stage decides nothing. Escalate more, or claim a smaller budget."
        )
    threshold = stored_threshold(cut, tolerance)
    return Calibration(
        budget=budget,
        confidence=confidence,
        n=n,
        k=k,
        bound=clopper_pearson_upper(k, n, confidence),
        cut=cut,
        threshold=threshold,
        tolerance=tolerance,
        flagged=int((values[kept] > threshold - tolerance).sum()),
        duplicates_dropped=int(allowed.sum()) - n,
        score=score,
        excluded=listed,
        threshold_without_exclusions=(
            _threshold_of_all(values, groups, budget, tolerance, confidence) if listed else None
        ),
        quantiles=_quantiles(values[kept]),
        length_deciles=_deciles(lengths, kept),
        sources=_counts(sources, kept),
        languages=_counts(languages, kept),
    )


def budget_table(
    scores: ArrayLike,
    budgets: Sequence[float] = DEFAULT_BUDGETS,
    *,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    unjudged: bool = False,
) -> list[BudgetRow]:
    """What each budget would cost in threshold, for the same benign `scores` [N].

    Without `groups` every score counts as a prompt of its own. `unjudged` as in `choose_threshold`; a cut of
    minus infinity flags all that was judged.
    """
    values = _finite(scores, unjudged=unjudged)
    if groups is not None:
        _check_length("groups", groups, len(values))
        values = values[_first_of_each_group(groups, np.ones(len(values), dtype=bool))]
    rows = []
    for budget in budgets:
        k = allowed_flags(len(values), budget, confidence)
        needed = required_n(budget, 0, confidence)
        if k is None:
            rows.append(BudgetRow(budget, len(values), None, None, None, needed))
        else:
            bound = clopper_pearson_upper(k, len(values), confidence)
            rows.append(BudgetRow(budget, len(values), k, bound, _largest(values, k), needed))
    return rows


def plain_quantile_threshold(scores: ArrayLike, fpr: float, *, unjudged: bool = False) -> float:
    """The cut above which at most a share `fpr` of `scores` [N] lies; a flag lies strictly above it.

    This is the empirical quantile that reports use for "TPR at x % FPR": it carries no bound. `unjudged` as
    in `choose_threshold`; a cut of minus infinity flags all that was judged.
    Raises CalibrationError for no scores, for scores that are not finite and for shares outside (0, 1).
    """
    values = _finite(scores, unjudged=unjudged)
    if not 0.0 < fpr < 1.0:
        raise CalibrationError(f"fpr is {fpr}; expected a share strictly between 0 and 1")
    # 0.29 * 100 is 28.999999999999996: the slack keeps a whole number of flags whole.
    k = min(math.floor(fpr * len(values) + 1e-9), len(values) - 1)
    return _largest(values, k)


def check_sample(n: int, budget: float, confidence: float = 0.95) -> int:
    """How many of `n` distinct prompts may flag. Raises CalibrationError if they can't carry the budget."""
    k = allowed_flags(n, budget, confidence)
    if k is None:
        raise CalibrationError(
            f"{n} distinct benign prompts cannot carry a budget of {budget:g} at {confidence:g} confidence: "
            f"even with no flag the upper bound is {clopper_pearson_upper(0, n, confidence):.3g}. Calibrate "
            f"on at least {required_n(budget, 0, confidence)} distinct prompts or claim a larger budget."
        )
    return k


def _threshold_of_all(
    values: NDArray[np.float64], groups: Sequence[str], budget: float, tolerance: float, confidence: float
) -> float:
    kept = _first_of_each_group(groups, np.ones(len(values), dtype=bool))
    return stored_threshold(_largest(values[kept], check_sample(len(kept), budget, confidence)), tolerance)


def stored_threshold(cut: float, tolerance: float) -> float:
    """The float t with t - tolerance >= cut that lies closest to cut + tolerance."""
    threshold = cut + tolerance
    # Rounding may put (cut + tolerance) - tolerance one step below the cut; serving would then flag the cut.
    while threshold - tolerance < cut:
        threshold = math.nextafter(threshold, math.inf)
    return threshold


def _largest(values: NDArray[np.float64], k: int) -> float:
    """The (k+1)-th largest of `values` [N], k < N."""
    position = len(values) - 1 - k
    return float(np.partition(values, position)[position])


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Described where they are numbers: half of a cascade's traffic and more is never judged."""
    if np.isfinite(values).all():
        return {f"{q:g}": float(np.quantile(values, q)) for q in _QUANTILES}
    ranked = np.sort(values)
    found = {f"{q:g}": float(ranked[math.floor(q * (len(ranked) - 1))]) for q in _QUANTILES}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _finite(scores: ArrayLike, *, unjudged: bool = False) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise CalibrationError(
            f"scores have shape {values.shape}; expected one dimension and at least one row"
        )
    bad = np.flatnonzero(~(np.isfinite(values) | (unjudged & (values == -np.inf))))
    if len(bad):
        raise CalibrationError(
            f"{len(bad)} of {len(values)} scores are not finite, the first at row {bad[0]}; "
            "score those rows again"
        )
    return values


def _first_of_each_group(groups: Sequence[str], allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    rows = np.flatnonzero(allowed)
    if len(rows) == 0:
        return rows
    _, first = np.unique(np.asarray(groups, dtype=str)[rows], return_index=True)
    return np.sort(rows[first])


def _excluded_rows(listed: Sequence[Exclusion], ids: Sequence[str] | None, n: int) -> NDArray[np.bool_]:
    if not listed:
        return np.zeros(n, dtype=bool)
    if ids is None:
        raise CalibrationError("exclusions name ids, but no ids were given")
    unreasoned = [row.id for row in listed if not row.reason.strip()]
    if unreasoned:
        raise CalibrationError(f"exclusion of {unreasoned[0]} gives no reason; every exclusion needs one")
    unknown = sorted({row.id for row in listed} - set(ids))
    if unknown:
        raise CalibrationError(f"{len(unknown)} excluded ids match no row, among them {unknown[0]}")
    return np.isin(np.asarray(ids, dtype=str), [row.id for row in listed])


def _check_arguments(n: int, tolerance: float, columns: Iterable[Sized | None]) -> None:
    if not math.isfinite(tolerance) or tolerance < 0:
        raise CalibrationError(f"tolerance is {tolerance}; expected a finite logit difference of 0 or more")
    for name, column in zip(("groups", "ids", "lengths", "sources", "languages"), columns, strict=True):
        _check_length(name, column, n)


def _check_length(name: str, column: Sized | None, n: int) -> None:
    if column is not None and len(column) != n:
        raise CalibrationError(f"{name} has {len(column)} entries for {n} scores")


def _deciles(lengths: NDArray[np.float64] | None, kept: NDArray[np.intp]) -> tuple[float, ...]:
    if lengths is None:
        return ()
    return tuple(float(q) for q in np.quantile(lengths[kept], np.linspace(0.0, 1.0, 11)))


def _counts(labels: Sequence[str] | None, kept: NDArray[np.intp]) -> dict[str, int]:
    if labels is None:
        return {}
    return dict(sorted(Counter(labels[row] for row in kept).items()))


def refuse_training_prompts(
    matches: Sequence[PromptMatch | None], ids: Sequence[str], *, excluded: Collection[str] = ()
) -> None:
    """Refuse calibration exchanges whose prompts were trained on.

    Args:
        matches: for each exchange [N] what `PromptPrints.find` says of its prompt.
        ids: of the exchanges [N].
        excluded: ids that calibration leaves out anyway.

    Raises:
        CalibrationError: how many there are, the first ids, and what to do.
    """
    found = [
        (identity, match)
        for identity, match in zip(ids, matches, strict=True)
        if match is not None and identity not in excluded
    ]
    if not found:
        return
    near = sum(match.kind == "near" for _, match in found)
    first = ", ".join(identity for identity, _ in found[:_NAMED_IDS])
    raise CalibrationError(
        f"{len(found)} of {len(ids)} calibration exchanges have prompts that the guard was trained on "
        f"({len(found) - near} equal, {near} near-duplicates), the first with ids {first}: no budget can be "
        "claimed on them. Drop these rows, or list their ids with --exclude"
    )
