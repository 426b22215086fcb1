"""The gate alone: what it releases before, at and after a flag."""

import math

import numpy as np
import pytest

from lockgate.cascade import Cascade, CascadeState, Regions, StreamState, Thresholds
from lockgate.gateway._stream import NOTHING, AnswerGate, AnswerText

CALM, ALARM = np.array([[-1.0]]), np.array([[9.0]])


def gate_of(*, enforce=True, min_tokens=1, stops=()):
    state = StreamState(Thresholds(0.5, min_tokens=min_tokens), 1.0, Regions(0, 0, 2))
    return AnswerGate(state, AnswerText(lambda ids: "".join(map(chr, ids)), stops), enforce=enforce)


def clear(gate, letter, logits=CALM):
    return gate.clear(ord(letter), None, logits).text


def test_cleared_tokens_leave_at_once_and_the_flagged_one_never():
    gate = gate_of()
    gate.read_prompt(np.full((2, 1), -1.0))
    assert [clear(gate, "a"), clear(gate, "b"), clear(gate, "c", ALARM)] == ["a", "b", ""]
    assert gate.halted
    assert clear(gate, "d") == ""
    assert gate.finish() is NOTHING


def test_text_held_for_a_stop_string_dies_with_the_flag():
    gate = gate_of(stops=["bcd"])
    gate.read_prompt(np.full((2, 1), -1.0))
    assert [clear(gate, "a"), clear(gate, "b"), clear(gate, "c", ALARM)] == ["a", "", ""]
    assert gate.finish() is NOTHING


def test_nothing_leaves_before_the_guard_judges():
    gate = gate_of(min_tokens=5)
    gate.read_prompt(np.full((2, 1), -1.0))
    assert [clear(gate, letter) for letter in "abc"] == ["", "", "abc"]


def test_a_short_answer_is_judged_at_its_end():
    calm, alarmed = gate_of(min_tokens=50), gate_of(min_tokens=50)
    for gate, last in ((calm, CALM), (alarmed, ALARM)):
        gate.read_prompt(np.full((2, 1), -1.0))
        assert [clear(gate, "a"), clear(gate, "b", last)] == ["", ""]
    assert calm.finish().text == "ab"
    assert alarmed.finish() is NOTHING
    assert alarmed.state.flagged


def test_a_flagged_prompt_lets_nothing_out():
    gate = gate_of()
    gate.read_prompt(np.array([[-1.0], [9.0]]))
    assert gate.halted
    assert clear(gate, "a") == ""


def test_shadow_lets_everything_out_and_remembers():
    gate = gate_of(enforce=False)
    assert [clear(gate, "a", ALARM), clear(gate, "b")] == ["a", "b"]
    assert gate.state.flagged
    assert not gate.halted


def test_each_token_carries_the_threshold_it_was_compared_with():
    alone = StreamState(Thresholds(math.inf, min_tokens=1), 1.0, Regions(0, 0, 1))
    state = CascadeState(Cascade(2.0, math.inf, 0.5, stride=2, drift=0.5), alone)
    gate = AnswerGate(state, AnswerText(lambda ids: "".join(map(chr, ids)), ()), enforce=True)
    gate.read_prompt(CALM)
    tokens = [gate.clear(ord(letter), None, CALM).tokens[0] for letter in "abc"]
    ends = [2, 2, 4]
    assert [token.threshold for token in tokens] == [2.0 + 0.5 * math.log2(1 + end / 64) for end in ends]
    one = gate_of()
    one.read_prompt(np.full((2, 1), -1.0))
    assert one.clear(ord("a"), None, CALM).tokens[0].threshold == 0.5


def test_a_token_without_a_score_is_not_cleared():
    with pytest.raises(ValueError, match="without a score"):
        gate_of().clear(1, None, None)
    shadow = gate_of(enforce=False)
    assert shadow.clear(ord("a"), None, None).text == "a"
    assert shadow.broken == "ValueError"
