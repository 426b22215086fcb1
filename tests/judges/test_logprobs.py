"""Verdicts from log-probabilities, against the probabilities that they were made of."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_judge import harm_of, verdict
from text_judges import question

from lockgate.judges import Template
from lockgate.judges._logprobs import NoVerdict, read_reply, side_of

GUARD = Template(prompt="{answer}", harmful=("unsafe", "controversial"), harmless=("safe",))


def body(said: str, **entry) -> bytes:
    return json.dumps({"choices": [{"logprobs": {"content": [{"token": said, **entry}]}}]}).encode()


@given(st.integers(0, 20))
def test_the_logit_is_that_of_the_words_probabilities(marks):
    reply = read_reply(json.dumps(verdict("!" * marks)).encode(), question())
    yes = harm_of("!" * marks)
    assert reply.logit == pytest.approx(math.log(yes / (1 - yes)), abs=1e-6)
    assert (reply.prompt_tokens, reply.completion_tokens) == (marks, 1)


@given(st.floats(1e-6, 1 - 1e-6), st.booleans())
def test_the_chosen_token_alone_is_exact_if_the_words_share_all_probability(yes, listed):
    likelier = max(yes, 1 - yes)
    more = {"top_logprobs": []} if listed else {}
    reply = body("Yes" if yes > 0.5 else "No", logprob=math.log(likelier), **more)
    found = read_reply(reply, question()).logit
    assert found == pytest.approx(math.log(yes / (1 - yes)), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(-9, 0), min_size=2, max_size=20))
def test_a_chosen_token_ranks_by_its_probability(logprobs):
    found = [read_reply(body("Yes", logprob=own), question()).logit for own in sorted(logprobs)]
    assert found == sorted(found)
    assert all(math.isfinite(logit) and logit >= 0 for logit in found)


def test_a_side_outside_the_list_gets_the_most_that_it_can_have():
    top = [{"token": "Yes", "logprob": math.log(0.9)}, {"token": "So", "logprob": math.log(0.06)}]
    found = read_reply(body("Yes", logprob=-0.1, top_logprobs=top), question()).logit
    assert found == pytest.approx(math.log(0.9 / 0.04))  # the rest of the probability
    top[1]["logprob"] = math.log(0.01)
    found = read_reply(body("Yes", logprob=-0.1, top_logprobs=top), question()).logit
    assert found == pytest.approx(math.log(0.9 / 0.01))  # no more than the least likely of the list


@pytest.mark.parametrize(
    ("token", "side"),
    [
        *[(text, True) for text in ("unsafe", " Unsafe", "un", "**Unsafe", "Contro")],
        *[(text, False) for text in ("\nsafe", "sa", "\u0120safe", "Safe.")],
        *[(text, None) for text in ("", "  ", "safely", "maybe")],
    ],
)
def test_the_side_of_a_token(token, side):
    assert side_of(token, GUARD) is side


def test_a_first_letter_of_both_sides_says_nothing():
    template = Template(prompt="{answer}", harmful=("harmful",), harmless=("harmless",))
    assert side_of("harm", template) is None
    assert side_of("harmf", template) is True


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"message": {"content": "Yes"}}]}', "no log-probabilities"),
        (b'{"choices": [{"logprobs": null}]}', "no log-probabilities"),
        (b'{"choices": [{"logprobs": {"content": []}}]}', "no log-probabilities"),
        (body("Yes"), "no log-probability of the chosen"),
        (body("Yes", logprob=-9999), "no log-probability of the chosen"),
        (body("Maybe secret", logprob=-1), "begins with none of the verdict words"),
        (
            body("M", logprob=-1, top_logprobs=[{"token": "M", "logprob": -1}]),
            "none of the verdict words",
        ),
    ],
)
def test_a_reply_without_a_verdict_says_why_and_repeats_nothing(reply, message):
    with pytest.raises(NoVerdict, match=message) as caught:
        read_reply(reply, question())
    assert "secret" not in str(caught.value)


_KEYS = ("choices", "logprobs", "content", "token", "logprob", "top_logprobs", "usage", "prompt_tokens")
_LEAVES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()


def _grow(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)


@given(st.recursive(_LEAVES, _grow, max_leaves=12))
def test_any_json_is_a_verdict_or_none(value):
    inside = {"choices": [{"logprobs": {"content": [value]}}], "usage": value}
    for reply in (value, {"choices": [value]}, inside):
        try:
            found = read_reply(json.dumps(reply, allow_nan=True).encode(), question())
        except NoVerdict:
            continue
        assert math.isfinite(found.logit)
