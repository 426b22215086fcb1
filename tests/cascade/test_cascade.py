"""Two stages on one stream, compared with a slow oracle that sees the whole stream."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lockgate.cascade import Cascade, CascadeState, Regions, StreamState, Thresholds, simulate
from lockgate.errors import ConfigError

LOGITS = st.floats(-8, 8, width=32)


def new_state(cascade, thresholds, gamma, regions):
    return CascadeState(cascade, StreamState(thresholds, gamma, regions, ("first", "second")))


def drive(state, rows, verdicts, cuts=()):
    """Feed a whole stream in pieces; note what happens at each token and block."""
    released, blocks, cut_at = [], [], sorted(cuts)

    def note():
        if state.closed is not None and (not blocks or blocks[-1] != state.closed):
            if blocks and blocks[-1].number == state.closed.number:
                blocks.pop()
            blocks.append(state.closed)
        if state.due is not None:
            state.judge(verdicts[state.due.number])

    note()
    done = 0
    while done < len(rows):
        ends = [cut for cut in cut_at if cut > done]
        end = min([len(rows), done + state.room, *ends])
        state.consume(rows[done:end])
        released.append((end, state.released))
        note()
        released.append((end, state.released))
        done = end
    state.finish()
    note()
    state.finish()
    released.append((done, state.released))
    return blocks, released


def rise(cascade, number):
    """What is taken off in a block, by the words of the design."""
    end = number * cascade.stride
    return cascade.drift * math.log2(1 + end / 64) if cascade.drift else 0.0


def oracle(rows, verdicts, cascade, thresholds, gamma, regions):
    """Blocks, judged blocks, mixed scores and what may leave after each token, by the words of the design."""
    stream = StreamState(thresholds, gamma, regions, ("first", "second"))
    smoothed = list(stream.consume(rows))
    n, answer = len(rows), max(0, regions.start + len(rows) - regions.answer_start)
    judges = [i + 1 >= thresholds.min_tokens and regions.start + i >= regions.prompt_start for i in range(n)]
    short = 0 < n < thresholds.min_tokens
    if short and regions.start + n - 1 >= regions.prompt_start:
        judges[-1] = True
    spans = [(0, n - answer)]
    spans += [
        (n - answer + k, min(n, n - answer + k + cascade.stride)) for k in range(0, answer, cascade.stride)
    ]
    probes, due, suspicious, quiet = [], [], False, 0
    held_from = [None] * len(spans)
    for number, (start, end) in enumerate(spans):
        edge = rise(cascade, number)
        heard = [smoothed[i] for i in range(start, end) if judges[i]]
        probes.append(max(heard) if heard else None)
        if suspicious:
            held_from[number] = start
        loud = [i for i in range(start, end) if judges[i] and smoothed[i] - edge > cascade.escalate]
        if loud:
            held_from[number] = loud[0] if not suspicious else start
            suspicious, quiet = True, 0
        elif suspicious:
            quiet += 1
        if suspicious and (number or thresholds.flag_on == "both"):
            due.append(number)
        if quiet >= cascade.calm_blocks:
            suspicious = False
    mixed = {}
    for number in due:
        z1 = (probes[number] - rise(cascade, number) - cascade.probe_mean) / cascade.probe_std
        z2 = (verdicts[number] - cascade.classifier_mean) / cascade.classifier_std
        value = cascade.weight * z1 + (1 - cascade.weight) * z2
        mixed[number] = math.inf if not math.isfinite(value) else value
    return probes, spans, mixed, held_from


@st.composite
def streams(draw):
    start = draw(st.integers(0, 3))
    prompt = start + draw(st.integers(0, 6))
    regions = Regions(start, prompt, prompt + draw(st.integers(0, 10)))
    thresholds = Thresholds(
        math.inf, min_tokens=draw(st.integers(1, 20)), flag_on=draw(st.sampled_from(["answer", "both"]))
    )
    cascade = Cascade(
        escalate=draw(st.floats(-3, 6)),
        flag=draw(st.sampled_from([-2.0, 0.0, 1.5, math.inf])),
        weight=draw(st.sampled_from([0.0, 0.3, 0.55, 1.0])),
        probe_mean=0.5,
        probe_std=2.0,
        classifier_mean=-1.0,
        classifier_std=0.5,
        stride=draw(st.integers(1, 6)),
        calm_blocks=draw(st.integers(1, 3)),
        tolerance=0.01,
        drift=draw(st.just(0.0) | st.floats(0, 40)),
    )
    rows = np.array(draw(st.lists(st.tuples(LOGITS, LOGITS, LOGITS), max_size=50))).reshape(-1, 3)
    verdicts = draw(st.lists(LOGITS, min_size=60, max_size=60))
    return rows, verdicts, cascade, thresholds, draw(st.floats(0.1, 1.0)), regions


@pytest.mark.slow
@given(stream=streams(), cuts=st.lists(st.integers(0, 50)))
def test_a_stream_says_what_the_oracle_and_the_simulation_say_in_any_pieces(stream, cuts) -> None:
    rows, verdicts, cascade, thresholds, gamma, regions = stream
    probes, spans, mixed, held_from = oracle(*stream)
    assume(len(rows) >= regions.answer_start - regions.start)
    state = new_state(cascade, thresholds, gamma, regions)
    blocks, released = drive(state, rows, verdicts, cuts)
    # The grid, and what stage 1 says of each block.
    assert [block.number for block in blocks] == list(range(len(spans)))
    answer_at = spans[0][1]
    assert [block.end for block in blocks] == [max(0, end - answer_at) for _, end in spans]
    assert [block.probe for block in blocks] == probes
    # What was judged, and what came of it.
    assert state.verdicts == len(mixed)
    assert state.mixed_max == pytest.approx(max(mixed.values(), default=-math.inf))
    edge = cascade.flag - cascade.tolerance
    flags = [number for number, value in mixed.items() if value > edge]
    if all(abs(value - edge) > 1e-9 for value in mixed.values()):
        assert state.flagged == bool(flags)
        place = spans[flags[0]][1] - 1 if flags else None
        assert state.flag_token == (None if place is None else state.stream.place(regions.start + place))
        check_releases(released, spans, held_from, mixed, flags, thresholds, rows)
    outcome = simulate(
        [math.nan if p is None else p for p in probes], verdicts[: len(probes)], cascade,
        flag_on=thresholds.flag_on,
    )  # fmt: skip
    assert outcome.judged_blocks == tuple(mixed)
    assert outcome.mixed_max == state.mixed_max
    assert (outcome.flagged, outcome.escalated) == (state.flagged, bool(mixed))
    assert outcome.first_judged == next(iter(mixed), None)


def check_releases(released, spans, held_from, mixed, flags, thresholds, rows) -> None:
    """After every piece: nothing unjudged, nothing held, nothing behind a flag; all else."""
    answer_at = spans[0][1]
    counts = [count for _, count in released]
    assert counts == sorted(counts)
    for before, (end, count) in zip([0, *counts], released, strict=False):
        number = next(i for i, (_, stop) in enumerate(spans) if end <= stop)
        limit = max(0, end - answer_at) if end >= thresholds.min_tokens or end == len(rows) else 0
        if flags and number >= flags[0]:
            # In the flagged block nothing leaves from the first suspicious token on.
            held = held_from[flags[0]]
            limit = min(limit, max(0, held - answer_at))
        elif held_from[number] is not None and held_from[number] < end < spans[number][1]:
            limit = min(limit, max(0, held_from[number] - answer_at))
        assert count <= max(limit, before)
    if not flags:
        assert counts[-1] == max(0, len(rows) - answer_at)


@given(stream=streams(), cuts=st.lists(st.integers(0, 50)), bad=st.sampled_from([None, math.nan, math.inf]))
def test_a_verdict_that_fails_flags_whatever_the_threshold(stream, cuts, bad) -> None:
    rows, _, cascade, thresholds, gamma, regions = stream
    state = new_state(cascade, thresholds, gamma, regions)
    drive(state, rows, [bad] * 60, cuts)
    assert state.flagged == (state.verdicts > 0)
    assert state.mixed_max == (math.inf if state.verdicts else -math.inf)


def logits(*values):
    return np.array(values, dtype=float).reshape(-1, 1)


def plain(escalate=0.0, flag=0.0, weight=0.0, **options):
    return Cascade(escalate, flag, weight, stride=4, **options)


def stream_state(cascade, *, prompt=4, min_tokens=1, flag_on="answer"):
    """A stream without smoothing: every logit is its own score."""
    thresholds = Thresholds(math.inf, min_tokens=min_tokens, flag_on=flag_on)
    return CascadeState(cascade, StreamState(thresholds, 1.0, Regions(0, 0, prompt)))


def test_a_calm_stream_is_never_asked_about_and_never_held() -> None:
    state = stream_state(plain())
    state.consume(logits(-1, -1, -1, -1))
    for token in range(1, 13):
        state.consume(logits(-1))
        assert (state.released, state.due) == (token, None)
    state.finish()
    assert (state.mixed_max, state.verdicts, state.flagged) == (-math.inf, 0, False)
    assert math.isnan(state.classifier_max)


def test_tokens_are_held_from_the_suspicious_one_to_the_verdict() -> None:
    state = stream_state(plain())
    state.consume(logits(-1, -1, -1, -1))
    counts = []
    for value in (-1, 1, -1, -1):
        state.consume(logits(value))
        counts.append(state.released)
    assert counts == [1, 1, 1, 1]
    assert state.due.end == 4
    state.judge(-1.0)
    assert (state.released, state.flagged) == (4, False)


def test_suspicion_lies_strictly_above_the_threshold() -> None:
    state = stream_state(plain(escalate=1.0))
    state.consume(logits(1, 1, 1, 1))
    state.consume(logits(1, 1, 1, 1))
    assert (state.suspicious, state.due, state.released) == (False, None, 4)
    state.consume(logits(np.nextafter(1.0, 2.0)))
    assert state.suspicious
    assert simulate([1.0, 1.0], [0.0, 0.0], plain(escalate=1.0)).judged_blocks == ()


def test_a_suspicion_ends_after_calm_blocks_that_were_judged_too() -> None:
    state = stream_state(plain(calm_blocks=2))
    state.consume(logits(-1, -1, -1, -1))
    judged = []
    for number, value in enumerate([1, -1, 1, -1, -1, -1, -1], 1):
        state.consume(logits(*[value] * 4))
        if state.due:
            assert state.released == 4 * (number - 1)
            judged.append(state.due.number)
            state.judge(-5.0)
        assert state.released == 4 * number
    assert judged == [1, 2, 3, 4, 5]


def test_a_suspicious_prompt_is_judged_first_or_with_the_first_block() -> None:
    both = stream_state(plain(), flag_on="both")
    both.consume(logits(-1, 2, -1, -1))
    assert both.due.number == 0
    both.judge(-1.0)
    answer = stream_state(plain(), flag_on="answer")
    answer.consume(logits(-1, 2, -1, -1))
    assert answer.due is None
    for state in (both, answer):
        state.consume(logits(-1))
        assert (state.suspicious, state.released) == (True, 0)
        state.consume(logits(-1, -1, -1))
        state.judge(-1.0)
        assert state.released == 4


def test_earlier_turns_never_make_a_stream_suspicious() -> None:
    thresholds = Thresholds(math.inf, min_tokens=1, flag_on="both")
    state = CascadeState(plain(), StreamState(thresholds, 1.0, Regions(0, 6, 8)))
    state.consume(logits(9, 9, 9, 9, 9, 9, -1, -1))
    assert (state.due, state.suspicious, state.closed.probe) == (None, False, -1.0)
    # The same conversation, regenerated or edited, starts anew: what came before is not remembered.
    again = CascadeState(plain(), StreamState(thresholds, 1.0, Regions(0, 6, 8)))
    again.consume(logits(9, 9, 9, 9, 9, 9, 2, -1))
    again.judge(7.0)
    assert again.flagged
    fresh = CascadeState(plain(), StreamState(thresholds, 1.0, Regions(0, 6, 8)))
    fresh.consume(logits(9, 9, 9, 9, 9, 9, -1, -1))
    assert not fresh.suspicious


def test_after_a_flag_nothing_more_leaves() -> None:
    state = stream_state(plain())
    state.consume(logits(-1, -1, -1, -1))
    state.consume(logits(-1, -1, 1, -1))
    state.judge(3.0)
    assert (state.flagged, state.flag_token, state.released) == (True, 3, 2)
    for _ in range(4):
        state.consume(logits(-1, -1, -1, -1))
        if state.due:
            state.judge(-9.0)
    state.finish()
    assert (state.released, state.flag_token, state.mixed_max) == (2, 3, 3.0)
    assert state.verdict.flagged


def test_the_first_judged_token_decides_about_those_before_it() -> None:
    state = stream_state(plain(), prompt=1, min_tokens=4)
    state.consume(logits(-1))
    state.consume(logits(-1, -1))
    assert state.released == 0
    state.consume(logits(5))
    assert (state.suspicious, state.released) == (True, 0)
    state.finish()
    assert state.due.number == 1
    state.judge(-1.0)
    assert (state.finish().flagged, state.released) == (False, 3)


@pytest.mark.parametrize("answer", [0, 2, 4])
def test_a_stream_too_short_to_be_judged_is_judged_at_its_end(answer) -> None:
    for flag_on in ("both", "answer"):
        state = stream_state(plain(), prompt=3, min_tokens=16, flag_on=flag_on)
        state.consume(logits(1, 1, 1))
        if answer:
            state.consume(logits(*[1] * answer))
        assert (state.due, state.released) == (None, 0)
        state.finish()
        asked = bool(answer) or flag_on == "both"
        assert (state.due is not None) == asked
        assert (state.closed.number, state.closed.end, state.closed.probe) == (min(1, answer), answer, 1.0)
        if asked:
            state.judge(1.0)
        before = state.verdicts
        assert state.finish().flagged == asked
        assert state.verdicts == before
        assert state.due is None


def test_what_is_no_number_is_suspicious_and_flags() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        state = stream_state(plain(flag=math.inf, weight=0.5))
        state.consume(logits(-1, -1, -1, -1))
        state.consume(logits(-1, -1, -1, bad))
        assert state.due.probe == math.inf
        state.judge(-9.0)
        assert state.flagged
        assert simulate([-1.0, math.inf], [-1.0, -9.0], plain(flag=math.inf)).flagged


def test_misuse_is_refused() -> None:
    state = stream_state(plain())
    with pytest.raises(ConfigError, match="no verdict is due"):
        state.judge(0.0)
    with pytest.raises(ConfigError, match="5 tokens, the block has room for 4"):
        state.consume(logits(1, 1, 1, 1, 1))
    state.consume(logits(1, 1, 1, 1))
    state.consume(logits(1, 1, 1, 1))
    with pytest.raises(ConfigError, match="a verdict is due"):
        state.consume(logits(1))
    with pytest.raises(ConfigError, match="own threshold is infinite"):
        CascadeState(plain(), StreamState(Thresholds(0.0), 1.0, Regions(0, 0, 4)))
    with pytest.raises(ConfigError, match="score again with verdicts for all blocks"):
        simulate([-1.0, 1.0], [math.nan, math.nan], plain())


def test_a_stream_that_begins_with_its_answer() -> None:
    state = CascadeState(plain(), StreamState(Thresholds(math.inf, min_tokens=1), 1.0, Regions(3, 3, 3)))
    assert (state.closed.number, state.closed.end, state.closed.probe) == (0, 0, None)
    state.consume(logits(1, 1, 1, 1))
    assert state.due.number == 1


def test_a_copy_goes_its_own_way() -> None:
    state = stream_state(plain())
    state.consume(logits(-1, -1, -1, -1))
    twin = copy.deepcopy(state)
    twin.consume(logits(1, 1, 1, 1))
    twin.judge(9.0)
    state.consume(logits(-1))
    assert (twin.flagged, state.flagged, state.released) == (True, False, 1)


def test_memory_does_not_grow() -> None:
    state = stream_state(plain(flag=1e9))
    state.consume(logits(1, 1, 1, 1))
    for _ in range(200):
        state.consume(logits(1, 1, 1, 1))
        state.judge(0.0)
    held = [*vars(state).values(), *vars(state._course).values()]
    assert not [value for value in held if isinstance(value, list | dict) and len(value) > 4]


@pytest.mark.parametrize(
    "settings",
    [{"escalate": math.nan}, {"flag": math.nan}, {"weight": 1.1}, {"weight": math.nan}, {"stride": 0},
     {"calm_blocks": 0}, {"probe_std": 0.0}, {"classifier_std": math.inf}, {"probe_mean": math.nan},
     {"tolerance": -1.0}, {"tolerance": math.inf}, {"drift": -0.1}, {"drift": math.inf}, {"drift": math.nan}],
)  # fmt: skip
def test_cascades_that_make_no_sense(settings) -> None:
    with pytest.raises(ConfigError, match="cascade"):
        Cascade(**{"escalate": 0.0, "flag": 0.0, "weight": 0.5, **settings})


def test_mixing_standardises_both_stages() -> None:
    cascade = Cascade(0.0, 0.0, 0.25, probe_mean=1.0, probe_std=2.0, classifier_mean=-3.0, classifier_std=4.0)
    assert cascade.mix(5.0, 5.0) == pytest.approx(0.25 * 2.0 + 0.75 * 2.0)
    assert cascade.mix(math.nan, 1.0) == math.inf
    assert [cascade.crossed(value) for value in (0.0, 1e-12, math.nan, -math.inf)] == [
        False,
        True,
        True,
        False,
    ]


def test_pieces_are_the_same_as_tokens() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3))
    cascade = Cascade(0.3, 0.5, 0.5, stride=5)
    states = [new_state(cascade, Thresholds(math.inf, min_tokens=4), 0.3, Regions(0, 0, 7)) for _ in range(2)]
    verdicts = list(rng.normal(size=60))
    first = drive(states[0], rows, verdicts, range(40))
    second = drive(states[1], rows, verdicts)
    assert first[0] == second[0]
    assert states[0].mixed_max == states[1].mixed_max
    assert all(a <= b for (_, a), (_, b) in pairwise(first[1]))
