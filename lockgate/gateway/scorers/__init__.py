"""Scorers apart from the gateway: the model and the probe in other processes, which a gateway leases."""

from lockgate.gateway.scorers._core import Part, Reading, ScorerCore
from lockgate.gateway.scorers._leases import About, RayScorers
from lockgate.gateway.scorers._parts import AskedScorers, gateway_of, scorer_of
from lockgate.gateway.scorers._sessions import Lease, Scorer, Scorers
from lockgate.gateway.scorers._stepper import ScorerStepper

__all__ = [
    "About",
    "AskedScorers",
    "Lease",
    "Part",
    "RayScorers",
    "Reading",
    "Scorer",
    "ScorerCore",
    "ScorerStepper",
    "Scorers",
    "gateway_of",
    "scorer_of",
]
