"""Training of probes, on window means of activations, and of exchange classifiers."""

from lockgate.training._checkpoint import restore_checkpoint, save_checkpoint
from lockgate.training._choose import ProbeChoice, TriedConfig, choose_probe, window_scores
from lockgate.training._classifier import MOST_BUNDLE_BYTES, check_settings, train_classifier
from lockgate.training._classifier_config import ClassifierConfig
from lockgate.training._classifier_data import select_examples
from lockgate.training._fit import ProbeConfig, fit_probes, fold_standardisation, mean_and_std
from lockgate.training._folds import grouped_folds
from lockgate.training._guard import config_dict, train_guard, training_counts
from lockgate.training._loss import LossName, annealed_share, peak_loss, window_loss
from lockgate.training._low_rates import LOW_RATES, LowRateGain, LowRateRecall
from lockgate.training._windows import (
    STRIDE,
    ActivationTap,
    CachedExchange,
    WindowCache,
    build_cache,
    cut_exchange,
)

__all__ = [
    "LOW_RATES",
    "MOST_BUNDLE_BYTES",
    "STRIDE",
    "ActivationTap",
    "CachedExchange",
    "ClassifierConfig",
    "LossName",
    "LowRateGain",
    "LowRateRecall",
    "ProbeChoice",
    "ProbeConfig",
    "TriedConfig",
    "WindowCache",
    "annealed_share",
    "build_cache",
    "check_settings",
    "choose_probe",
    "config_dict",
    "cut_exchange",
    "fit_probes",
    "fold_standardisation",
    "grouped_folds",
    "mean_and_std",
    "peak_loss",
    "restore_checkpoint",
    "save_checkpoint",
    "select_examples",
    "train_classifier",
    "train_guard",
    "training_counts",
    "window_loss",
    "window_scores",
]
