"""Guards: the bundle on disk, its model card, and the loaded object that scores and watches."""

from lockgate.guards._bundle import EMBEDDED, check_target, read_bundle
from lockgate.guards._cascading import score_cascade
from lockgate.guards._guard import Guard
from lockgate.guards._record import (
    CascadeRecord,
    GuardRecord,
    PromptsRecord,
    ProvisionalRecord,
    SecondStageRecord,
    TrainingRecord,
)
from lockgate.guards._scoring import BlockRow, ExchangeScore, finite_or_none, regions_of, score_exchanges
from lockgate.guards._stream import GuardStream
from lockgate.guards._verdicts import Verdicts, VerdictSession, VerdictSource

__all__ = [
    "EMBEDDED",
    "BlockRow",
    "CascadeRecord",
    "ExchangeScore",
    "Guard",
    "GuardRecord",
    "GuardStream",
    "PromptsRecord",
    "ProvisionalRecord",
    "SecondStageRecord",
    "TrainingRecord",
    "VerdictSession",
    "VerdictSource",
    "Verdicts",
    "check_target",
    "finite_or_none",
    "read_bundle",
    "regions_of",
    "score_cascade",
    "score_exchanges",
]
