"""Classifiers: what turns activations, or text, into logits of harm."""

from lockgate.classifiers._blocks import STRIDE, BlockScores, block_ends, score_blocks
from lockgate.classifiers._exchange import ExchangeClassifier, check_classifier_target
from lockgate.classifiers._probe import ProbeHead, ProbeTap
from lockgate.classifiers._record import AdapterShape, ClassifierRecord
from lockgate.classifiers._sessions import ClassifierSession, judge
from lockgate.classifiers._shared import LayerTap, SharedReader, SharedSession
from lockgate.classifiers._text import TextBaseline, TextBaselineConfig
from lockgate.classifiers._wrapper import HEADS, READS, HeadName, Reads, Wrapper, make_wrapper

__all__ = [
    "HEADS",
    "READS",
    "STRIDE",
    "AdapterShape",
    "BlockScores",
    "ClassifierRecord",
    "ClassifierSession",
    "ExchangeClassifier",
    "HeadName",
    "LayerTap",
    "ProbeHead",
    "ProbeTap",
    "Reads",
    "SharedReader",
    "SharedSession",
    "TextBaseline",
    "TextBaselineConfig",
    "Wrapper",
    "block_ends",
    "check_classifier_target",
    "judge",
    "make_wrapper",
    "score_blocks",
]
