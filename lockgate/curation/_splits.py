"""Splits by group, never by row. They depend only on keys and seed, not on the order of the rows."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from lockgate.curation._groups import join_groups
from lockgate.errors import ExchangeError

CrossedPart = Literal["train", "test", "dropped"]


def grouped_split(keys: Sequence[Sequence[str]], shares: Mapping[str, float], *, seed: int = 0) -> list[str]:
    """Assign each row to a part. Rows that share a key, directly or over other rows, stay together.

    A hash of a group's smallest key decides its part. So rows that are added later don't move the others,
    unless they join two groups.

    Args:
        keys: group keys of each row, such as its duplicate group, prompt group, dialogue or attack family.
            Prefix each key with its kind, so that keys of two kinds can't be equal by accident.
        shares: share of the groups (not of the rows) for each part's name. They add up to 1.
        seed: seed of the split.

    Returns:
        The name of each row's part.

    Raises:
        ExchangeError: a row has no key, a share is negative, or the shares don't add up to 1.
    """
    if (
        not shares
        or any(share < 0 for share in shares.values())
        or not math.isclose(sum(shares.values()), 1.0)
    ):
        raise ExchangeError("shares: expected parts whose shares are not negative and add up to 1")
    for row, row_keys in enumerate(keys):
        if not row_keys:
            raise ExchangeError(f"keys[{row}]: empty; give every row a group key, at least the exchange's id")
    groups = join_groups(keys)
    smallest: dict[int, str] = {}
    for group, row_keys in zip(groups, keys, strict=True):
        key = min(row_keys)
        smallest[group] = min(smallest.get(group, key), key)
    part = {group: _draw_part(_uniform(seed, key), shares) for group, key in smallest.items()}
    return [part[group] for group in groups]


def crossed_split(
    first: Sequence[str], second: Sequence[str], *, held_first: int, held_second: int, seed: int = 0
) -> list[CrossedPart]:
    """Split a table of two crossed factors, such as attack template x question.

    A row is "test" if both of its levels are held out, "train" if neither is, and "dropped" if one is. Groups
    by both factors would join all rows of such a table, so `grouped_split` can't split it.

    Args:
        first, second: level of each row in each factor. Pass duplicate groups, not raw texts.
        held_first, held_second: number of levels of each factor to hold out.
        seed: seed of the split.

    Returns:
        The part of each row.

    Raises:
        ExchangeError: the factors have different lengths, or one side of a factor would have no level.
    """
    if len(first) != len(second):
        raise ExchangeError(f"crossed split: the factors have {len(first)} and {len(second)} rows")
    held_a = _held_levels(first, held_first, "held_first", f"{seed}/first")
    held_b = _held_levels(second, held_second, "held_second", f"{seed}/second")
    parts: list[CrossedPart] = []
    for a, b in zip(first, second, strict=True):
        if (a in held_a) != (b in held_b):
            parts.append("dropped")
        else:
            parts.append("test" if a in held_a else "train")
    return parts


def _held_levels(column: Sequence[str], count: int, name: str, seed: str) -> frozenset[str]:
    levels = sorted(set(column), key=lambda level: (_uniform(seed, level), level))
    if not 0 < count < len(levels):
        raise ExchangeError(
            f"{name}: expected 1 to {len(levels) - 1} of the {len(levels)} levels, found {count}"
        )
    return frozenset(levels[:count])


def _uniform(seed: int | str, key: str) -> float:
    """Return a number in [0, 1) that depends only on the seed and the key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _draw_part(point: float, shares: Mapping[str, float]) -> str:
    total, chosen = 0.0, ""
    for name, share in shares.items():
        if share == 0:
            continue
        chosen = name
        total += share
        if point < total:
            break
    return chosen
