"""Thresholds from benign scores: the budget rule, the plain quantile, and the budget table.

All of them use one convention. The cut is one of the sample's own scores, and a flag lies strictly above it.
Serving flags `score > threshold - tolerance`: a score within float tolerance of the threshold is flagged, to
fail closed. Therefore a `Calibration` stores cut + tolerance as its threshold.
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
    """A calibration row that is left out on purpose: its exchange id and the reason. Test sets keep it."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and the evidence for it. Scores are logits, lengths are tokens.

    Attributes:
        budget: largest share of benign exchanges that may be flagged.
        confidence: of the one-sided bound.
        n: distinct benign prompts of the sample.
        k: largest number of flags among `n` that the budget allows.
        bound: upper bound of the flagged share after `k` flags; it lies within `budget`.
        cut: (k+1)-th largest score of the sample.
        threshold: what serving uses. It flags `score > threshold - tolerance`, which is `score > cut`.
        tolerance: numeric uncertainty of a score.
        flagged: calibration exchanges above the cut; fewer than `k` where scores tie.
        duplicates_dropped: rows dropped because an earlier row has the same prompt.
        score: name of the score.
        excluded: rows left out on purpose.
        threshold_without_exclusions: the threshold if nothing were excluded; None without exclusions.
        quantiles: scores of the sample by quantile, such as "0.99".
        length_deciles: lengths of the sample at quantiles 0, 0.1, ... 1.
        sources, languages: exchanges of the sample by source and by language.
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
        """Convert to plain types for YAML and JSON. `from_dict` is the inverse."""
        values = asdict(self)
        values["excluded"] = [row._asdict() for row in self.excluded]
        values["length_deciles"] = list(self.length_deciles)
        for name in ("quantiles", "sources", "languages"):
            values[name] = dict(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Create a calibration from the output of `to_dict`.

        Raises:
            CalibrationError: a key is unknown or missing.
        """
        content = dict(values)
        try:
            content["excluded"] = tuple(Exclusion(row["id"], row["reason"]) for row in content["excluded"])
            content["length_deciles"] = tuple(content["length_deciles"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise CalibrationError(f"not a calibration record: {error}") from None


class BudgetRow(NamedTuple):
    """One line of the budget table.

    Attributes:
        budget: refusal budget.
        n: distinct benign prompts of the sample.
        k, bound, cut: as in `Calibration`; None if `n` prompts are too few for the budget.
        required_n: distinct prompts that the budget needs if none of them is flagged.
    """

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
    """Choose the threshold at which a refusal budget can be claimed.

    n counts distinct prompts. The first row of a prompt represents it; later rows are dropped and counted.
    n and the budget alone fix k, the number of allowed flags. The cut is the (k+1)-th largest score.

    Args:
        scores: largest streaming score of each benign exchange [N], as serving computes it.
        groups: the prompt of each exchange [N].
        budget: refusal budget to claim.
        tolerance: numeric uncertainty of a score, in logits.
        confidence: of the one-sided bound.
        ids: ids of the exchanges [N]; needed for exclusions.
        exclusions: rows to leave out, each with a reason.
        lengths, sources, languages: of the exchanges [N]. The result only describes them.
        score: name of the score, stored in the result.
        unjudged: allow minus infinity for an exchange that was never escalated. It counts in n and is never
            flagged.

    Raises:
        CalibrationError: n is too small for the budget (the message says how many distinct prompts are
            needed), a score is not finite, an exclusion matches no row or gives no reason, or the budget
            would allow flags for all judged exchanges.
    """
    values = _finite(scores, unjudged=unjudged)
    listed = tuple(Exclusion(*row) for row in exclusions)
    lengths = None if lengths is None else np.asarray(lengths, dtype=np.float64)
    _check_arguments(len(values), tolerance, (groups, ids, lengths, sources, languages))
    allowed = ~_excluded_rows(listed, ids, len(values))
    kept = first_of_each_group(groups, allowed)
    n = len(kept)
    k = check_sample(n, budget, confidence)
    cut = _largest(values[kept], k)
    if cut == -math.inf:
        raise CalibrationError(
            f"{int(np.isfinite(values[kept]).sum())} of {n} exchanges were escalated, and the budget allows "
            f"{k} flags, so the second stage decides nothing. Escalate more, or claim a smaller budget."
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
    """Compute the cut for each of several budgets on the same benign scores.

    Args:
        scores: benign scores [N].
        budgets: refusal budgets.
        groups: the prompt of each score [N]. Without it every score counts as its own prompt.
        confidence: of the one-sided bound.
        unjudged: as in `choose_threshold`. A cut of minus infinity flags every judged exchange.
    """
    values = _finite(scores, unjudged=unjudged)
    if groups is not None:
        _check_length("groups", groups, len(values))
        values = values[first_of_each_group(groups, np.ones(len(values), dtype=bool))]
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
    """Return the smallest of `scores` [N] with at most a share `fpr` of them strictly above it.

    This is the empirical quantile that reports use for "TPR at x % FPR". It has no bound.

    Args:
        scores: benign scores [N].
        fpr: largest share that may lie above the cut.
        unjudged: as in `choose_threshold`. A cut of minus infinity flags every judged exchange.

    Raises:
        CalibrationError: there are no scores, a score is not finite, or `fpr` lies outside (0, 1).
    """
    values = _finite(scores, unjudged=unjudged)
    if not 0.0 < fpr < 1.0:
        raise CalibrationError(f"fpr is {fpr}; expected a share strictly between 0 and 1")
    # In floats 0.29 * 100 is 28.999999999999996. The slack makes floor return 29.
    k = min(math.floor(fpr * len(values) + 1e-9), len(values) - 1)
    return _largest(values, k)


def check_sample(n: int, budget: float, confidence: float = 0.95) -> int:
    """Return how many of `n` distinct prompts may be flagged.

    Raises:
        CalibrationError: `n` prompts are too few for the budget.
    """
    k = allowed_flags(n, budget, confidence)
    if k is None:
        raise CalibrationError(
            f"{n} distinct benign prompts are too few for a budget of {budget:g} at {confidence:g} "
            f"confidence: even without flags the bound is {clopper_pearson_upper(0, n, confidence):.3g}. "
            f"Calibrate on at least {required_n(budget, 0, confidence)} distinct prompts or claim a larger "
            "budget."
        )
    return k


def _threshold_of_all(
    values: NDArray[np.float64], groups: Sequence[str], budget: float, tolerance: float, confidence: float
) -> float:
    kept = first_of_each_group(groups, np.ones(len(values), dtype=bool))
    return stored_threshold(_largest(values[kept], check_sample(len(kept), budget, confidence)), tolerance)


def stored_threshold(cut: float, tolerance: float) -> float:
    """Return the float t closest to cut + tolerance for which t - tolerance >= cut."""
    threshold = cut + tolerance
    # Rounding may put (cut + tolerance) - tolerance one step below the cut. Serving would then flag the cut.
    while threshold - tolerance < cut:
        threshold = math.nextafter(threshold, math.inf)
    return threshold


def _largest(values: NDArray[np.float64], k: int) -> float:
    """Return the (k+1)-th largest of `values` [N], k < N."""
    position = len(values) - 1 - k
    return float(np.partition(values, position)[position])


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the finite quantiles. Low ones may be missing: a cascade never judges much of its traffic."""
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


def first_of_each_group(groups: Sequence[str], allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the first allowed row of each prompt, in ascending order. These rows are what n counts.

    Args:
        groups: the prompt of each row [N].
        allowed: rows that may count [N].
    """
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
