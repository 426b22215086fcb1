"""A guard as a function of embeddings: the same numbers as the guard's own, and the right gradients."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whitebox_guards import CASCADE, ask, guard_of

from lockgate.cascade import Cascade, simulate
from lockgate.errors import RedTeamError
from lockgate.exchanges import Exchange, Message
from lockgate.redteam.whitebox import AttackOptions, exchange_of
from lockgate.redteam.whitebox._layout import Layout, make_slots, word_tokens
from lockgate.redteam.whitebox._view import GuardView

KINDS = ("one", "verdict", "value", "text", "panel")


def view_of(guard, messages, **options) -> GuardView:
    slots = make_slots(messages, prefix=0, suffix=3, filler=2, gaps=2)
    allowed = word_tokens(guard.backbone)
    initial = [allowed[number % len(allowed)] for number in range(sum(slot.size for slot in slots))]
    return GuardView(guard, Layout(guard.backbone, messages, slots, initial, 512), AttackOptions(**options))


def read(view):
    layout = view.layout
    texts = [layout.messages(layout.initial)]
    with torch.no_grad():
        return view.read(view.probe.embed([layout.chat.token_ids]), texts), texts[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flag_on", ["answer", "both"])
def test_the_score_is_the_guards_own(kind, flag_on) -> None:
    guard = guard_of(kind, flag_on=flag_on)
    view = view_of(guard, exchange_of(ask()))
    reading, messages = read(view)
    score = guard.score(messages)
    assert float(reading.score) == pytest.approx(score.mixed_max, abs=1e-4)
    assert (float(reading.margin) > 0) == score.flagged
    assert math.isfinite(score.mixed_max)


@pytest.mark.parametrize("architecture", ["qwen2_sliding", "gemma2", "gemma3"])
def test_the_score_is_the_guards_own_for_other_models(architecture) -> None:
    guard = guard_of("verdict", architecture)
    reading, messages = read(view_of(guard, exchange_of(ask())))
    assert float(reading.score) == pytest.approx(guard.score(messages).mixed_max, abs=1e-3)


def test_a_probe_alone_is_the_guards_screen() -> None:
    guard = guard_of("panel")
    reading, messages = read(view_of(guard, exchange_of(ask()), target="probe"))
    (screened,) = guard.score_many([Exchange(messages)], screen=True)
    assert float(reading.score) == pytest.approx(screened.mixed_max, abs=1e-4)
    assert (float(reading.margin) > 0) == screened.flagged


def test_a_classifier_alone_is_its_largest_verdict() -> None:
    guard = guard_of("panel", flag_on="answer")
    reading, messages = read(view_of(guard, exchange_of(ask()), target="classifier", limit=0.3))
    score = next(guard.score_many([Exchange(messages)], all_blocks=True))
    largest = max(score.voices["classifier"][1:])
    assert float(reading.score) == pytest.approx(largest, abs=1e-4)
    assert float(reading.margin) == pytest.approx(largest - 0.3, abs=1e-4)


def test_an_exchange_shorter_than_the_first_tokens_is_judged_at_its_end() -> None:
    messages = (Message("user", "the canal"), Message("assistant", "the lock. the boat"))
    for kind in ("one", "panel"):
        guard = guard_of(kind, min_tokens=200, **({} if kind == "one" else {"escalate": -99.0}))
        reading, sent = read(view_of(guard, messages))
        assert float(reading.score) == pytest.approx(guard.score(sent).mixed_max, abs=1e-4)


@given(
    seed=st.integers(0, 10_000),
    escalate=st.floats(-2, 2),
    flag=st.floats(-2, 2),
    weight=st.floats(0, 1),
    drift=st.floats(0, 1),
    calm=st.integers(1, 3),
    flag_on=st.sampled_from(["answer", "both"]),
)
@settings(max_examples=40)
def test_the_margin_says_what_the_cascade_does(seed, escalate, flag, weight, drift, calm, flag_on) -> None:
    """Against the state machine that serves, on traces of random numbers."""
    view = panel_view(flag_on)
    cascade = Cascade(escalate, flag, weight, 0.1, 0.9, stride=4, calm_blocks=calm, drift=drift)
    generator = torch.Generator().manual_seed(seed)
    smoothed = torch.randn(1, len(view._counts), generator=generator, dtype=torch.float64) * 1.5
    verdicts = torch.randn(1, len(view._ends), generator=generator, dtype=torch.float64)
    margin, score = view._decide(cascade, smoothed, verdicts, soft=False)
    probe = [
        max(smoothed[0, view._counts & (view._blocks == number)].tolist(), default=math.nan)
        for number in range(len(view._ends))
    ]
    outcome = simulate(probe, verdicts[0].tolist(), cascade, flag_on=flag_on)
    assert float(score) == pytest.approx(outcome.mixed_max)
    assert (float(margin) > 0) == outcome.flagged


@cache
def panel_view(flag_on) -> GuardView:
    return view_of(guard_of("panel", flag_on=flag_on), exchange_of(ask()))


@pytest.mark.parametrize(
    ("kind", "target"),
    [("one", "guard"), ("panel", "guard"), ("panel", "probe"), ("panel", "classifier"), ("value", "guard")],
)
def test_gradients_agree_with_differences(kind, target) -> None:
    guard = guard_of(kind)
    view = view_of(guard, exchange_of(ask()), target=target, temperature=0.5)
    embeds = view.probe.embed([view.layout.chat.token_ids]).detach().requires_grad_()
    texts = [view.layout.messages(view.layout.initial)]
    (gradient,) = torch.autograd.grad(view.read(embeds, texts).soft[0], embeds)
    places = list(view.layout.positions)
    assert float(gradient[0, places].norm()) > 1e-3
    direction = torch.zeros_like(gradient)
    direction[0, places] = gradient[0, places] / gradient[0, places].norm()
    step = 2e-3
    with torch.no_grad():
        up, down = (view.read(embeds + sign * step * direction, texts).soft[0] for sign in (1, -1))
    assert float(up - down) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=0.03)


def test_the_soft_margin_lies_above_the_margin_and_comes_close() -> None:
    guard, messages = guard_of("one"), exchange_of(ask())
    readings = [read(view_of(guard, messages, temperature=one))[0] for one in (30.0, 3.0, 0.01)]
    gaps = [float(reading.soft - reading.margin) for reading in readings]
    assert gaps[0] > gaps[1] > gaps[2] >= 0
    assert gaps[2] < 0.01


def test_exchanges_side_by_side_read_like_one_alone() -> None:
    view = view_of(guard_of("panel"), exchange_of(ask()))
    layout, allowed = view.layout, word_tokens(view.layout.backbone)
    choices = [layout.initial, tuple(allowed[-3:] + allowed[:4])]
    texts = [layout.messages(words) for words in choices]
    with torch.no_grad():
        both = view.read(view.probe.embed([layout.ids(words) for words in choices]), texts)
        for row, words in enumerate(choices):
            alone = view.read(view.probe.embed([layout.ids(words)]), texts[row : row + 1])
            assert float(both.margin[row]) == pytest.approx(float(alone.margin), abs=1e-4)
            assert torch.allclose(both.log_probs[row], alone.log_probs[0], atol=1e-4)


def test_the_guard_itself_is_left_as_it_was() -> None:
    guard = guard_of("panel")
    before = guard.score(exchange_of(ask())).mixed_max
    view = view_of(guard, exchange_of(ask()))
    embeds = view.probe.embed([view.layout.chat.token_ids]).detach().requires_grad_()
    texts = [view.layout.messages(view.layout.initial)]
    torch.autograd.grad(view.read(embeds, texts).soft[0], embeds)
    assert guard.backbone.tap is None or guard.backbone.tap is not view.probe.tap
    assert all(parameter.grad is None for parameter in guard.backbone.model.parameters())
    assert guard.score(exchange_of(ask())).mixed_max == before


def test_a_guard_without_a_classifier_has_none_to_attack() -> None:
    with pytest.raises(RedTeamError, match="no exchange classifier"):
        view_of(guard_of("text"), exchange_of(ask()), target="classifier")


def test_the_cascade_of_these_tests_is_one_that_escalates() -> None:
    guard = guard_of("panel")
    assert guard.score(exchange_of(ask())).stage == 2
    assert guard.cascade == CASCADE
