"""The engine's view of a guard."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from lockgate.backbones import Tap
from lockgate.guards import Stages


class ScoringTap(Tap, Protocol):
    """A tap that holds the logits `[tokens, heads]` of the newest step."""

    @property
    def logits(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Scoring:
    """What judges an engine's streams, how it sees them, and what the outside is told of it.

    Attributes:
        stages: what judges, as in every other way of scoring.
        tap: reads the activations of this engine's steps. Each engine has one of its own.
        refusal: what the client is told at a flag.
        guard: hash of the bundle, for the decision log.
    """

    stages: Stages
    tap: ScoringTap
    refusal: str
    guard: str
