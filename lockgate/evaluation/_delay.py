"""How much of a harmful answer is out before the halt."""

from dataclasses import dataclass

import numpy as np

from lockgate.evaluation._curves import Floats, Mask
from lockgate.evaluation._intervals import Clusters, Estimate, rate_by_prompt

_GRID = tuple(round(0.05 * i, 2) for i in range(21))


@dataclass(frozen=True, slots=True)
class Delay:
    """Delay of one system over harmful exchanges, at one cut.

    Tokens and shares of the answer delivered before the halt are upper bounds: where suspicion begins within
    a block, all of the block's tokens but one may have left; later blocks are held until their verdict.

    Attributes:
        n: harmful exchanges.
        halted: share of them halted at all.
        before_half: share of all of them halted before half of the answer was out.
        at_prompt: share of all of them halted before any of it was out.
        tokens: median and 90th percentile of tokens delivered, over halted ones; None if none was.
        share: the same of the delivered share.
        curve: share of all exchanges halted with at most a share `grid` delivered.
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
    """The delay of exchanges [N] that were halted, after `tokens` and a `share` (inf: never)."""
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
