"""Assembly of a guard: from a constitution to a calibrated guard in one call, resumable at every step."""

from lockgate.assembly._build import BuildResult, build_guard
from lockgate.assembly._estimate import BuildEstimate, estimate_build
from lockgate.assembly._inputs import BuildInputs, BuildProgress
from lockgate.assembly._plan import TrainingPlan
from lockgate.assembly._report import summarise_build

__all__ = [
    "BuildEstimate",
    "BuildInputs",
    "BuildProgress",
    "BuildResult",
    "TrainingPlan",
    "build_guard",
    "estimate_build",
    "summarise_build",
]
