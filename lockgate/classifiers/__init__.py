"""Classifiers: the probe, the exchange classifier and the text baseline. They give logits of harm."""

from lockgate.classifiers._adapter import ADAPTER_PREFIX, adapter_bytes, linear_names
from lockgate.classifiers._blocks import STRIDE, BlockScores, block_ends, score_blocks
from lockgate.classifiers._exchange import (
    VALUE_BIAS,
    VALUE_WEIGHT,
    ExchangeClassifier,
    check_classifier_target,
    classifier_record,
)
from lockgate.classifiers._probe import WINDOW, ProbeHead, ProbeTap
from lockgate.classifiers._record import AdapterShape, ClassifierRecord
from lockgate.classifiers._sessions import ClassifierSession, RunningVerdict, judge, verdict_of
from lockgate.classifiers._wrapper import (
    HEADS,
    QUESTION,
    READS,
    WORDS,
    HeadName,
    Reads,
    Wrapper,
    make_wrapper,
    render_for,
)

__all__ = [
    "ADAPTER_PREFIX",
    "HEADS",
    "QUESTION",
    "READS",
    "STRIDE",
    "VALUE_BIAS",
    "VALUE_WEIGHT",
    "WINDOW",
    "WORDS",
    "AdapterShape",
    "BlockScores",
    "ClassifierRecord",
    "ClassifierSession",
    "ExchangeClassifier",
    "HeadName",
    "ProbeHead",
    "ProbeTap",
    "Reads",
    "RunningVerdict",
    "Wrapper",
    "adapter_bytes",
    "block_ends",
    "check_classifier_target",
    "classifier_record",
    "judge",
    "linear_names",
    "make_wrapper",
    "render_for",
    "score_blocks",
    "verdict_of",
]
