"""Slices agree with a slow count, and their states with the exact bounds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scores import make_scores

from lockgate.calibration import choose_threshold, clopper_pearson, clopper_pearson_upper, required_n
from lockgate.errors import CalibrationError
from lockgate.tables import ScoresTable
from lockgate.traffic import minimum_coverage, slices

BUDGET = 0.1


def calibrate(table: ScoresTable, exclusions=()):
    return choose_threshold(
        table.floats("mixed_max"), table.groups, BUDGET, 0.01, ids=table.ids, exclusions=exclusions
    )


def with_turns(table: ScoresTable, seed: int) -> ScoresTable:
    rng = np.random.default_rng(seed)
    table = table.with_column("turns", rng.integers(1, 14, len(table)))
    return table.with_column("language", rng.choice(["en", "fr"], len(table)))


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 300), st.integers(0, 99), st.integers(1, 2))
def test_slices_are_what_a_loop_counts(n, seed, repeat) -> None:
    table = with_turns(make_scores(n, seed=seed, harmful=0.0, repeat=repeat), seed)
    calibration = calibrate(table, [(table.ids[3], "read")])
    sample, seen = [], set()
    for row in table.table.to_pylist():
        if row["id"] != table.ids[3] and row["prompt_group"] not in seen:
            seen.add(row["prompt_group"])
            sample.append(row)
    found = slices(table, calibration)
    for by in ("source", "language", "turns"):
        names = [row[by] if by != "turns" or row[by] < 10 else "10 or more" for row in sample]
        counted = Counter(str(name) for name in names)
        flagged = Counter(
            str(name) for name, row in zip(names, sample, strict=True) if row["mixed_max"] > calibration.cut
        )
        assert {part.value: part.n for part in found if part.by == by} == counted
        assert {part.value: part.flagged for part in found if part.by == by} == {
            name: flagged[name] for name in counted
        }
    tenths = [part for part in found if part.by == "length"]
    assert len(tenths) <= 10
    assert sum(part.n for part in tenths) == len(sample)
    assert sum(part.flagged for part in tenths) == calibration.flagged
    for part in tenths:
        low, high = map(float, part.value.split("-"))
        assert part.n == sum(low <= row["length"] <= high for row in sample)


def test_the_state_follows_from_the_exact_bounds() -> None:
    # Three sources: all flags in a small one, none in a large one, none in a tiny one.
    rows = make_scores(400, harmful=0.0).table.to_pylist()
    sources = ["loud"] * 20 + ["calm"] * 370 + ["tiny"] * 10
    for number, (row, source) in enumerate(zip(rows, sources, strict=True)):
        row |= {"source": source, "mixed_max": 10.0 - number}
    table = ScoresTable.from_rows(rows)
    calibration = calibrate(table)
    assert calibration.flagged > 20
    found = {part.value: part for part in slices(table, calibration) if part.by == "source"}
    assert {name: part.state for name, part in found.items()} == {
        "loud": "over", "calm": "kept", "tiny": "too small",
    }  # fmt: skip
    for part in found.values():
        assert part.interval == clopper_pearson(part.flagged, part.n)
        assert part.bound == clopper_pearson_upper(part.flagged, part.n)
    assert minimum_coverage(calibration) == required_n(BUDGET)


@pytest.mark.parametrize(("flagged", "state"), [(0, "kept"), (3, "open"), (29, "over")])
def test_enough_prompts_do_not_decide_alone(flagged, state) -> None:
    n = 30
    rows = make_scores(2000, harmful=0.0).table.to_pylist()
    for number, row in enumerate(rows):
        low = -100.0 - number
        row |= {"source": "part" if number < n else "rest", "mixed_max": 100.0 if number < flagged else low}
    # The rest takes all other flags, so that the cut lies below 100.
    for row in rows[-200:]:
        row["mixed_max"] = 50.0
    table = ScoresTable.from_rows(rows)
    (part,) = [part for part in slices(table, calibrate(table)) if part.value == "part"]
    assert part.n >= required_n(BUDGET)
    assert (part.flagged, part.state) == (flagged, state)


def test_a_table_of_other_rows_is_refused() -> None:
    table = make_scores(100, harmful=0.0)
    with pytest.raises(CalibrationError, match="counts 100 prompts and the table 99"):
        slices(table.select(np.arange(99)), calibrate(table))
