"""Sampling: distributions compared with their definition, bans, penalties, repeatability."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.gateway._sampling import NUCLEUS_HEAD, Sampler, SamplingParams, stream_seed

NONE = np.array([], dtype=np.int64)


def logits_of(seed, size=50):
    return np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)


def draws(logits, params, count=4000, banned=NONE):
    sampler = Sampler(params, 0, banned)
    return np.bincount([sampler.sample(logits).token_id for _ in range(count)], minlength=len(logits)) / count


def nucleus_oracle(weights, top_p):
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept, mass = [], 0.0
    for index in order:
        kept.append(index)
        mass += weights[index]
        if mass >= top_p:
            break
    return set(kept)


def test_zero_temperature_takes_the_best_token():
    logits = logits_of(1)
    assert Sampler(SamplingParams(temperature=0), 0, NONE).sample(logits).token_id == logits.argmax()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    logits = logits_of(2, size=12)
    weights = np.exp(logits / temperature)
    frequencies = draws(logits, SamplingParams(temperature=temperature))
    np.testing.assert_allclose(frequencies, weights / weights.sum(), atol=0.03)


@given(seed=st.integers(0, 1000), top_p=st.floats(0.05, 0.999))
def test_nucleus_holds_the_fewest_tokens_of_enough_mass(seed, top_p):
    logits = logits_of(seed, size=30)
    weights = np.exp(logits - logits.max()).astype(np.float64)
    allowed = nucleus_oracle(weights / weights.sum(), top_p)
    sampler = Sampler(SamplingParams(top_p=top_p), seed, NONE)
    assert {sampler.sample(logits).token_id for _ in range(60)} <= allowed


def test_nucleus_is_exact_when_it_is_wider_than_the_head():
    logits = np.zeros(4 * NUCLEUS_HEAD, dtype=np.float32)
    seen = draws(logits, SamplingParams(top_p=0.99), count=6000)
    assert (seen > 0).sum() > 1.5 * NUCLEUS_HEAD


def test_top_k_draws_only_from_the_k_best():
    logits = logits_of(3)
    best = set(np.argsort(-logits)[:5].tolist())
    assert set(np.flatnonzero(draws(logits, SamplingParams(top_k=5, top_p=0.95), 500)).tolist()) <= best


def test_banned_tokens_never_come_whatever_the_bias():
    logits = logits_of(4)
    banned = np.array([3, 7], dtype=np.int64)
    params = SamplingParams(temperature=2.0, logit_bias={3: 100.0, 7: 100.0})
    assert draws(logits, params, 500, banned)[[3, 7]].sum() == 0


def test_penalties_lower_what_was_said():
    logits = np.array([1.0, 0.9, 0.0], dtype=np.float32)
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=0.3), 0, NONE)
    assert [sampler.sample(logits).token_id for _ in range(3)] == [0, 1, 0]
    sampler = Sampler(SamplingParams(temperature=0, frequency_penalty=0.6), 0, NONE)
    assert [sampler.sample(logits).token_id for _ in range(4)] == [0, 1, 0, 1]


def test_logprob_is_that_of_the_untouched_distribution():
    logits = logits_of(5)
    sample = Sampler(SamplingParams(temperature=0, logprobs=True), 0, NONE).sample(logits)
    expected = logits.max() - np.log(np.exp(logits.astype(np.float64)).sum())
    assert sample.logprob == pytest.approx(expected, abs=1e-5)


def test_logits_are_left_as_they_are():
    logits = logits_of(6)
    before = logits.copy()
    Sampler(SamplingParams(logit_bias={1: 5.0}), 0, np.array([2])).sample(logits)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_unusable_logits_are_an_error(value):
    with pytest.raises(ValueError, match="finite"):
        Sampler(SamplingParams(), 0, NONE).sample(np.full(5, value, dtype=np.float32))


def test_seeds_are_told_apart_by_request_seed_and_choice():
    seeds = {
        stream_seed({"a": 1}, None, 0),
        stream_seed({"a": 2}, None, 0),
        stream_seed({"a": 1}, None, 1),
        stream_seed({"a": 1}, 5, 0),
        stream_seed({"a": 1}, 6, 0),
    }
    assert len(seeds) == 5
    assert stream_seed({"a": 1}, 5, 0) == stream_seed({"b": 9}, 5, 0)
    assert stream_seed({"a": 1, "b": 2}, None, 0) == stream_seed({"b": 2, "a": 1}, None, 0)
