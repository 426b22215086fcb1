"""One protocol for one and two stages: the same loop drives both and doesn't know which one it has."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.cascade import Cascade, CascadeState, ExchangeState, Regions, StreamState, Thresholds, simulate
from lockgate.errors import ConfigError

MEMBERS = sorted(name for name in vars(ExchangeState) if not name.startswith("_"))


@st.composite
def exchanges(draw):
    """Logits of an exchange, where its regions begin, and what a second stage would say of each block."""
    count = draw(st.integers(1, 40))
    prompt_start = draw(st.integers(0, count))
    answer_start = draw(st.integers(prompt_start, count))
    logits = draw(st.lists(st.floats(-8, 8, width=32), min_size=count, max_size=count))
    verdicts = draw(st.lists(st.floats(-8, 8, width=32), min_size=count + 2, max_size=count + 2))
    return np.array(logits)[:, None], Regions(0, prompt_start, answer_start), verdicts


def one_stage(regions, *, flag=0.5, min_tokens=4, flag_on="both"):
    return StreamState(Thresholds(flag, min_tokens=min_tokens, flag_on=flag_on), 0.3, regions)


def two_stages(regions, cascade, *, min_tokens=4, flag_on="both"):
    return CascadeState(cascade, one_stage(regions, flag=math.inf, min_tokens=min_tokens, flag_on=flag_on))


def drive(state: ExchangeState, rows, verdicts, pieces):
    """Whatever the stages: consume what there is room for, judge what is due, finish twice."""
    done, step = 0, 0
    while True:
        if state.due is not None:
            assert state.suspicious
            state.judge(verdicts[state.due.number])
        elif done < len(rows):
            end = min(done + state.room, done + pieces[step % len(pieces)])
            assert end > done
            assert len(state.consume(rows[done:end])) == len(rows[done:end])
            done, step = min(end, len(rows)), step + 1
        else:
            state.finish()
            if state.due is None:
                return
        assert 0 <= state.released <= state.answered
        assert state.flagged == (state.flag_token is not None) == state.verdict.flagged
        assert state.stage == (2 if state.verdicts else 1)


def test_both_have_every_member() -> None:
    assert len(MEMBERS) > 15
    regions = Regions(0, 2, 4)
    for state in (one_stage(regions), two_stages(regions, Cascade(0.0, 0.0, 0.5))):
        assert [name for name in MEMBERS if not hasattr(state, name)] == []


@given(
    exchange=exchanges(),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    flag=st.floats(-4, 4),
    flag_on=st.sampled_from(["answer", "both"]),
    min_tokens=st.integers(1, 20),
)
def test_one_stage_is_never_due_and_says_what_it_says_alone(exchange, pieces, flag, flag_on, min_tokens):
    rows, regions, verdicts = exchange
    driven = one_stage(regions, flag=flag, min_tokens=min_tokens, flag_on=flag_on)
    alone = one_stage(regions, flag=flag, min_tokens=min_tokens, flag_on=flag_on)
    drive(driven, rows, verdicts, pieces)
    alone.consume(rows)
    alone.finish()
    assert (driven.due, driven.closed, driven.verdicts, driven.stage) == (None, None, 0, 1)
    assert math.isnan(driven.classifier_max)
    for name in ("max_prompt", "max_answer", "max_score", "flag_token", "released", "scored"):
        np.testing.assert_equal(getattr(driven, name), getattr(alone, name))
    assert driven.mixed_max == driven.max_score
    np.testing.assert_equal(
        driven.ranked, driven.max_prompt if driven.max_score == -math.inf else driven.max_score
    )
    with pytest.raises(ConfigError, match="no verdict is due"):
        driven.judge(0.0)


@given(
    exchange=exchanges(),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    escalate=st.sampled_from([-math.inf, -1.0, 0.0, 1.0, math.inf]),
    flag=st.floats(-4, 4),
    stride=st.integers(1, 9),
    flag_on=st.sampled_from(["answer", "both"]),
)
def test_the_second_stage_changes_what_decides_and_not_what_the_probe_says(
    exchange, pieces, escalate, flag, stride, flag_on
):
    rows, regions, verdicts = exchange
    both = two_stages(regions, Cascade(escalate, flag, 0.5, stride=stride), flag_on=flag_on)
    probe = one_stage(regions, flag=math.inf, flag_on=flag_on)
    drive(both, rows, verdicts, pieces)
    drive(probe, rows, verdicts, pieces)
    for name in ("max_prompt", "max_answer", "max_score", "scored", "answered"):
        np.testing.assert_equal(getattr(both, name), getattr(probe, name))
    assert both.ranked == both.mixed_max
    if not both.verdicts:
        assert (both.mixed_max, both.flagged, both.released) == (-math.inf, False, probe.released)
    else:
        assert both.flagged == (both.mixed_max > flag)


@given(exchange=exchanges(), flag=st.floats(-4, 4), stride=st.integers(1, 9))
def test_the_loop_asks_where_a_simulation_asks(exchange, flag, stride) -> None:
    rows, regions, verdicts = exchange
    cascade = Cascade(0.0, flag, 0.5, stride=stride)
    state, blocks = two_stages(regions, cascade, min_tokens=1), []

    class Noting:
        """The state, and every block that it closes."""

        def __getattr__(self, name):
            if state.closed is not None and state.closed not in blocks:
                blocks.append(state.closed)
            return getattr(state, name)

    drive(Noting(), rows, verdicts, [5])
    probe = [math.nan if block.probe is None else block.probe for block in blocks]
    outcome = simulate(probe, verdicts[: len(probe)], cascade)
    assert (outcome.mixed_max, outcome.flagged) == (state.mixed_max, state.flagged)
    assert len(outcome.judged_blocks) == state.verdicts
