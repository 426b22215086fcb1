"""Guards: the bundle on disk, its model card, and the loaded guard that scores exchanges and streams."""

from lockgate.guards._bundle import EMBEDDED, bundle_folder, check_target, is_shipped, read_bundle
from lockgate.guards._guard import Guard
from lockgate.guards._panel import Panel, Voice
from lockgate.guards._record import (
    CascadeRecord,
    GuardRecord,
    PromptsRecord,
    ProvisionalRecord,
    SecondStageRecord,
    TrainingRecord,
    VoiceRecord,
)
from lockgate.guards._scheduler import TOKENS_PER_STEP, Ask, Conversation, Given, VerdictScheduler
from lockgate.guards._scoring import BlockRow, ExchangeScore, finite_or_none, score_exchanges
from lockgate.guards._stage1 import regions_of
from lockgate.guards._stages import Stages
from lockgate.guards._stream import GuardStream
from lockgate.guards._text_stage import TextStage
from lockgate.guards._verdicts import (
    ClassifierStage,
    SecondStage,
    Verdicts,
    VerdictSession,
    VerdictSource,
)

__all__ = [
    "EMBEDDED",
    "TOKENS_PER_STEP",
    "Ask",
    "BlockRow",
    "CascadeRecord",
    "ClassifierStage",
    "Conversation",
    "ExchangeScore",
    "Given",
    "Guard",
    "GuardRecord",
    "GuardStream",
    "Panel",
    "PromptsRecord",
    "ProvisionalRecord",
    "SecondStage",
    "SecondStageRecord",
    "Stages",
    "TextStage",
    "TrainingRecord",
    "VerdictScheduler",
    "VerdictSession",
    "VerdictSource",
    "Verdicts",
    "Voice",
    "VoiceRecord",
    "bundle_folder",
    "check_target",
    "finite_or_none",
    "is_shipped",
    "read_bundle",
    "regions_of",
    "score_exchanges",
]
