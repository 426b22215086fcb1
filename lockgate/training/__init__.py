"""Training: window means of activations, and probes fitted on them."""

from lockgate.training._fit import ProbeConfig, fit_probes
from lockgate.training._loss import LossName, window_loss
from lockgate.training._windows import STRIDE, WINDOW, CachedExchange, WindowCache, build_cache

__all__ = [
    "STRIDE",
    "WINDOW",
    "CachedExchange",
    "LossName",
    "ProbeConfig",
    "WindowCache",
    "build_cache",
    "fit_probes",
    "window_loss",
]
