"""The two-stage rule over many exchanges at once agrees with the state machine of one stream."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scores import make_scores

from lockgate.cascade import Cascade, simulate
from lockgate.errors import ExchangeError
from lockgate.tables import BlockTrace
from recipes.reproduce_ccpp.study.blocks import Blocks, judge_blocks

LOGITS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, math.inf])
FLAG_ON = st.sampled_from(["answer", "both"])


@st.composite
def parts(draw):
    rows = []
    for number in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, 9))
        # Only at a stream's start may tokens be too few to judge.
        missing = draw(st.integers(0, 2))
        probe = draw(arrays.arrays(np.float32, n, elements=LOGITS))
        probe[:missing] = np.nan
        rows.append((number, np.arange(n) * 8, probe, draw(arrays.arrays(np.float32, n, elements=LOGITS))))
    return rows


def blocks_of(rows):
    return Blocks.of(BlockTrace.from_rows(rows), make_scores(len(rows)))


@given(
    parts(),
    st.floats(-3, 3) | st.just(-math.inf),
    st.floats(0, 1),
    st.integers(1, 3),
    st.floats(-3, 3),
    FLAG_ON,
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_the_rule_is_that_of_the_state_machine(rows, escalate, weight, calm, flag, flag_on, drift):
    cascade = Cascade(escalate, flag, weight, 0.5, 2.0, -0.5, 0.7, calm_blocks=calm, drift=drift)
    found = judge_blocks(blocks_of(rows), cascade, flag_on)
    for number, _, probe, verdicts in rows:
        one = simulate(probe, verdicts, cascade, flag_on=flag_on)
        assert tuple(np.flatnonzero(found.judged[number])) == one.judged_blocks
        assert found.escalated[number] == one.escalated
        assert found.mixed[number].max() == pytest.approx(one.mixed_max, abs=1e-9)
        flagged = [cascade.crossed(score) for score in found.mixed[number]]
        assert any(flagged) == one.flagged
        assert (flagged.index(True) if one.flagged else None) == one.flag_block


def test_suspicion_begins_once_and_ends_after_two_quiet_blocks():
    probe = [0.0, 2.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    found = judge_blocks(blocks_of([(0, np.arange(7) * 8, probe, np.zeros(7))]), Cascade(1.0, math.inf, 0.5))
    assert found.began[0].tolist() == [False, True, False, False, False, True, False]
    assert found.judged[0].tolist() == [False, True, True, True, False, True, True]


def test_rows_stand_in_the_order_of_the_scores_table():
    table = make_scores(3).select([2, 0, 1])
    trace = BlockTrace.from_rows([(i, [0, 4 + i], [i, 10 + i], None) for i in range(3)])
    blocks = Blocks.of(trace, table)
    assert blocks.answer_tokens.tolist() == [6, 4, 5]
    assert blocks.screen[:, 1].tolist() == [12, 10, 11]
    assert blocks.select(np.array([0])).ends.tolist() == [[0, 6]]


def test_a_trace_of_other_rows_is_refused():
    trace = BlockTrace.from_rows([(0, [0], [0.0], None), (2, [0], [0.0], None)])
    with pytest.raises(ExchangeError, match="mine: 2 rows stand in the scores table or in the trace alone"):
        Blocks.of(trace, make_scores(2), "mine")
    with pytest.raises(ExchangeError, match="repeats row numbers"):
        Blocks.of(trace, make_scores(3).select([0, 0]))


def test_a_judged_block_without_a_verdict_is_refused():
    blocks = blocks_of([(0, [0, 8], [0.0, 2.0], [0.0, np.nan])])
    with pytest.raises(ExchangeError, match="exchange 0, block 1 is to be judged but has no verdict"):
        judge_blocks(blocks, Cascade(1.0, math.inf, 0.5))


def test_blocks_of_another_stride_cannot_screen():
    first = blocks_of([(0, [0, 8], [0.0, 2.0], [1.0, 2.0])])
    second = blocks_of([(0, [0, 4], [5.0, 6.0], [7.0, 8.0])])
    assert first.screened_by(first, "small").screen.tolist() == [[1.0, 2.0]]
    with pytest.raises(ExchangeError, match="small: its blocks end elsewhere"):
        first.screened_by(second, "small")
