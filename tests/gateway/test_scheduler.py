"""Sharing prompt tokens of a step between streams."""

from hypothesis import given
from hypothesis import strategies as st

from lockgate.gateway._scheduler import share_prefill


@given(st.lists(st.integers(0, 1000), max_size=12), st.integers(1, 300))
def test_the_budget_is_used_up_fairly(remaining, budget):
    shares = share_prefill(remaining, budget)
    assert sum(shares) == min(budget, sum(remaining))
    assert all(0 <= share <= count for share, count in zip(shares, remaining, strict=True))
    unserved = [share for share, count in zip(shares, remaining, strict=True) if share < count]
    # Whoever got less than it wanted got as much as anybody, but for the odd token.
    assert all(max(shares) - share <= 1 for share in unserved)


def test_short_prompts_are_not_held_up_by_long_ones():
    assert share_prefill([5000, 30, 20], 256) == [206, 30, 20]
