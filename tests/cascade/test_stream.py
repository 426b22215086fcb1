"""The state of one stream, compared with a slow oracle that keeps everything."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.cascade import Regions, StreamState, Thresholds
from lockgate.errors import ConfigError

CATEGORIES = ("first", "second")
FINITE = st.floats(-50, 50, allow_nan=False, width=32)
ROWS = st.lists(st.tuples(FINITE, FINITE, FINITE), max_size=40)


def ema(values: np.ndarray, gamma: float) -> np.ndarray:
    """Bias-corrected moving average by its definition, for each prefix of `values`."""
    out = []
    for t in range(1, len(values) + 1):
        weights = gamma * (1 - gamma) ** np.arange(t)
        out.append((weights * values[t - 1 :: -1][:t]).sum() / (1 - (1 - gamma) ** t))
    return np.array(out)


def oracle(rows: np.ndarray, gamma: float, regions: Regions, thresholds: Thresholds) -> dict:
    """What a stream says in the end, from all of its logits at once."""
    scores = ema(rows[:, 0], gamma)
    last = len(rows) - 1
    first_judged = thresholds.min_tokens - 1
    judged = [last] if 0 <= last < first_judged else list(range(first_judged, len(rows)))
    maxima = {"prompt": [], "answer": []}
    flag = None
    for i in judged:
        position = regions.start + i
        if position < regions.prompt_start:
            continue
        region = "answer" if position >= regions.answer_start else "prompt"
        score = math.inf if math.isnan(scores[i]) else scores[i]
        maxima[region].append(score)
        may = region == "answer" or thresholds.flag_on == "both"
        over = math.isnan(scores[i]) or scores[i] > thresholds.flag - thresholds.tolerance
        if flag is None and may and over:
            flag = (i, region)
    return {"scores": scores, "maxima": maxima, "flag": flag}


@st.composite
def streams(draw):
    start = draw(st.integers(0, 5))
    prompt = start + draw(st.integers(0, 12))
    regions = Regions(start, prompt, prompt + draw(st.integers(0, 20)))
    thresholds = Thresholds(
        flag=draw(st.floats(-20, 20)),
        tolerance=draw(st.sampled_from([0.0, 0.01, 1.0])),
        min_tokens=draw(st.integers(1, 20)),
        flag_on=draw(st.sampled_from(["answer", "both"])),
    )
    gamma = draw(st.floats(0.01, 1.0))
    return np.array(draw(ROWS)).reshape(-1, 3), gamma, regions, thresholds


@given(stream=streams(), cuts=st.lists(st.integers(0, 40)))
def test_a_stream_says_what_the_oracle_says_in_any_chunks(stream, cuts) -> None:
    rows, gamma, regions, thresholds = stream
    expected = oracle(rows, gamma, regions, thresholds)
    state = StreamState(thresholds, gamma, regions, CATEGORIES)
    whole = StreamState(thresholds, gamma, regions, CATEGORIES)
    parts = np.split(rows, sorted(min(cut, len(rows)) for cut in cuts))
    smoothed = np.concatenate([state.consume(part) for part in parts])
    np.testing.assert_array_equal(smoothed, whole.consume(rows))
    np.testing.assert_allclose(smoothed, expected["scores"], rtol=1e-9, atol=1e-9)
    verdict = state.finish()
    assert verdict == whole.finish() or math.isnan(verdict.score)
    assert (state.max_answer, state.max_prompt, state.flag_token) == pytest.approx(
        (whole.max_answer, whole.max_prompt, whole.flag_token), nan_ok=True
    )
    check_maxima(state, expected, thresholds)
    check_flag(state, rows, gamma, regions, thresholds, expected)


def check_maxima(state, expected, thresholds) -> None:
    maxima = expected["maxima"]
    for region, found in (("prompt", state.max_prompt), ("answer", state.max_answer)):
        if maxima[region]:
            assert found == pytest.approx(max(maxima[region]))
    assert math.isnan(state.max_answer) == (not maxima["answer"])
    able = maxima["answer"] + (maxima["prompt"] if thresholds.flag_on == "both" else [])
    assert state.max_score == pytest.approx(max(able, default=-math.inf))


def check_flag(state, rows, gamma, regions, thresholds, expected) -> None:
    scores, flag = expected["scores"], expected["flag"]
    edge = thresholds.flag - thresholds.tolerance
    if np.any(np.abs(scores - edge) < 1e-7):
        return  # the oracle adds in another order
    assert state.flagged == (flag is not None)
    if flag is None:
        assert (state.flag_token, state.category) == (None, None)
        return
    position, region = regions.start + flag[0], flag[1]
    start = regions.answer_start if region == "answer" else regions.prompt_start
    assert state.flag_token == position - start
    averages = [ema(rows[:, 1 + i], gamma)[flag[0]] for i in range(2)]
    if abs(averages[0] - averages[1]) > 1e-6:
        assert state.category == CATEGORIES[int(np.argmax(averages))]


def constant(value: float, tokens: int) -> np.ndarray:
    return np.full((tokens, 1), value)


def test_a_flag_lies_strictly_above_the_threshold_less_the_tolerance() -> None:
    thresholds = Thresholds(flag=1.0, tolerance=0.25, min_tokens=1)
    assert not thresholds.crossed(0.75)
    assert thresholds.crossed(np.nextafter(0.75, 1))
    assert thresholds.crossed(math.nan)
    assert thresholds.crossed(math.inf)
    assert not thresholds.crossed(-math.inf)
    assert not Thresholds(flag=math.inf).crossed(1e300)


def test_no_flag_before_enough_tokens() -> None:
    state = StreamState(Thresholds(0.0, min_tokens=16), 0.5, Regions(4, 4, 10))
    state.consume(constant(5.0, 15))
    assert not state.flagged
    state.consume(constant(5.0, 1))
    assert state.flagged
    # Tokens of the history count: by then the average has settled.
    assert state.flag_token == 9


def test_a_short_stream_is_judged_at_its_end() -> None:
    state = StreamState(Thresholds(0.0, min_tokens=16), 0.5, Regions(4, 4, 5))
    state.consume(constant(5.0, 3))
    assert not state.verdict.flagged
    verdict = state.finish()
    assert (verdict.flagged, verdict.token_index, verdict.score) == (True, 1, 5.0)
    assert state.finish() == verdict


def test_a_stream_without_tokens_is_no_reading() -> None:
    state = StreamState(Thresholds(0.0), 0.5, Regions(4, 4, 5), CATEGORIES)
    assert len(state.consume(np.empty((0, 3)))) == 0
    verdict = state.finish()
    assert not verdict.flagged
    assert math.isnan(verdict.score)
    assert math.isnan(state.max_prompt)
    assert state.max_score == -math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_reading_flags_and_the_flag_stays(bad) -> None:
    state = StreamState(Thresholds(1e6, min_tokens=2), 0.5, Regions(0, 0, 1))
    state.consume(constant(0.0, 4))
    assert not state.flagged
    state.consume(constant(bad, 1))
    assert state.flagged
    index = state.flag_token
    state.consume(constant(-1e9, 10))
    assert state.verdict.flagged
    assert state.verdict.token_index == index == 3
    assert state.max_answer == math.inf


def test_earlier_turns_feed_the_average_and_never_flag() -> None:
    thresholds = Thresholds(0.0, min_tokens=1)
    loud = StreamState(thresholds, 0.1, Regions(0, 30, 40))
    loud.consume(constant(9.0, 30))
    assert not loud.flagged
    assert loud.max_score == -math.inf
    loud.consume(constant(-0.1, 1))
    assert loud.flagged
    assert loud.flag_token == 0


def test_prompts_flag_only_where_they_may() -> None:
    for flag_on, flagged in (("both", True), ("answer", False)):
        state = StreamState(Thresholds(0.0, min_tokens=1, flag_on=flag_on), 1.0, Regions(0, 0, 5))
        state.consume(constant(3.0, 5))
        assert state.flagged is flagged
        state.consume(constant(-3.0, 5))
        assert state.flagged is flagged
        assert (state.max_prompt, state.max_answer) == (3.0, -3.0)


def test_memory_does_not_grow() -> None:
    state = StreamState(Thresholds(1e9), 0.1, Regions(0, 0, 5), CATEGORIES)
    state.consume(np.ones((1000, 3)))
    sizes = [np.size(value) for value in vars(state).values()]
    assert max(sizes) == 3


@pytest.mark.parametrize(
    "settings",
    [{"flag": math.nan}, {"flag": 0, "tolerance": -1.0}, {"flag": 0, "tolerance": math.nan},
     {"flag": 0, "min_tokens": 0}, {"flag": 0, "flag_on": "prompt"}],
)  # fmt: skip
def test_thresholds_that_make_no_sense(settings) -> None:
    with pytest.raises(ConfigError, match="thresholds"):
        Thresholds(**settings)


@pytest.mark.parametrize("gamma", [0.0, -1.0, 1.1, math.nan])
def test_a_gamma_that_makes_no_sense(gamma) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        StreamState(Thresholds(0.0), gamma, Regions(0, 0, 0))
