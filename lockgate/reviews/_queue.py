"""Which exchange a reviewer sees next: flagged ones, close ones and random ones, in fixed shares."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from lockgate.decisions import Decision
from lockgate.reviews._store import Picked

# Of ten exchanges: four that were flagged, three close to the threshold, three at random.
SHARES: Mapping[Picked, float] = {"flag": 0.4, "close": 0.3, "random": 0.3}
_Key = tuple[str, int]


class Pick(NamedTuple):
    """An exchange to review, and why it was picked."""

    decision: Decision
    picked: Picked


def next_pick(
    decisions: Sequence[Decision],
    margin: Callable[[Decision], float],
    done: Mapping[Picked, int],
    seen: Collection[_Key],
) -> Pick | None:
    """Choose the exchange that a reviewer sees next.

    The kind that is furthest behind its share comes first. Within a kind the order is the same for all
    reviewers, so they meet the same exchanges and their agreement can be told. Random ones come in the order
    of a hash of their names: it has nothing to do with their content, so those that were reviewed are a
    random sample of all that was offered.

    Args:
        decisions: exchanges that may be shown, the newest first.
        margin: by how much a score lies above the threshold; below it, the margin is negative.
        done: number of this reviewer's steps, by the reason why the exchange was shown.
        seen: exchanges that the reviewer had.

    Returns:
        None if nothing is left.
    """
    left = [found for found in decisions if (found.id, found.choice) not in seen]
    if not left:
        return None
    total = sum(done.values()) + 1
    behind = sorted(SHARES, key=lambda kind: done.get(kind, 0) - SHARES[kind] * total)
    for kind in behind:
        found = _first(kind, left, margin)
        if found is not None:
            return Pick(found, kind)
    return None


def _first(kind: Picked, left: Sequence[Decision], margin: Callable[[Decision], float]) -> Decision | None:
    if kind == "flag":
        return next((found for found in left if found.flagged), None)
    if kind == "random":
        return min(left, key=lambda found: _draw(found.id, found.choice))
    near = [found for found in left if not found.flagged and math.isfinite(margin(found))]
    return min(near, key=lambda found: abs(margin(found)), default=None)


def _draw(exchange: str, choice: int) -> bytes:
    return hashlib.sha256(f"lockgate review {exchange} {choice}".encode()).digest()


def count_picked(kinds: Sequence[Picked]) -> dict[Picked, int]:
    """Count why exchanges were shown."""
    return dict(Counter(kinds))
