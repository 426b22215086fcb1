"""The memory of a conversation: evidence adds up, is forgotten slowly, and lowers the threshold."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lockgate.cascade.memory import Memory
from lockgate.errors import ConfigError

UNIT = st.floats(0.01, 10)
MARGINS = st.lists(st.floats(-20, 0) | st.just(-math.inf), max_size=30)
MEMORIES = st.builds(
    lambda allowance, forget, beyond: Memory(allowance, forget * allowance, allowance * (1 + beyond)),
    UNIT,
    st.floats(0.01, 1),
    st.floats(0, 5),
)


def flags(memory: Memory, margins: list[float]) -> list[bool]:
    """Judge exchange by exchange, as a server does."""
    evidence, found = 0.0, []
    for margin in margins:
        found.append(margin > -memory.lowered(evidence))
        evidence = memory.add(evidence, margin)
    return found


@given(memory=MEMORIES, margins=MARGINS)
def test_an_exchange_flags_exactly_when_the_sum_passes_the_limit(memory, margins) -> None:
    highest = memory.highest(margins)
    assume(not math.isclose(highest, memory.limit))
    assert any(flags(memory, margins)) == (highest > memory.limit)


@given(memory=MEMORIES, margin=st.floats(-20, 0))
def test_an_exchange_without_a_past_is_judged_by_itself(memory, margin) -> None:
    assert memory.lowered(0.0) == 0.0
    assert flags(memory, [margin]) == [False]


@given(memory=MEMORIES, margins=MARGINS, place=st.integers(0, 29))
def test_one_more_exchange_never_makes_more_than_its_step_of_difference(memory, margins, place) -> None:
    """A calm exchange takes off `forget` at most, so calm ones between do not wipe the past out."""

    def total(course: list[float]) -> float:
        evidence = 0.0
        for margin in course:
            evidence = memory.add(evidence, margin)
        return evidence

    calmer = [*margins[:place], -math.inf, *margins[place:]]
    assert total(margins) - memory.forget - 1e-9 <= total(calmer) <= total(margins) + 1e-9


@given(memory=MEMORIES)
def test_repeated_attempts_close_to_the_threshold_are_stopped(memory) -> None:
    margin = -0.5 * memory.allowance
    attempts = math.ceil(2 * memory.limit / memory.allowance) + 1
    assert flags(memory, [margin] * attempts)[-1]


@given(memory=MEMORIES, margin=st.sampled_from([math.nan, math.inf, 3.0]))
def test_a_failed_reading_counts_like_a_flag(memory, margin) -> None:
    assert memory.add(1.0, margin) == memory.add(1.0, 0.0) == 1.0 + memory.allowance


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, math.inf), (math.nan, 1, 1), (2, 1, 1)])
def test_numbers_without_a_meaning_are_errors(numbers) -> None:
    with pytest.raises(ConfigError, match="memory"):
        Memory(*numbers)
