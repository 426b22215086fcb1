"""The cascade: state machines that turn logits into flags. They are pure, without a model or I/O."""

from lockgate.cascade._cascade import Block, Cascade, CascadeOutcome, CascadeState, simulate
from lockgate.cascade._stream import FlagOn, Regions, StreamState, Thresholds, Verdict

__all__ = [
    "Block",
    "Cascade",
    "CascadeOutcome",
    "CascadeState",
    "FlagOn",
    "Regions",
    "StreamState",
    "Thresholds",
    "Verdict",
    "simulate",
]
