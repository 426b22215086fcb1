"""When a system halts an answer."""

import numpy as np

from lockgate.evaluation import Floats, Mask
from recipes.reproduce_ccpp.study.systems import SystemScores

__all__ = ["delivered"]


def delivered(scores: SystemScores, cut: float) -> tuple[Mask, Floats]:
    """Return the halted exchanges [N], and the answer tokens that may have left before the halt [N], NaN if there is none."""
    above = scores.scores > cut
    halted = np.asarray(above.any(axis=1))
    block = np.argmax(above, axis=1)
    rows = np.arange(len(block))
    tokens = scores.ends[rows, np.maximum(block - 1, 0)].astype(np.float64)
    if scores.began is not None:
        begun_here = scores.began[rows, block] & (block > 0)
        tokens = np.where(begun_here, scores.ends[rows, block] - 1, tokens)
    return halted, np.where(halted, np.where(block == 0, 0.0, tokens), np.nan)
