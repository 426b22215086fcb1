"""Scores of cached prefixes. vLLM computes a cached block once, so its scores are kept by its hash."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class RowStore:
    """The probe's rows of full blocks, by block hash, the least recently used of them dropped first.

    A block's hash covers its tokens and everything before them, so equal hashes have equal rows.

    Args:
        block: tokens in a block.
        outputs: columns of a row.
        capacity: blocks to keep, at least one for each block of vLLM's own cache.
    """

    def __init__(self, block: int, outputs: int, capacity: int) -> None:
        self.block = block
        self._outputs = outputs
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, Rows] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Hashable, rows: Rows) -> None:
        """Keep the rows `[block, outputs]` of one block."""
        if rows.shape != (self.block, self._outputs):
            raise ValueError(f"rows of a block: expected {(self.block, self._outputs)}, found {rows.shape}")
        self._kept[key] = rows
        self._kept.move_to_end(key)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def covered(self, keys: Sequence[Hashable], start: int, end: int) -> int:
        """Return the highest multiple of the block size, at most `end`, up to which rows are known.

        Args:
            keys: hashes of a request's blocks, in order.
            start: rows before this position are not needed.
            end: where vLLM's own cache ends.
        """
        known = start // self.block
        while (known + 1) * self.block <= end and known < len(keys) and keys[known] in self._kept:
            self._kept.move_to_end(keys[known])
            known += 1
        return min(known * self.block, end)

    def read(self, keys: Sequence[Hashable], start: int, end: int) -> Rows | None:
        """Return the rows of positions `start` to `end`; None if a block is not known."""
        blocks: list[Rows] = []
        for number in range(start // self.block, -(-end // self.block)):
            rows = self._kept.get(keys[number]) if number < len(keys) else None
            if rows is None:
                return None
            self._kept.move_to_end(keys[number])
            blocks.append(rows)
        first = start // self.block * self.block
        found = np.concatenate(blocks) if blocks else np.empty((0, self._outputs), np.float32)
        return found[start - first : end - first]

    def clear(self) -> None:
        """Forget everything, because vLLM has emptied its cache."""
        self._kept.clear()
