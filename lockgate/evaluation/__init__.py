"""Evaluation: the scores table, figures with intervals by prompt, and the report made from them."""

from lockgate.evaluation._compare import compare
from lockgate.evaluation._curves import auroc, log_auroc
from lockgate.evaluation._evaluate import evaluate
from lockgate.evaluation._intervals import Estimate, wilson
from lockgate.evaluation._provenance import collect_provenance, file_sha256
from lockgate.evaluation._report import render_report, write_report
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
from lockgate.evaluation._scorers import Baseline, benign_prompts
from lockgate.evaluation._scores import SCORES_SCHEMA, ScoresTable
from lockgate.evaluation._traces import TRACE_SCHEMA, BlockTrace

__all__ = [
    "SCORES_SCHEMA",
    "TRACE_SCHEMA",
    "Baseline",
    "BlockTrace",
    "Breakdown",
    "Comparison",
    "Difference",
    "Estimate",
    "EvaluationResult",
    "OperatingPoint",
    "RankedRow",
    "ScorerResult",
    "ScoresTable",
    "SourceAuroc",
    "auroc",
    "benign_prompts",
    "collect_provenance",
    "compare",
    "evaluate",
    "file_sha256",
    "log_auroc",
    "render_report",
    "wilson",
    "write_report",
]
