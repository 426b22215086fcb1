"""Scorers apart from the gateway: the model and the probe in other processes, which a gateway leases."""

from lockgate.gateway.scorers._core import Part, Reading, ScorerCore
from lockgate.gateway.scorers._leases import RayScorers
from lockgate.gateway.scorers._parts import gateway_of, scorer_of
from lockgate.gateway.scorers._sessions import Lease
from lockgate.gateway.scorers._stepper import ScorerStepper

__all__ = [
    "Lease",
    "Part",
    "RayScorers",
    "Reading",
    "ScorerCore",
    "ScorerStepper",
    "gateway_of",
    "scorer_of",
]
