"""Evaluation: scores tables and block traces, figures with intervals by prompt, and reports from them."""

from lockgate.evaluation._compare import compare
from lockgate.evaluation._curves import auroc, log_auroc
from lockgate.evaluation._delay import Delay
from lockgate.evaluation._evaluate import evaluate
from lockgate.evaluation._frontier import FrontierPoint
from lockgate.evaluation._intervals import Estimate, wilson
from lockgate.evaluation._mixing import Mixing, MixingPoint
from lockgate.evaluation._provenance import collect_provenance, file_sha256
from lockgate.evaluation._report import render_report, render_study, write_report, write_study_report
from lockgate.evaluation._result import (
    Breakdown,
    Comparison,
    Difference,
    EvaluationResult,
    OperatingPoint,
    RankedRow,
    ScorerResult,
    SourceAuroc,
)
from lockgate.evaluation._robust import Detections, Robustness, at_least_as_robust, macro_rate
from lockgate.evaluation._scorers import Baseline, benign_prompts
from lockgate.evaluation._scores import SCORES_SCHEMA, ScoresTable
from lockgate.evaluation._spearman import RankCorrelations, rank_correlations
from lockgate.evaluation._study import study
from lockgate.evaluation._study_data import StudyData
from lockgate.evaluation._study_result import (
    PointRates,
    ScorerComparison,
    SetRates,
    StudyResult,
    SystemResult,
    View,
)
from lockgate.evaluation._study_spec import Escalation, StudySpec
from lockgate.evaluation._traces import TRACE_SCHEMA, BlockTrace
from lockgate.evaluation._update import CategoryChange, GuardComparison, compare_guards
from lockgate.evaluation._update_rule import UpdateRule, UpdateVerdict

__all__ = [
    "SCORES_SCHEMA",
    "TRACE_SCHEMA",
    "Baseline",
    "BlockTrace",
    "Breakdown",
    "CategoryChange",
    "Comparison",
    "Delay",
    "Detections",
    "Difference",
    "Escalation",
    "Estimate",
    "EvaluationResult",
    "FrontierPoint",
    "GuardComparison",
    "Mixing",
    "MixingPoint",
    "OperatingPoint",
    "PointRates",
    "RankCorrelations",
    "RankedRow",
    "Robustness",
    "ScorerComparison",
    "ScorerResult",
    "ScoresTable",
    "SetRates",
    "SourceAuroc",
    "StudyData",
    "StudyResult",
    "StudySpec",
    "SystemResult",
    "UpdateRule",
    "UpdateVerdict",
    "View",
    "at_least_as_robust",
    "auroc",
    "benign_prompts",
    "collect_provenance",
    "compare",
    "compare_guards",
    "evaluate",
    "file_sha256",
    "log_auroc",
    "macro_rate",
    "rank_correlations",
    "render_report",
    "render_study",
    "study",
    "wilson",
    "write_report",
    "write_study_report",
]
