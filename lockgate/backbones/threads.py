"""How many threads of the processor a small model should use: as many as make it fastest here, by trial.

More threads are not always faster. They wait for each other after every layer, and on a machine that others
share, or whose cores are virtual, that costs more than it brings.
"""

import os
import time
from statistics import median

import torch

from lockgate.backbones._backbone import Backbone
from lockgate.backbones._sessions import Feed, SessionPool

__all__ = ["choose_threads"]

# New tokens of one step, as when a few answers are read at a time.
_TOKENS = 4
_TRIALS = 7
# More threads must save so much of the time. Otherwise the rest of the machine gets them.
_GAIN = 0.1


def choose_threads(backbone: Backbone) -> int:
    """Try steps with 1, 2, 4, ... threads, take the number that pays, and set it for this process.

    A choice of the environment (`OMP_NUM_THREADS`) stays, and so does that of a model on another device.

    Returns:
        The number of threads that PyTorch uses now.
    """
    most = torch.get_num_threads()
    if backbone.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return most
    best, least = 1, _time_step(backbone, 1)
    threads = 2
    while threads <= most:
        seconds = _time_step(backbone, threads)
        if seconds > least * (1 - _GAIN):
            break
        best, least = threads, seconds
        threads *= 2
    torch.set_num_threads(best)
    return best


def _time_step(backbone: Backbone, threads: int) -> float:
    """Return the median seconds of a step with so many threads, without the first one, which is slow."""
    torch.set_num_threads(threads)
    # Control tokens are few, and any other token does.
    tokens = [backbone.vocab_size // 2] * _TOKENS
    taken = []
    with SessionPool(backbone, (_TRIALS + 1) * _TOKENS) as pool:
        session = pool.open((_TRIALS + 1) * _TOKENS)
        for _ in range(_TRIALS + 1):
            begun = time.perf_counter()
            pool.step([Feed(session, tokens)])
            taken.append(time.perf_counter() - begun)
        session.close()
    return median(taken[1:])
