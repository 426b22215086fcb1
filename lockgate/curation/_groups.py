"""Groups of rows that belong together, by a union-find with the smallest member as the root."""

from array import array
from collections.abc import Iterable, Sequence


class DisjointSets:
    """Union-find over 0 .. size-1. The root of a set is its smallest member, for any order of unions."""

    def __init__(self, size: int) -> None:
        self._parent = array("q", range(size))

    def find(self, item: int) -> int:
        """Return the smallest member of the item's set."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def union(self, first: int, second: int) -> None:
        """Join the sets of two items."""
        one, two = self.find(first), self.find(second)
        self._parent[max(one, two)] = min(one, two)


def join_groups(keys: Sequence[Iterable[str]]) -> list[int]:
    """Group rows that share a key, directly or over other rows. Return each row's group: its first row."""
    sets = DisjointSets(len(keys))
    first_row: dict[str, int] = {}
    for row, row_keys in enumerate(keys):
        for key in row_keys:
            sets.union(first_row.setdefault(key, row), row)
    return [sets.find(row) for row in range(len(keys))]
