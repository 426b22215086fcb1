"""Streams, single exchanges and batches give the same scores for the same tokens."""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_head, tiny_backbone
from parts import make_exchange, make_guard

import lockgate
from lockgate.backbones import Feed, SessionPool
from lockgate.cascade import StreamState, Thresholds
from lockgate.classifiers import ProbeTap
from lockgate.errors import ConfigError, ContextOverflow, ExchangeError, GuardError
from lockgate.exchanges import Exchange, Message
from lockgate.guards import Guard, Stages, regions_of, score_exchanges

ARCHITECTURES = ("llama", "qwen2_sliding", "gemma2")
ANSWER = "the lock holds the water back between two gates and lets the boat through"
PROMPT = [{"role": "user", "content": "why does the canal run past the mill"}]


def answer_ids(guard: Guard, text: str = ANSWER) -> list[int]:
    return guard.backbone.chat.encode_text(text)


@cache
def spread(name: str) -> float:
    """A thousandth of the logits' standard deviation: the tolerance of all agreements."""
    guard = make_guard(tiny_backbone(name.removeprefix("tiny-")))
    scores = [guard.score(make_exchange(i).messages).max_score for i in range(20)]
    return 1e-3 * float(np.std(scores))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("flag_on", ["answer", "both"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_stream_in_any_pieces_says_what_score_says(architecture, flag_on, data) -> None:
    backbone = tiny_backbone(architecture)
    flag = data.draw(st.sampled_from([-1.0, 0.0, 0.3, 1.0, 1e9]))
    guard = make_guard(backbone, flag=flag, flag_on=flag_on)
    words = data.draw(st.integers(0, 30))
    text = " ".join(ANSWER.split()[i % 14] for i in range(words))
    whole = guard.score([*PROMPT, {"role": "assistant", "content": text}])
    ids = answer_ids(guard, text)
    cuts = sorted({0, len(ids), *data.draw(st.sets(st.integers(0, len(ids)), max_size=20))})
    with guard.stream(PROMPT) as stream:
        verdicts = [stream.push(ids[start:end]) for start, end in pairwise(cuts)]
        last = stream.finish()
    tolerance = spread(guard.backbone.name)
    assert (
        abs(whole.max_score - stream._state.max_score) <= tolerance
        or whole.max_score == stream._state.max_score
    )
    assert stream._state.max_prompt == pytest.approx(whole.max_prompt, abs=tolerance)
    assert stream._state.max_answer == pytest.approx(whole.max_answer, abs=tolerance, nan_ok=True)
    if abs(whole.max_score - flag) > 1e-2:
        assert last.flagged == whole.flagged
        assert last.category == whole.category
        assert stream._state.flag_token == whole.flag_token
    flags = [verdict.flagged for verdict in verdicts]
    assert flags == sorted(flags)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_score_is_the_moving_average_of_one_pass(architecture) -> None:
    """The whole path against a short one: render, one step, the state machine."""
    backbone = tiny_backbone(architecture)
    guard = make_guard(backbone)
    for messages in (
        [*PROMPT, {"role": "assistant", "content": ANSWER}],
        PROMPT,
        make_exchange(3, 40).messages,
    ):
        turns = tuple(m if isinstance(m, Message) else Message(**m) for m in messages)
        chat = backbone.render(turns, add_generation_prompt=turns[-1].role == "user")
        tap = ProbeTap([guard.head], backbone.hidden_size)
        with SessionPool(backbone, 512) as pool:
            pool.step([Feed(pool.open(512), chat.token_ids)], tap)
        state = StreamState(guard.thresholds, guard.head.gamma, regions_of(chat), guard.head.category_ids)
        state.consume(tap.logits[chat.prefix_length : chat.answer_end].numpy())
        verdict = state.finish()
        found = guard.score(messages)
        assert found.max_score == pytest.approx(state.max_score, abs=spread(guard.backbone.name))
        assert (found.flagged, found.category) == (verdict.flagged, verdict.category)
        assert found.tokens == chat.answer_end - chat.prefix_length


@given(numbers=st.lists(st.integers(0, 30), min_size=1, max_size=12), words=st.integers(0, 40))
@settings(max_examples=10, deadline=None)
def test_batch_mates_and_several_heads_change_nothing(numbers, words) -> None:
    guard, other = make_guard(), random_head(tiny_backbone(), 7)
    rows = [make_exchange(i, words + i) for i in numbers]
    stages = [guard.stages, Stages(other, Thresholds(flag=-1.0))]
    both = list(score_exchanges(guard.backbone, stages, rows))
    assert [scores[0].number for scores in both] == list(range(len(rows)))
    tolerance = spread(guard.backbone.name)
    for row, (first, second) in zip(rows, both, strict=True):
        alone = guard.score(row.messages)
        assert first.max_score == pytest.approx(alone.max_score, abs=tolerance)
        assert first.tokens == alone.tokens
        expected = next(iter(score_exchanges(guard.backbone, stages[1:], [row])))[0]
        assert second.max_score == pytest.approx(expected.max_score, abs=tolerance)


def test_streams_beside_one_another_do_not_mix() -> None:
    guard = make_guard(flag=1e9)
    ids = answer_ids(guard)
    alone = [
        guard.stream(PROMPT).push(ids).score,
        guard.stream(make_exchange(2).messages[:1]).push(ids).score,
    ]
    a, b = guard.stream(PROMPT), guard.stream(make_exchange(2).messages[:1])
    for token in ids:
        last_a = a.push(token)
        guard.score(PROMPT)
        last_b = b.push(token)
    a.close()
    assert [last_a.score, last_b.score] == pytest.approx(alone, abs=1e-4)
    assert b.push(ids[0]).token_index == len(ids)
    b.close()
    assert not any(module._forward_hooks for module in guard.backbone.model.modules())


def test_prompts_alone_are_scored_as_prompts() -> None:
    found = make_guard(flag=-1e9, flag_on="answer").score(PROMPT)
    assert math.isnan(found.max_answer)
    assert found.max_score == -math.inf
    assert not found.flagged
    assert make_guard(flag=-1e9).score(PROMPT).flagged


def test_an_empty_answer_has_no_score_of_its_own() -> None:
    found = make_guard().score([*PROMPT, {"role": "assistant", "content": ""}])
    assert math.isnan(found.max_answer)
    assert found.max_prompt == pytest.approx(make_guard().score(PROMPT).max_prompt, abs=1e-4)


def test_the_closing_token_is_not_scored() -> None:
    guard = make_guard()
    messages = [*PROMPT, {"role": "assistant", "content": ANSWER}]
    followed = guard.backbone.render([Message(**m) for m in messages])
    assert (
        guard.score(messages).tokens == followed.answer_end - followed.prefix_length < len(followed.token_ids)
    )


def test_longer_than_the_context_is_scored_in_windows() -> None:
    guard = make_guard(flag=-1e9, flag_on="answer")
    row = make_exchange(5, 900)
    chat = guard.backbone.render(row.messages)
    assert len(chat.token_ids) > 4 * guard.backbone.context_length
    found = guard.score(row.messages)
    assert found.tokens == chat.answer_end - chat.prefix_length
    assert found.flagged
    assert math.isfinite(found.max_answer)


def test_a_stream_knows_its_room() -> None:
    guard = make_guard(flag=1e9)
    context = guard.backbone.context_length
    with pytest.raises(ContextOverflow, match=f"the context holds {context}"):
        guard.stream(make_exchange(5, 900).messages[:1])
    with pytest.raises(ConfigError, match="max_tokens"):
        guard.stream(PROMPT, max_tokens=0)
    stream = guard.stream(PROMPT, max_tokens=600)
    before = stream.verdict
    with pytest.raises(ContextOverflow, match="more fit"):
        stream.push([5] * context)
    assert stream.verdict == before
    room = stream._session.capacity - stream._session.length
    assert stream.push([5] * room).token_index == room - 1
    with pytest.raises(ContextOverflow):
        stream.push(5)
    small = guard.stream(PROMPT, max_tokens=3)
    small.push([1, 2, 3])
    with pytest.raises(ContextOverflow):
        small.push(4)


def test_tokens_may_come_in_any_form() -> None:
    guard = make_guard(flag=1e9)
    forms = (7, [7], (7,), np.int64(7), np.array([7]), torch.tensor(7), torch.tensor([7]), iter([7]))
    scores = [guard.stream(PROMPT).push(form).score for form in forms]
    assert scores == pytest.approx([scores[0]] * len(forms), abs=1e-6)
    stream = guard.stream(PROMPT)
    assert stream.push([]) == stream.verdict
    for bad in ([-1], [guard.backbone.vocab_size], [3, 10**9]):
        with pytest.raises(GuardError, match="token ids from 0 to"):
            stream.push(bad)
    for bad in ("a", [1.5], None):
        with pytest.raises(TypeError):
            stream.push(bad)


def test_a_finished_stream_takes_nothing_more() -> None:
    guard = make_guard(flag=-1e9)
    stream = guard.stream(PROMPT)
    assert stream.verdict.flagged
    last = stream.finish()
    assert stream.finish() == last
    with pytest.raises(GuardError, match="finished"):
        stream.push(5)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        {"role": "user", "content": "x"},
        [{"role": "user"}],
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": "private \ud800"}],
        [Message("user", "private \ud800")],
        [Message("king", "x")],
        ["private"],
        None,
    ],
)
def test_malformed_messages(messages) -> None:
    guard = make_guard()
    for call in (guard.score, guard.stream):
        with pytest.raises(ExchangeError) as caught:
            call(messages)
        assert "private" not in str(caught.value)


def test_turns_that_a_template_does_not_take_are_read_in_their_order() -> None:
    guard = make_guard(tiny_backbone("gemma2"))
    turns = [{"role": "user", "content": "why"}, {"role": "user", "content": "does it hold"}]
    found = guard.score([*turns, {"role": "assistant", "content": "so"}])
    with guard.stream(turns) as stream:
        stream.push(guard.backbone.chat.encode_text("so"))
        assert stream.finish().score == pytest.approx(found.max_answer, abs=1e-4)


def test_a_bad_exchange_is_named_by_its_place() -> None:
    guard = make_guard(tiny_backbone("gemma2"))
    rows = [make_exchange(0), Exchange((Message("assistant", "private"),))]
    with pytest.raises(ExchangeError, match=r"exchange 101 \([0-9a-f]{16}\)") as caught:
        list(score_exchanges(guard.backbone, [guard.stages], rows, first_number=100))
    assert "private" not in str(caught.value)


def test_load_is_the_library_entry(tmp_path, saved_backbone) -> None:
    make_guard().save(tmp_path / "guard")
    guard = lockgate.load(tmp_path / "guard", backbone=saved_backbone("llama"))
    expected = make_guard().score(PROMPT).max_score
    assert guard.score(PROMPT).max_score == pytest.approx(expected, abs=1e-4)
