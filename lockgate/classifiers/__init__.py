"""Classifiers: what turns activations, or text, into logits of harm."""

from lockgate.classifiers._probe import ProbeHead, ProbeTap
from lockgate.classifiers._text import TextBaseline, TextBaselineConfig

__all__ = ["ProbeHead", "ProbeTap", "TextBaseline", "TextBaselineConfig"]
