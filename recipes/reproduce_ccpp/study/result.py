"""The result of a study of systems: plain frozen records that turn into JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lockgate.evaluation import Breakdown, Delay, Estimate, Robustness
from recipes.reproduce_ccpp.study.frontier import FrontierPoint
from recipes.reproduce_ccpp.study.mixing import Mixing
from recipes.reproduce_ccpp.study.spearman import RankCorrelations

__all__ = ["PointRates", "ScorerComparison", "SetRates", "StudyResult", "SystemResult", "View"]


@dataclass(frozen=True, slots=True)
class SetRates:
    """One system on one set: `detected` is the share of its harmful rows, `false_alarms` the share of its benign ones."""

    part: str
    kind: str
    detected: Estimate | None
    false_alarms: Estimate | None


@dataclass(frozen=True, slots=True)
class PointRates:
    """A system at one flagged share `fpr` of the calibration prompts.

    `cut` is None if everything judged is flagged. `tpr` pools the harmful sets, `tpr_macro` is the mean over them, and
    `flagged` is the share of benign test traffic.
    """

    fpr: float
    cut: float | None
    tpr: Estimate | None
    tpr_macro: Estimate | None
    flagged: Estimate | None
    sets: tuple[SetRates, ...]


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system: its compute and its rates.

    Compute is in per cent of the reference's FLOPs (and CPU seconds) on benign test traffic. `points[0]` is the operating
    point, the other is the claim point. `escalate`, `weight` and `escalated` are None for a system of one stage.
    """

    name: str
    relative_compute_engine: float
    relative_compute_front: float
    relative_cpu_engine: float | None
    relative_cpu_front: float | None
    escalated: Estimate | None
    escalate: float | None
    weight: float | None
    points: tuple[PointRates, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Flagged shares at the operating point by one property. The `rates` of each part are by system."""

    property: str
    harmful: tuple[Breakdown, ...]
    benign: tuple[Breakdown, ...]


@dataclass(frozen=True, slots=True)
class ScorerComparison:
    """A scorer against the exchange classifier at the claim point, on the rows that both have read.

    `difference` is the exchange classifier's macro-averaged TPR minus the scorer's, paired by prompt. `exchange_beats` is
    true if its interval lies above 0.
    """

    name: str
    n_calibration: int
    n_harmful: int
    tpr_macro: float
    exchange_tpr_macro: float
    difference: Estimate
    exchange_beats: bool
    flagged: Estimate | None


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The paper's comparison: systems, their robustness against each other, and breakdowns."""

    name: str
    operating_point: float
    claim_point: float
    n_calibration: int
    n_benign: int
    n_harmful: int
    n_harmful_prompts: int
    compute_reference: str
    systems: tuple[SystemResult, ...]
    robustness: tuple[Robustness, ...]
    scorers: tuple[ScorerComparison, ...]
    spearman: RankCorrelations | None
    mixing: tuple[Mixing, ...]
    frontier: tuple[FrontierPoint, ...]
    delay: tuple[Delay, ...]
    views: tuple[View, ...]
    warnings: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers for JSON."""
        return asdict(self)

    def system(self, name: str) -> SystemResult:
        """Return a system by name. Raises KeyError for an unknown one."""
        return {system.name: system for system in self.systems}[name]
