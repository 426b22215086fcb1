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
    """The parts of a guard that an engine needs.

    Attributes:
        stages: what judges the streams, the same as for files.
        tap: reads the activations of this engine's steps. Each engine has its own tap.
        refusal: text that the client gets when the answer is flagged.
        guard: hash of the bundle, for the decision log.
    """

    stages: Stages
    tap: ScoringTap
    refusal: str
    guard: str
