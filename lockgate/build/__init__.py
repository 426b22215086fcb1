"""Build: from a constitution to a calibrated guard in one call, resumable at every step."""

from lockgate.build._build import BuildResult, build_guard
from lockgate.build._estimate import BuildEstimate, estimate_build
from lockgate.build._inputs import BuildInputs, BuildProgress
from lockgate.build._plan import TrainingPlan
from lockgate.build._report import summarise_build

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
