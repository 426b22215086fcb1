"""Classifiers: what turns activations, or text, into logits of harm."""

from lockgate.classifiers._probe import ProbeHead, ProbeTap

__all__ = ["ProbeHead", "ProbeTap"]
