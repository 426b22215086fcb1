"""What an evaluation returns: plain frozen records that turn into JSON as they are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lockgate.evaluation._intervals import Estimate


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One threshold of one scorer and what it does.

    `origin` says where the threshold comes from: calibration (plain quantile of a calibration table at
    `fpr`), evaluation (the same of the evaluated rows: optimistic) or guard (the guard's own decisions).
    `fpr` and `realised_fpr` are shares of benign rows, `tpr` of harmful rows.
    """

    name: str
    origin: str
    fpr: float | None
    threshold: float | None
    tpr: Estimate | None
    realised_fpr: Estimate | None


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Flagged shares of one part of the rows, by operating point name."""

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
    """TPR reachable within each FPR of a logarithmic grid."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScorerResult:
    """All figures of one column of scores. What needs both labels is None or empty without them."""

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
    """A metric of two scorers on the same rows; `difference` is first minus second, paired by prompt."""

    metric: str
    first: float
    second: float
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences of two sets of scores; rows that only one of them holds are counted and left out."""

    first: str
    second: str
    n: int
    n_prompts: int
    only_first: int
    only_second: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation of one scores table; `scorers[0]` is what the guard decides by, baselines follow."""

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
        """Plain dicts, lists and numbers for JSON."""
        return asdict(self)

    def scorer(self, name: str) -> ScorerResult:
        """A scorer by name. Raises KeyError for an unknown one."""
        return {scorer.name: scorer for scorer in self.scorers}[name]
