"""The engine's view of a guard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
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
        measure: hash of what gives the scores (`GuardRecord.measure`), for the decision log.
    """

    stages: Stages
    tap: ScoringTap
    refusal: str
    guard: str
    measure: str | None = None


def to_host(tensors: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Copy float32 tensors to the host, from a GPU in a single transfer."""
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu().numpy()
    ends = np.cumsum([tensor.numel() for tensor in tensors])[:-1]
    parts = zip(np.split(whole, ends), tensors, strict=True)
    return [part.reshape(tuple(tensor.shape)) for part, tensor in parts]
