"""The data factory, which turns a constitution into labelled exchanges by a plan."""

from lockgate.synthesis.factory._estimate import SynthesisEstimate, estimate_synthesis
from lockgate.synthesis.factory._generators import embedded_source, endpoint_source
from lockgate.synthesis.factory._plan import FactoryPlan, PlanPreset
from lockgate.synthesis.factory._roles import COMPLIANT, HARMLESS, PERMITTED, REFUSED, TWIN
from lockgate.synthesis.factory._sections import (
    AnswerPlan,
    AugmentationPlan,
    FilterPlan,
    JudgePlan,
    PairPlan,
    QueryPlan,
    RedTeamPlan,
)
from lockgate.synthesis.factory._synthesize import SynthesisResult, synthesize

__all__ = [
    "COMPLIANT",
    "HARMLESS",
    "PERMITTED",
    "REFUSED",
    "TWIN",
    "AnswerPlan",
    "AugmentationPlan",
    "FactoryPlan",
    "FilterPlan",
    "JudgePlan",
    "PairPlan",
    "PlanPreset",
    "QueryPlan",
    "RedTeamPlan",
    "SynthesisEstimate",
    "SynthesisResult",
    "embedded_source",
    "endpoint_source",
    "estimate_synthesis",
    "synthesize",
]
