import random
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.curation import crossed_split, grouped_split, join_groups
from lockgate.errors import ExchangeError

KEYS = st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=3), max_size=12)
SHARES = {"train": 0.6, "calibration": 0.2, "test": 0.2}


@given(KEYS)
def test_groups_are_the_connected_components(keys: list[list[str]]) -> None:
    # Oracle: relabel along edges until nothing changes.
    expected = list(range(len(keys)))
    for _ in keys:
        for a, b in combinations(range(len(keys)), 2):
            if set(keys[a]) & set(keys[b]):
                expected[a] = expected[b] = min(expected[a], expected[b])
    assert join_groups(keys) == expected


@given(KEYS, st.integers(0, 5), st.randoms())
def test_rows_that_share_a_key_share_a_part_in_any_order(
    keys: list[list[str]], seed: int, rng: random.Random
) -> None:
    parts = grouped_split(keys, SHARES, seed=seed)
    for a, b in combinations(range(len(keys)), 2):
        if set(keys[a]) & set(keys[b]):
            assert parts[a] == parts[b]
    order = list(range(len(keys)))
    rng.shuffle(order)
    shuffled = [rng.sample(keys[row], len(keys[row])) for row in order]
    assert grouped_split(shuffled, SHARES, seed=seed) == [parts[row] for row in order]


def test_shares_hold_for_many_groups_and_seeds_differ() -> None:
    keys = [[f"group {number}"] for number in range(5000)]
    counts = Counter(grouped_split(keys, {**SHARES, "none": 0.0}))
    assert counts["none"] == 0
    for part, share in SHARES.items():
        assert abs(counts[part] / 5000 - share) < 0.03
    assert grouped_split(keys, SHARES, seed=1) != grouped_split(keys, SHARES, seed=2)
    assert grouped_split(keys[:100], SHARES) == grouped_split(keys, SHARES)[:100]


def test_bad_arguments_are_errors() -> None:
    for shares in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(ExchangeError, match=r"^shares: "):
            grouped_split([["a"]], shares)
    with pytest.raises(ExchangeError, match=r"^keys\[1\]: empty"):
        grouped_split([["a"], []], SHARES)
    with pytest.raises(ExchangeError, match="2 and 1 rows"):
        crossed_split(["a", "b"], ["a"], held_first=1, held_second=1)
    with pytest.raises(ExchangeError, match=r"^held_second: expected 1 to 1 of the 2 levels, found 2"):
        crossed_split(["a", "b"], ["c", "d"], held_first=1, held_second=2)


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 5))
def test_a_crossed_split_shares_no_level_between_the_sides(seed: int, templates: int, questions: int) -> None:
    cells = [(f"t{a}", f"q{b}") for a in range(5) for b in range(6)]
    first, second = [a for a, _ in cells], [b for _, b in cells]
    parts = crossed_split(first, second, held_first=templates, held_second=questions, seed=seed)
    sides = {name: [cell for cell, part in zip(cells, parts, strict=True) if part == name] for name in parts}
    assert len(sides["test"]) == templates * questions
    assert len(sides["train"]) == (5 - templates) * (6 - questions)
    for axis in (0, 1):
        assert not {cell[axis] for cell in sides["test"]} & {cell[axis] for cell in sides["train"]}
    again = crossed_split(first[::-1], second[::-1], held_first=templates, held_second=questions, seed=seed)
    assert again == parts[::-1]
