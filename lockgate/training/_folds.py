"""Folds of a cross-validation. Rows that share a key are in one fold, and each fold gets both labels."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lockgate.curation import join_groups
from lockgate.errors import TrainingError


def grouped_folds(
    keys: Sequence[Sequence[str]], harmful: NDArray[np.bool_], count: int, *, seed: int = 0
) -> tuple[NDArray[np.int64], list[int]]:
    """Divide rows into folds of about one size. The result doesn't depend on the order of the rows.

    Groups with harmful rows are dealt out first, the largest first, each to the fold with the fewest harmful
    rows. The others follow in the same way. A hash decides among groups of one size.

    Args:
        keys: keys of each row, such as its prompt and its pair. Rows that share one are in one group.
        harmful: labels [N].
        count: number of folds.
        seed: another seed gives other folds.

    Returns:
        The fold of each row [N], and its group.

    Raises:
        TrainingError: there are fewer groups of one label than folds, or all harmless rows fall into one.
    """
    groups = join_groups(keys)
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    kinds = {group: bool(harmful[rows].any()) for group, rows in members.items()}
    plain = sum(not harmful[rows].all() for rows in members.values())
    if count < 2 or min(sum(kinds.values()), plain) < count:
        raise TrainingError(
            f"{sum(kinds.values())} groups with harmful rows and {plain} with harmless ones can't make "
            f"{count} folds"
        )
    names = {group: min(key for row in rows for key in keys[row]) for group, rows in members.items()}
    order = sorted(
        members, key=lambda group: (not kinds[group], -len(members[group]), _drawn(seed, names[group]))
    )
    folds = np.zeros(len(groups), dtype=np.int64)
    loads = np.zeros((count, 2), dtype=np.int64)
    for group in order:
        rows = members[group]
        loudest = loads[:, 0] if kinds[group] else np.zeros(count, dtype=np.int64)
        chosen = int(np.lexsort((loads.sum(axis=1), loudest))[0])
        folds[rows] = chosen
        loads[chosen] += int(harmful[rows].sum()), int((~harmful[rows]).sum())
    # Groups with rows of both labels are dealt out by their harmful rows alone.
    if any(harmful[folds != fold].all() for fold in range(count)):
        raise TrainingError(f"the harmless rows can't be spread over {count} folds; give more of them")
    return folds, groups


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
