"""Delay: how much of a harmful answer is released before the halt."""

from dataclasses import dataclass

import numpy as np

from lockgate.evaluation._curves import Floats, Mask
from lockgate.evaluation._intervals import Clusters, Estimate, rate_by_prompt

_GRID = tuple(round(0.05 * i, 2) for i in range(21))


@dataclass(frozen=True, slots=True)
class Delay:
    """Delay of one system over harmful exchanges, at one cut.

    Released tokens and shares are upper bounds. In the block where suspicion begins, all tokens except one
    may have left. Later blocks are held until their verdict.

    Attributes:
        system: name of the system.
        n: number of harmful exchanges.
        halted: share of exchanges that were halted.
        before_half: share of all exchanges halted before half of the answer was released.
        at_prompt: share of all exchanges halted before any token was released.
        tokens: median and 90th percentile of released tokens over halted exchanges; None if none was halted.
        share: median and 90th percentile of the released share of the answer, likewise.
        grid: released shares at which `curve` is given.
        curve: share of all exchanges halted when at most a share `grid` of the answer was released.
    """

    system: str
    n: int
    halted: Estimate | None
    before_half: Estimate | None
    at_prompt: Estimate | None
    tokens: tuple[float, float] | None
    share: tuple[float, float] | None
    grid: tuple[float, ...]
    curve: tuple[float, ...]


def summarise_delay(system: str, halted: Mask, tokens: Floats, share: Floats, clusters: Clusters) -> Delay:
    """Summarise the delay of one system over harmful exchanges.

    Args:
        system: name of the system.
        halted: whether each exchange [N] was halted.
        tokens: answer tokens released before the halt [N].
        share: share of the answer released before the halt [N]; infinite for an exchange without a halt.
        clusters: the prompts of the N exchanges.
    """
    return Delay(
        system,
        len(halted),
        rate_by_prompt(halted, clusters),
        rate_by_prompt(share < 0.5, clusters),
        rate_by_prompt(halted & (tokens == 0), clusters),
        _percentiles(tokens[halted]),
        _percentiles(share[halted]),
        _GRID,
        tuple(float((share <= point).mean()) if len(share) else 0.0 for point in _GRID),
    )


def _percentiles(values: Floats) -> tuple[float, float] | None:
    if not len(values):
        return None
    middle, high = np.percentile(values, [50, 90])
    return float(middle), float(high)
