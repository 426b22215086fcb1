"""Attention over token trees, for training: a packed row in which each token names what it sees.

One conversation may carry several suffixes, each behind its own cut. All of them are read in one pass, as if
each stood alone behind the conversation up to its cut. No memory is kept, and gradients flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TreePart:
    """Tokens `start:end` of a row that see none but each other.

    Attributes:
        positions: `[n]`, as the model counts them.
        visible: boolean `[n, n]`, row sees column; not yet cut to a sliding window.
    """

    start: int
    end: int
    positions: Tensor
    visible: Tensor


@dataclass(slots=True)
class TreeStep:
    """What attention needs to know of one pass over trees; the blocks cover the row in order."""

    blocks: Sequence[TreePart]
    _masks: dict[tuple[int, int | None, int], Tensor] = field(default_factory=dict)

    def mask(self, number: int, window: int | None, groups: int, device: torch.device) -> Tensor:
        """Boolean mask `[groups * n, n]` of a block."""
        key = (number, window, groups)
        if key not in self._masks:
            block = self.blocks[number]
            visible = block.visible
            if window is not None:
                visible = visible & (block.positions.unsqueeze(1) - block.positions.unsqueeze(0) < window)
            self._masks[key] = visible.to(device).repeat(groups, 1)
        return self._masks[key]


def tree_part(start: int, length: int, cuts: Sequence[int], suffix: int) -> TreePart:
    """A conversation of `length` tokens and behind it, one for each cut, suffixes of `suffix` tokens.

    A suffix sees the conversation's first `cut` tokens and itself; nothing sees it. Its positions go on from
    the cut.
    """
    own = torch.arange(suffix)
    total = length + len(cuts) * suffix
    visible = torch.zeros(total, total, dtype=torch.bool)
    visible[:length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    positions = [torch.arange(length)]
    for number, cut in enumerate(cuts):
        rows = slice(length + number * suffix, length + (number + 1) * suffix)
        visible[rows, :cut] = True
        visible[rows, rows] = own.unsqueeze(0) <= own.unsqueeze(1)
        positions.append(cut + own)
    return TreePart(start, start + total, torch.cat(positions), visible)
