"""Attention over token trees, for training: a packed row with its own mask for each tree.

One conversation may have several suffixes, each after its own cut. One pass reads all of them, as if each
suffix came alone after the conversation up to its cut. No memory is kept, and gradients flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TreePart:
    """Tokens `start:end` of a row. They see only each other.

    Attributes:
        positions: `[n]`, position of each token for the model.
        visible: boolean `[n, n]`: whether the row's token sees the column's. A sliding window is applied
            later.
    """

    start: int
    end: int
    positions: Tensor
    visible: Tensor


@dataclass(slots=True)
class TreeStep:
    """The plan of one pass over trees, as attention needs it. `blocks` are the trees, in the row's order."""

    blocks: Sequence[TreePart]
    _masks: dict[tuple[int, int | None, int], Tensor] = field(default_factory=dict)

    def mask(self, number: int, window: int | None, groups: int, device: torch.device) -> Tensor:
        """Return the boolean mask `[groups * n, n]` of a tree."""
        key = (number, window, groups)
        if key not in self._masks:
            block = self.blocks[number]
            visible = block.visible
            if window is not None:
                visible = visible & (block.positions.unsqueeze(1) - block.positions.unsqueeze(0) < window)
            self._masks[key] = visible.to(device).repeat(groups, 1)
        return self._masks[key]


def tree_part(start: int, length: int, cuts: Sequence[int], suffix: int) -> TreePart:
    """Lay out a conversation of `length` tokens, followed by one suffix of `suffix` tokens for each cut.

    A suffix sees the conversation's first `cut` tokens and itself. No other token sees it. Its positions
    continue from the cut.
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
