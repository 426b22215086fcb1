"""Guards: the bundle on disk, its model card, and the loaded object that scores and watches."""

from lockgate.guards._bundle import EMBEDDED, check_target, read_bundle
from lockgate.guards._guard import Guard
from lockgate.guards._record import GuardRecord, TrainingRecord
from lockgate.guards._scoring import ExchangeScore, regions_of, score_exchanges
from lockgate.guards._stream import GuardStream
from lockgate.guards._training import config_dict, train_guard, training_counts

__all__ = [
    "EMBEDDED",
    "ExchangeScore",
    "Guard",
    "GuardRecord",
    "GuardStream",
    "TrainingRecord",
    "check_target",
    "config_dict",
    "read_bundle",
    "regions_of",
    "score_exchanges",
    "train_guard",
    "training_counts",
]
