"""Training: window means of activations, probes fitted on them, and variants trained on the fly."""

from lockgate.training._checkpoint import restore_checkpoint, save_checkpoint
from lockgate.training._classifier import train_classifier
from lockgate.training._classifier_config import ClassifierConfig
from lockgate.training._fit import ProbeConfig, fit_probes, fold_standardisation, mean_and_std
from lockgate.training._guard import config_dict, train_guard, training_counts
from lockgate.training._loss import LossName, window_loss
from lockgate.training._sequences import (
    SequenceLoss,
    SequenceLossName,
    rolling_attention,
    sliding_mean,
    valid_positions,
)
from lockgate.training._windows import (
    STRIDE,
    ActivationTap,
    CachedExchange,
    WindowCache,
    build_cache,
    cut_exchange,
)

__all__ = [
    "STRIDE",
    "ActivationTap",
    "CachedExchange",
    "ClassifierConfig",
    "LossName",
    "ProbeConfig",
    "SequenceLoss",
    "SequenceLossName",
    "WindowCache",
    "build_cache",
    "config_dict",
    "cut_exchange",
    "fit_probes",
    "fold_standardisation",
    "mean_and_std",
    "restore_checkpoint",
    "rolling_attention",
    "save_checkpoint",
    "sliding_mean",
    "train_classifier",
    "train_guard",
    "training_counts",
    "valid_positions",
    "window_loss",
]
