"""Guards: the bundle on disk, its model card, and the loaded object that scores and watches."""

from lockgate.guards._bundle import EMBEDDED, check_target, read_bundle
from lockgate.guards._cascading import score_cascade
from lockgate.guards._files import score_row
from lockgate.guards._guard import Guard
from lockgate.guards._record import (
    CascadeRecord,
    GuardRecord,
    PromptsRecord,
    ProvisionalRecord,
    SecondStageRecord,
    TrainingRecord,
)
from lockgate.guards._score_block import ScoreBlock
from lockgate.guards._scoring import BlockRow, ExchangeScore, regions_of, score_exchanges
from lockgate.guards._staging import StagedScores, score_once, score_stages
from lockgate.guards._stream import GuardStream
from lockgate.guards._training import config_dict, train_guard, training_counts
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
    "ScoreBlock",
    "SecondStageRecord",
    "StagedScores",
    "TrainingRecord",
    "VerdictSession",
    "VerdictSource",
    "Verdicts",
    "check_target",
    "config_dict",
    "read_bundle",
    "regions_of",
    "score_cascade",
    "score_exchanges",
    "score_once",
    "score_row",
    "score_stages",
    "train_guard",
    "training_counts",
]
