"""The paper's comparison of systems of one or two stages, from scores tables and block traces alone."""

from recipes.reproduce_ccpp.study.compute import study
from recipes.reproduce_ccpp.study.data import StudyData
from recipes.reproduce_ccpp.study.frontier import FrontierPoint
from recipes.reproduce_ccpp.study.mixing import Mixing, MixingPoint
from recipes.reproduce_ccpp.study.report import render_study, write_study_report
from recipes.reproduce_ccpp.study.result import (
    PointRates,
    ScorerComparison,
    SetRates,
    StudyResult,
    SystemResult,
    View,
)
from recipes.reproduce_ccpp.study.spearman import RankCorrelations, rank_correlations
from recipes.reproduce_ccpp.study.spec import Escalation, StudySpec

__all__ = [
    "Escalation",
    "FrontierPoint",
    "Mixing",
    "MixingPoint",
    "PointRates",
    "RankCorrelations",
    "ScorerComparison",
    "SetRates",
    "StudyData",
    "StudyResult",
    "StudySpec",
    "SystemResult",
    "View",
    "rank_correlations",
    "render_study",
    "study",
    "write_study_report",
]
