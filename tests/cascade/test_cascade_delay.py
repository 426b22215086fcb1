"""What a suspicious stream keeps back: less leaves before a halt, nothing else changes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.cascade import Cascade, CascadeState, Regions, StreamState, Thresholds
from lockgate.errors import ConfigError

LOGITS = st.lists(st.floats(-8, 8, width=32), max_size=60)
PROMPT = 3


def states(
    delay: int, *, escalate: float, flag: float, stride: int, calm_blocks: int, min_tokens: int, flag_on
):
    """The same state without and with a delay."""
    thresholds = Thresholds(math.inf, min_tokens=min_tokens, flag_on=flag_on)
    regions = Regions(0, 0, PROMPT)
    return [
        CascadeState(
            Cascade(escalate, flag, 0.5, stride=stride, calm_blocks=calm_blocks, delay=tokens),
            StreamState(thresholds, 0.6, regions, ("harm",)),
        )
        for tokens in (0, delay)
    ]


@given(
    logits=LOGITS,
    verdicts=st.lists(st.floats(-8, 8) | st.none(), min_size=70, max_size=70),
    delay=st.integers(0, 30),
    settings=st.fixed_dictionaries(
        {
            "escalate": st.floats(-3, 5),
            "flag": st.floats(-2, 6) | st.just(math.inf),
            "stride": st.integers(1, 6),
            "calm_blocks": st.integers(1, 3),
            "min_tokens": st.integers(1, 8),
            "flag_on": st.sampled_from(["answer", "both"]),
        }
    ),
)
def test_a_delay_keeps_back_the_newest_tokens_of_a_suspicious_stream(
    logits, verdicts, delay, settings
) -> None:
    plain, late = states(delay, **settings)
    before = 0

    def check() -> None:
        assert (late.flagged, late.due, late.suspicious, late.verdicts) == (
            plain.flagged,
            plain.due,
            plain.suspicious,
            plain.verdicts,
        )
        assert max(before, plain.released - delay) <= late.released <= plain.released
        if not plain.suspicious and not plain.flagged:
            assert late.released == plain.released

    def judge() -> None:
        if plain.due is not None:
            verdict = verdicts[plain.due.number]
            for state in (plain, late):
                state.judge(verdict)
        check()

    judge()
    for logit in [*([0.0] * PROMPT), *logits]:
        for state in (plain, late):
            state.consume(np.array([[logit, 0.0]]))
        check()
        before = late.released
        judge()
        before = late.released
    for _ in range(2):
        for state in (plain, late):
            state.finish()
        judge()
    assert late.mixed_max == plain.mixed_max
    if not plain.flagged:
        assert late.released == plain.released == len(logits)


def test_what_is_kept_back_leaves_when_suspicion_ends_and_never_after_a_flag() -> None:
    _, state = states(5, escalate=1.0, flag=9.0, stride=2, calm_blocks=1, min_tokens=1, flag_on="answer")
    state.consume(np.zeros((PROMPT, 2)))
    left = []
    for logit, verdict in ((8.0, 0.0), (8.0, 0.0), (8.0, 0.0), (8.0, 0.0), (-30.0, 0.0), (8.0, 99.0)):
        state.consume(np.full((2, 2), logit))
        state.judge(verdict)
        left.append(state.released)
    # Suspicion ends with the tenth token and begins again with the twelfth, whose verdict flags.
    assert left == [0, 0, 1, 3, 10, 11]
    assert state.flagged
    state.finish()
    assert state.released == 11


def test_a_delay_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="delay is -1; expected a number of tokens >= 0"):
        Cascade(0.0, 1.0, 0.5, delay=-1)
