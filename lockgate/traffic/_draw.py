"""The draw of exchanges worth a label: uncertain ones first, spread over score bands and sources. Pure."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

# In the order in which a round takes from them.
BANDS = ("above, near", "below, near", "above, far", "below, far")


def draw_key(seed: int, name: str) -> int:
    """Return a number of 64 bits that puts names into a random order, fixed by the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())


def order_by_distance(distances: NDArray[np.float64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the rows from the nearest to the cut to the farthest. Equal distances follow the keys.

    Args:
        distances: signed distance of each row from the cut [N].
        keys: `draw_key` of each row [N].
    """
    return np.lexsort((keys, np.abs(distances))).astype(np.int64)


def bands_of(distances: NDArray[np.float64], reach: float) -> list[str]:
    """Return the score band of each row: above or below the cut, and in which half of the reach."""
    return [BANDS[2 * int(abs(d) > reach / 2) + int(d <= 0)] for d in distances.tolist()]


def draw_diverse(
    distances: NDArray[np.float64],
    keys: NDArray[np.uint64],
    sources: Sequence[str],
    groups: Sequence[str],
    n: int,
) -> list[int]:
    """Draw at most `n` rows: the bands in turn, in a band the source with fewest rows, of it the nearest row.

    No two rows have one group. Takes N log N steps. The order of the rows does not matter.

    Args:
        distances: signed distance of each row from the cut [N].
        keys: `draw_key` of each row [N].
        sources: source of each row [N].
        groups: near-duplicates of each other have the same group [N].
        n: most rows to draw.
    """
    if not len(distances):
        return []
    bands = bands_of(distances, float(np.abs(distances).max()))
    order = order_by_distance(distances, keys)
    rank = {row: place for place, row in enumerate(order.tolist())}
    waiting: dict[tuple[str, str], list[int]] = {}
    for row in reversed(order.tolist()):
        waiting.setdefault((bands[row], sources[row]), []).append(row)
    heaps: dict[str, list[tuple[int, int, str]]] = {band: [] for band in BANDS}
    for (band, source), rows in waiting.items():
        heaps[band].append((0, rank[rows[-1]], source))
    for heap in heaps.values():
        heapify(heap)
    drawn: list[int] = []
    counts: Counter[str] = Counter()
    met: set[str] = set()
    for band in cycle(BANDS):
        if len(drawn) == n or not any(heaps.values()):
            return drawn
        row = _next(band, heaps[band], waiting, rank, counts, groups, met)
        if row is not None:
            drawn.append(row)
            counts[sources[row]] += 1
            met.add(groups[row])
    raise AssertionError("unreachable: a cycle does not end")


def _next(
    band: str,
    heap: list[tuple[int, int, str]],
    waiting: dict[tuple[str, str], list[int]],
    rank: dict[int, int],
    counts: Counter[str],
    groups: Sequence[str],
    met: set[str],
) -> int | None:
    """Take the next row of a band out of its heap, or return None if the band is empty."""
    while heap:
        count, _, source = heappop(heap)
        rows = waiting[band, source]
        if count == counts[source]:
            row = rows.pop()
            if rows:
                heappush(heap, (count, rank[rows[-1]], source))
            if groups[row] not in met:
                return row
        else:
            # Counts only grow, so an entry may be too early in the heap, never too late.
            heappush(heap, (counts[source], rank[rows[-1]], source))
    return None
