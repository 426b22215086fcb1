"""The cascade: state machines that turn logits into flags. They are pure, without a model or I/O."""

from lockgate.cascade._cascade import Cascade, CascadeOutcome, CascadeState, simulate
from lockgate.cascade._state import ExchangeState
from lockgate.cascade._stream import Block, FlagOn, Regions, StreamState, Thresholds, Verdict

__all__ = [
    "Block",
    "Cascade",
    "CascadeOutcome",
    "CascadeState",
    "ExchangeState",
    "FlagOn",
    "Regions",
    "StreamState",
    "Thresholds",
    "Verdict",
    "simulate",
]
