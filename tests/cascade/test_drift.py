"""Thresholds that rise with the length of an answer (`Cascade.drift`)."""

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.cascade import Cascade, CascadeState, Regions, StreamState, Thresholds, simulate

READINGS = st.floats(-8, 8, width=32)
DRIFTS = st.just(0.0) | st.floats(0, 20)


def bits(number: float) -> bytes:
    return struct.pack("d", number)


def run(cascade, logits, *, prompt=3, flag_on="answer", min_tokens=1, verdict=-1e6):
    """Read a stream without smoothing, token by token.

    Returns its state, the judged blocks, and for each token: the answer tokens released before it, those
    after it, and whether the stream was held then.
    """
    thresholds = Thresholds(math.inf, min_tokens=min_tokens, flag_on=flag_on)
    state = CascadeState(cascade, StreamState(thresholds, 1.0, Regions(0, 0, prompt)))
    judged, released = [], []
    for value in logits:
        before = state.released
        state.consume(np.array([[value]], dtype=float))
        released.append((before, state.released, state.suspicious))
        if state.due:
            judged.append(state.due.number)
            state.judge(verdict)
    state.finish()
    if state.due:
        judged.append(state.due.number)
        state.judge(verdict)
        state.finish()
    return state, judged, released


@given(
    number=st.integers(0, 10_000),
    probe=st.floats(allow_nan=False) | st.just(-0.0),
    stride=st.integers(1, 1024),
)
def test_a_drift_of_0_changes_no_bit(number, probe, stride) -> None:
    cascade = Cascade(0.0, 0.0, 0.5, stride=stride)
    assert cascade.drift == 0.0
    assert bits(cascade.corrected(probe, number)) == bits(probe)
    assert [bits(own) for own in cascade.corrected_blocks(np.array([probe] * 9))] == [bits(probe)] * 9
    assert math.isnan(cascade.corrected(math.nan, number))


def test_each_doubling_of_a_long_answer_takes_off_one_drift() -> None:
    cascade = Cascade(0.0, 0.0, 0.5, stride=8, drift=0.5)
    ends = (0, 64, 192, 448, 960)
    assert [cascade.rise(end // 8) for end in ends] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert cascade.rise(1) == pytest.approx(0.5 * math.log2(72 / 64))
    # The grid counts, not the number of blocks.
    assert replace(cascade, stride=64).rise(1) == cascade.rise(8)
    assert cascade.corrected(math.inf, 5) == math.inf


@given(drift=DRIFTS, stride=st.integers(1, 9), readings=st.lists(READINGS, min_size=1, max_size=40))
def test_blocks_are_corrected_like_single_readings(drift, stride, readings) -> None:
    cascade = Cascade(0.0, 0.0, 0.5, stride=stride, drift=drift)
    found = cascade.corrected_blocks(np.array(readings, dtype=np.float32))
    one = [cascade.corrected(reading, number) for number, reading in enumerate(readings)]
    assert found.tolist() == one
    assert (cascade.corrected_blocks(np.array([readings, readings])) == found).all()


@given(answered=st.integers(0, 300), stride=st.integers(1, 40))
def test_a_token_lies_in_the_block_that_ends_at_or_after_it(answered, stride) -> None:
    number = Cascade(0.0, 0.0, 0.5, stride=stride).block_of(answered)
    assert (number - 1) * stride < answered <= number * stride


@given(
    readings=st.lists(READINGS | st.just(math.inf) | st.just(math.nan), min_size=1, max_size=30),
    drifts=st.tuples(DRIFTS, DRIFTS).map(sorted),
    escalate=st.floats(-6, 6),
    calm=st.integers(1, 3),
    stride=st.integers(1, 64),
    flag_on=st.sampled_from(["answer", "both"]),
)
def test_a_larger_drift_asks_about_no_further_block(
    readings, drifts, escalate, calm, stride, flag_on
) -> None:
    small, large = (
        Cascade(escalate, math.inf, 0.5, stride=stride, calm_blocks=calm, drift=drift) for drift in drifts
    )
    verdicts = np.zeros(len(readings))
    few, more = (simulate(readings, verdicts, own, flag_on=flag_on) for own in (large, small))
    assert set(few.judged_blocks) <= set(more.judged_blocks)
    assert few.mixed_max <= more.mixed_max


@given(
    logits=st.lists(READINGS, min_size=3, max_size=60),
    drift=DRIFTS,
    stride=st.integers(1, 9),
    min_tokens=st.integers(1, 70),
    flag_on=st.sampled_from(["answer", "both"]),
)
def test_what_is_held_is_released_by_its_verdict_alone(logits, drift, stride, min_tokens, flag_on) -> None:
    cascade = Cascade(0.0, math.inf, 0.5, stride=stride, drift=drift)
    state, judged, released = run(cascade, logits, flag_on=flag_on, min_tokens=min_tokens)
    assert all(before == after for before, after, held in released if held)
    assert state.released == len(logits) - 3
    # A trace of uncorrected readings serves every drift.
    answer = logits[3:]
    blocks = [logits[:3], *(answer[at : at + stride] for at in range(0, len(answer), stride))]
    if min_tokens == 1:
        trace = [max(own) for own in blocks]
        outcome = simulate(trace, np.full(len(trace), -1e6), cascade, flag_on=flag_on)
        assert list(outcome.judged_blocks) == judged
        assert outcome.mixed_max == state.mixed_max


def test_a_short_last_block_is_corrected_as_if_it_were_full() -> None:
    cascade = Cascade(0.0, math.inf, 1.0, stride=64, drift=1.0)
    quiet, judged, _ = run(cascade, [-9, -9, -9, 0.9])
    assert (judged, quiet.closed.end, quiet.closed.probe) == ([], 1, 0.9)
    loud, judged, _ = run(cascade, [-9, -9, -9, 1.1])
    assert judged == [1]
    assert loud.mixed_max == pytest.approx(0.1)


def test_a_short_stream_is_judged_in_the_block_that_it_ends_in() -> None:
    """Its last block is closed again at its end: with its own correction, not that of the next block."""
    cascade = Cascade(0.0, math.inf, 1.0, stride=64, drift=1.0)
    logits = [-9.0] * 66 + [1.2]  # 3 tokens of prompt, 64 of the answer; the next block would take off 1.58
    state, judged, _ = run(cascade, logits, min_tokens=100)
    assert judged == [1]
    assert state.mixed_max == pytest.approx(0.2)
    thresholds = Thresholds(math.inf, min_tokens=100, flag_on="answer")
    state = CascadeState(cascade, StreamState(thresholds, 1.0, Regions(0, 0, 3)))
    for value in logits:
        state.consume(np.array([[value]]))
    state.finish()
    assert (state.released, state.due.number) == (0, 1)


def test_the_threshold_of_a_verdict_is_that_of_the_tokens_own_block() -> None:
    cascade = Cascade(1.5, math.inf, 0.5, stride=4, drift=0.7)
    state = CascadeState(cascade, StreamState(Thresholds(math.inf, min_tokens=1), 1.0, Regions(0, 0, 2)))
    found = [state.verdict.threshold]
    for size in (2, 1, 3, 1):
        state.consume(np.full((size, 1), -9.0))
        found.append(state.verdict.threshold)
    assert found == pytest.approx([1.5 + 0.7 * math.log2(1 + end / 64) for end in (0, 0, 4, 4, 8)])


@given(
    logits=st.lists(READINGS | st.just(math.nan), min_size=1, max_size=40),
    drift=DRIFTS,
    stride=st.integers(1, 9),
    prompt=st.integers(1, 5),
    min_tokens=st.integers(1, 50),
)
def test_a_screen_flags_what_the_cascade_asks_about(logits, drift, stride, prompt, min_tokens) -> None:
    """Stage 1 alone, with corrected readings, against the state machine of both stages."""
    cascade = Cascade(0.5, math.inf, 0.5, stride=stride, drift=drift)
    screen = StreamState(
        Thresholds(0.5, min_tokens=min_tokens),
        1.0,
        Regions(0, 0, prompt),
        correct=lambda logit, answered: cascade.corrected(logit, cascade.block_of(answered)),
    )
    screen.consume(np.array(logits).reshape(-1, 1))
    screen.finish()
    state = CascadeState(
        cascade, StreamState(Thresholds(math.inf, min_tokens=min_tokens), 1.0, Regions(0, 0, prompt))
    )
    for value in logits:
        state.consume(np.array([[value]]))
        if state.due:
            state.judge(0.0)
    state.finish()
    assert screen.flagged == bool(state.verdicts or state.due)
    assert screen.flagged == (screen.mixed_max > 0.5)
    assert screen.max_score == state.max_score
    if not drift:
        assert screen.mixed_max == screen.max_score
