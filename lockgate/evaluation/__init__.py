"""Evaluation of guards from scores tables: figures with intervals by prompt, comparisons and reports."""

from lockgate.evaluation._breakdowns import by_key, by_length
from lockgate.evaluation._compare import compare
from lockgate.evaluation._curves import Floats, Mask, auroc, log_auroc
from lockgate.evaluation._cut_plots import BudgetPoint, recall_plot, score_lines_plot
from lockgate.evaluation._delay import Delay, summarise_delay
from lockgate.evaluation._evaluate import evaluate
from lockgate.evaluation._intervals import (
    RESAMPLES,
    Clusters,
    Estimate,
    exact_rate,
    percentiles,
    rate_by_prompt,
    wilson,
)
from lockgate.evaluation._pages import inline_svg, page_environment, write_page
from lockgate.evaluation._provenance import collect_provenance
from lockgate.evaluation._report import check_report, render_report, write_report
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
from lockgate.evaluation._robust import (
    MARGIN,
    Detections,
    Robustness,
    at_least_as_robust,
    macro_rate,
    mean_over_sets,
    pool,
)
from lockgate.evaluation._scorers import Baseline, align, benign_prompts, collect_scorers, threshold_of

__all__ = [
    "MARGIN",
    "RESAMPLES",
    "Baseline",
    "Breakdown",
    "BudgetPoint",
    "Clusters",
    "Comparison",
    "Delay",
    "Detections",
    "Difference",
    "Estimate",
    "EvaluationResult",
    "Floats",
    "Mask",
    "OperatingPoint",
    "RankedRow",
    "Robustness",
    "ScorerResult",
    "SourceAuroc",
    "align",
    "at_least_as_robust",
    "auroc",
    "benign_prompts",
    "by_key",
    "by_length",
    "check_report",
    "collect_provenance",
    "collect_scorers",
    "compare",
    "evaluate",
    "exact_rate",
    "inline_svg",
    "log_auroc",
    "macro_rate",
    "mean_over_sets",
    "page_environment",
    "percentiles",
    "pool",
    "rate_by_prompt",
    "recall_plot",
    "render_report",
    "score_lines_plot",
    "summarise_delay",
    "threshold_of",
    "wilson",
    "write_page",
    "write_report",
]
