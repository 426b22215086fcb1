"""Training: window means of activations, probes fitted on them, and variants trained on the fly."""

from lockgate.training._classifier import train_classifier
from lockgate.training._classifier_config import ClassifierConfig
from lockgate.training._fit import ProbeConfig, fit_probes
from lockgate.training._loss import LossName, window_loss
from lockgate.training._sequences import SequenceLoss, SequenceLossName
from lockgate.training._teacher import read_soft_labels, soften
from lockgate.training._variant_scores import RegionScore, RollingAttention, score_variants
from lockgate.training._variants import PassConfig, VariantConfig, train_on_the_fly
from lockgate.training._windows import STRIDE, WINDOW, CachedExchange, WindowCache, build_cache

__all__ = [
    "STRIDE",
    "WINDOW",
    "CachedExchange",
    "ClassifierConfig",
    "LossName",
    "PassConfig",
    "ProbeConfig",
    "RegionScore",
    "RollingAttention",
    "SequenceLoss",
    "SequenceLossName",
    "VariantConfig",
    "WindowCache",
    "build_cache",
    "fit_probes",
    "read_soft_labels",
    "score_variants",
    "soften",
    "train_classifier",
    "train_on_the_fly",
    "window_loss",
]
