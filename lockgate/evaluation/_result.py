"""Results of an evaluation: plain frozen records that can be written as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lockgate.evaluation._intervals import Estimate


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One threshold of one scorer, and the shares of rows it flags.

    Attributes:
        name: `fpr` as text, or `guard`.
        origin: where the threshold comes from. `calibration`: plain quantile of a calibration table at
            `fpr`. `evaluation`: plain quantile of the evaluated benign rows, which is optimistic. `guard`:
            the guard's own decisions.
        fpr: share of benign rows that the threshold was set for; None for `guard`.
        threshold: flags lie strictly above it; None for `guard`, and where it flags every row with a score.
        tpr: share of harmful rows flagged.
        realised_fpr: share of evaluated benign rows flagged.
    """

    name: str
    origin: str
    fpr: float | None
    threshold: float | None
    tpr: Estimate | None
    realised_fpr: Estimate | None


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Flagged shares of one part of the rows, by the name of the operating point."""

    key: str
    n: int
    n_prompts: int
    rates: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class SourceAuroc:
    """AUROC within one source that holds both labels."""

    source: str
    n_harmful: int
    n_benign: int
    auroc: Estimate


@dataclass(frozen=True, slots=True)
class Histogram:
    """Row counts between `edges` [bins + 1], by label."""

    edges: tuple[float, ...]
    harmful: tuple[int, ...]
    benign: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RocPoints:
    """The highest TPR within each FPR of a logarithmic grid."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScorerResult:
    """All figures of one column of scores. Figures that need both labels are None or empty without them."""

    name: str
    column: str
    auroc: Estimate | None
    log_auroc: Estimate | None
    operating_points: tuple[OperatingPoint, ...]
    within_sources: tuple[SourceAuroc, ...]
    fpr_by_source: tuple[Breakdown, ...]
    fpr_by_length: tuple[Breakdown, ...]
    fpr_by_category: tuple[Breakdown, ...]
    tpr_by_source: tuple[Breakdown, ...]
    tpr_by_category: tuple[Breakdown, ...]
    roc: RocPoints | None
    histogram: Histogram | None


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A row worth reading: its id and score, never its text."""

    id: str
    source: str
    category: str | None
    score: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two scorers on the same rows. `difference` is first minus second, paired by prompt."""

    metric: str
    first: float
    second: float
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences between two scorers on `n` shared rows.

    Rows in only one of the two tables are left out; `only_first` and `only_second` count them.
    """

    first: str
    second: str
    n: int
    n_prompts: int
    only_first: int
    only_second: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The evaluation of one scores table.

    Attributes:
        name: the guard's name.
        n, n_harmful, n_benign: numbers of labelled rows.
        n_unlabelled: rows without a label, which are left out.
        n_prompts: distinct prompts of the labelled rows.
        n_calibration: distinct benign prompts of the calibration table; 0 without one.
        prompts_from: the column that tells prompts apart, `prompt_group` or `id`.
        scorers: figures of each scorer. The first one is the score that the guard decides by.
        worst_source: source with the highest false-positive rate at the lowest FPR; None if none is flagged.
        versus: paired differences between the first scorer and each of the others.
        highest_benign, lowest_harmful: rows to read, the most extreme first.
        warnings: sentences that a reader must know.
        provenance: see `collect_provenance`.
        comparison: paired differences from another guard, if asked for.
    """

    name: str
    n: int
    n_harmful: int
    n_benign: int
    n_unlabelled: int
    n_prompts: int
    n_calibration: int
    prompts_from: str
    scorers: tuple[ScorerResult, ...]
    worst_source: str | None
    versus: tuple[Comparison, ...]
    highest_benign: tuple[RankedRow, ...]
    lowest_harmful: tuple[RankedRow, ...]
    warnings: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dicts, lists and numbers for JSON."""
        return asdict(self)

    def scorer(self, name: str) -> ScorerResult:
        """Return the figures of the scorer `name`.

        Raises:
            KeyError: there is no such scorer.
        """
        return {scorer.name: scorer for scorer in self.scorers}[name]
