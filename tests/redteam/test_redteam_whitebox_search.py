"""Searches with known answers, budgets, resuming, and what found words do to other guards."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from models import tiny_backbone, tiny_model, tiny_tokenizer
from parts import make_guard
from whitebox_guards import ask, guard_of

from lockgate.backbones import Backbone, Feed, SessionPool
from lockgate.cascade import Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.errors import ConfigError, RedTeamError
from lockgate.exchanges import Exchange
from lockgate.guards import Guard
from lockgate.redteam.whitebox import AttackOptions, Found, attack_guard, exchange_of, transfer
from lockgate.redteam.whitebox import _attack as attack_module
from lockgate.redteam.whitebox._layout import fill, word_tokens

SMALL = AttackOptions(suffix=3, steps=3, batch=6, topk=8, beyond=1000.0)


def linear_guard() -> Guard:
    """A guard whose logit of a token is linear in the token's embedding: attention and MLP give nothing."""
    model = tiny_model()
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    backbone = Backbone(model, tiny_tokenizer(), name="linear")
    made = make_guard(backbone, flag=-100.0, flag_on="answer")
    weights = torch.randn(1, 1, backbone.hidden_size, generator=torch.Generator().manual_seed(3))
    head = ProbeHead((0,), "residual", weights, torch.zeros(1), 0.05)
    return Guard.create(
        name="linear",
        backbone=backbone,
        constitution=made.constitution,
        constitution_yaml=made._bundle.constitution_yaml,
        head=head,
        thresholds=Thresholds(-100.0, 1e-3, 16, "answer"),
    )


def logits_of(guard: Guard, tokens) -> torch.Tensor:
    embedded = guard.backbone.model.get_input_embeddings()(torch.tensor(tokens))
    return embedded.detach() @ guard.head.weights[0, 0]


def text_of(query, found: Found):
    return fill(exchange_of(query), found.slots, found.words)


def test_the_best_word_is_found_where_it_is_known() -> None:
    guard = linear_guard()
    allowed = word_tokens(guard.backbone)
    best = guard.backbone.decode([allowed[int(logits_of(guard, allowed).argmin())]])
    options = replace(SMALL, steps=12, topk=1, batch=8)
    (found,) = attack_guard(guard, [ask()], options)
    assert found.words == (best * 3,)


def test_one_word_is_as_good_as_the_best_of_all() -> None:
    guard = guard_of("panel", flag=-9.0)
    backbone = guard.backbone
    options = replace(SMALL, suffix=1, topk=999, batch=100, swaps=1, steps=1)
    (found,) = attack_guard(guard, [ask()], options)
    every = [fill(exchange_of(ask()), found.slots, [backbone.decode([t])]) for t in word_tokens(backbone)]
    lowest = min(score.mixed_max for score in guard.score_many(map(Exchange, every)))
    assert found.caught
    assert found.scores[-1] == pytest.approx(lowest, abs=1e-3)


def test_embeddings_reach_the_bound_of_their_ball() -> None:
    """In the linear guard the lowest margin within a ball has a formula."""
    guard = linear_guard()
    options = replace(SMALL, space="embeddings", epsilon=0.5, rate=0.2, steps=40, temperature=0.01)
    (found,) = attack_guard(guard, [ask()], options)
    (words,) = attack_guard(guard, [ask()], replace(SMALL, steps=0))
    chat = guard.backbone.render(text_of(ask(), words))
    own = guard.backbone.chat.encode_text(words.words[0])
    start = next(p for p in range(len(chat.token_ids)) if chat.token_ids[p : p + 3] == own)
    radius = 0.5 * float(
        guard.backbone.model.get_input_embeddings()(torch.tensor(own)).norm(dim=1).mean().detach()
    )
    logits = logits_of(guard, chat.token_ids[chat.prefix_length : chat.answer_end]).double()
    for place in range(start, start + 3):
        logits[place - chat.prefix_length] -= radius * float(guard.head.weights.norm())
    smoothed, sums, weight = [], 0.0, 0.0
    for logit in logits.tolist():
        sums, weight = 0.95 * sums + 0.05 * logit, 0.95 * weight + 0.05
        smoothed.append(sums / weight)
    bound = max(smoothed[chat.answer_start - chat.prefix_length :])
    assert bound - 1e-3 <= found.scores[-1] <= bound + 0.02 * abs(words.scores[-1] - bound)
    assert found.scores[-1] < words.scores[-1]
    assert (found.words, found.confirmed) == ((), None)


@pytest.mark.parametrize("kind", ["one", "verdict", "value", "text", "panel"])
def test_the_margin_falls_and_the_own_text_stays(kind) -> None:
    guard = guard_of(kind, flag=-9.0)
    for target in ("guard", "probe", *(["classifier"] if kind in ("verdict", "panel") else [])):
        options = replace(SMALL, target=target, filler=2, limit=-99.0)
        (found,) = attack_guard(guard, [ask()], options)
        assert found.caught
        assert found.confirmed
        assert found.margins[-1] < found.margins[0]
        assert all(after <= before for before, after in itertools.pairwise(found.margins))
        sent = text_of(ask(), found)
        for message, own in zip(sent, exchange_of(ask()), strict=True):
            content = message.content
            for text in found.words:
                content = content.replace(text, "", 1)
            assert content == own.content
        if target == "guard":
            assert guard.score(sent).mixed_max == pytest.approx(found.scores[-1], abs=1e-3)


@pytest.mark.parametrize("space", ["tokens", "embeddings"])
def test_the_same_seed_finds_the_same(space) -> None:
    guard = guard_of("text")
    options = replace(SMALL, space=space)
    first, second, other = (
        attack_guard(guard, [ask()], one)[0] for one in (options, options, replace(options, seed=1))
    )
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert first.margins != other.margins


def test_budgets_are_kept() -> None:
    guard = guard_of("one", flag=-99.0)
    (found,) = attack_guard(guard, [ask()], SMALL)
    assert found.steps == 3
    assert len(found.margins) == len(found.scores) == len(found.nats) == 4
    # The initial words, and for each step one pass with gradients and a batch.
    assert 1 < found.evaluations <= 1 + 3 * (1 + 6)
    (free,) = attack_guard(guard, [ask()], replace(SMALL, space="embeddings"))
    assert (free.steps, free.evaluations) == (3, 4)
    (late,) = attack_guard(guard, [ask()], replace(SMALL, seconds=1e-9))
    assert (late.steps, late.evaluations, late.success) == (0, 1, False)


def test_it_stops_at_success_and_the_guard_agrees() -> None:
    guard = guard_of("one", flag=-99.0, flag_on="answer")
    options = replace(SMALL, steps=8, batch=12)
    (seen,) = attack_guard(guard, [ask()], options)
    # A threshold that is passed somewhere on the way, but neither by the plain exchange nor at the start.
    above = min(seen.scores[0], guard.score(exchange_of(ask())).mixed_max)
    limit = (above + seen.scores[-1]) / 2
    assert seen.scores[-1] < above
    lower = guard_of("one", flag=limit, flag_on="answer")
    (found,) = attack_guard(lower, [ask()], replace(options, beyond=0.0))
    assert (found.caught, found.success, found.confirmed) == (True, True, True)
    assert 0 < found.steps <= 8
    assert found.margins[-1] <= 0 < found.margins[-2]
    assert 0 < found.seconds_to_success <= found.seconds
    assert not lower.score(text_of(ask(), found)).flagged


def test_what_is_not_caught_is_not_attacked() -> None:
    (found,) = attack_guard(guard_of("one", flag=1e6), [ask()], SMALL)
    assert (found.caught, found.success) == (False, False)
    assert (found.steps, found.evaluations, found.words, found.confirmed) == (0, 0, (), None)


def test_fluent_words_cost_less_and_the_price_is_right() -> None:
    guard = guard_of("one", flag=-99.0)
    options = replace(SMALL, steps=10, batch=16, topk=12)
    (free,), (fluent,) = (attack_guard(guard, [ask()], replace(options, fluency=f)) for f in (0.0, 100.0))
    assert free.nats[0] == fluent.nats[0]
    assert fluent.nats[-1] < free.nats[-1]
    assert all(after <= before for before, after in itertools.pairwise(fluent.nats))
    assert fluent.margins[-1] > free.margins[-1]
    sent = text_of(ask(), fluent)
    assert fluent.nats[-1] == pytest.approx(price(guard.backbone, sent, fluent.words[0]), rel=1e-4)


def price(backbone: Backbone, messages, words: str) -> float:
    """Mean -log p of words, read as the server reads."""
    ids, own = backbone.render(messages).token_ids, backbone.chat.encode_text(words)
    start = next(place for place in range(len(ids)) if ids[place : place + len(own)] == own)
    with SessionPool(backbone, 512) as pool:
        (hidden,) = pool.read([Feed(pool.open(len(ids)), ids)])
        logs = backbone.next_token_logits(hidden).log_softmax(-1)
    return -sum(float(logs[start + n - 1, token]) for n, token in enumerate(own)) / len(own)


def test_an_interrupted_run_goes_on_with_the_next_query(tmp_path, monkeypatch) -> None:
    guard, queries, state = (
        guard_of("one"),
        [ask(number) for number in range(3)],
        tmp_path / "a" / "run.jsonl",
    )
    whole = attack_guard(guard, queries, SMALL)
    attack, asked = attack_module._attack, []

    def interrupted(guard, query, options):
        asked.append(query.id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return attack(guard, query, options)

    monkeypatch.setattr(attack_module, "_attack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attack_guard(guard, queries, SMALL, state=state)
    found = attack_guard(guard, queries, SMALL, state=state)
    assert asked == ["q0", "q1", "q1", "q2"]
    same = [(one.query, one.words, one.steps, one.success) for one in found]
    assert same == [(one.query, one.words, one.steps, one.success) for one in whole]
    assert [one.margins for one in found] == [one.margins for one in whole]
    assert attack_guard(guard, queries, SMALL, state=state) == found
    assert len(asked) == 4
    assert len(state.read_text().splitlines()) == 4


@pytest.mark.parametrize("change", ["options", "guard", "queries", "file", "line"])
def test_a_file_of_another_run_is_refused(change, tmp_path) -> None:
    state, guard, options, queries = tmp_path / "run.jsonl", guard_of("one"), SMALL, [ask()]
    attack_guard(guard, queries, options, state=state)
    if change == "options":
        options = replace(options, seed=1)
    elif change == "guard":
        guard = guard_of("one", seed=5)
    elif change == "queries":
        queries = [ask(), ask(1)]
    elif change == "file":
        state.write_text("{")
    else:
        state.write_text(state.read_text().replace('"plain"', '"plane"'))
    with pytest.raises(RedTeamError, match=r"run\.jsonl"):
        attack_guard(guard, queries, options, state=state)


def test_found_words_are_shown_to_other_guards(tmp_path) -> None:
    queries = [ask(0), ask(1)]
    found = attack_guard(guard_of("one", flag=-99.0), queries, SMALL)
    others = {
        "itself": guard_of("one", flag=-99.0),
        "other seed": guard_of("one", seed=5),
        "other model": guard_of("verdict", "gemma2"),
    }
    results = transfer(found, queries, others)
    assert [(one.guard, one.query) for one in results] == list(
        itertools.product(others, (query.id for query in queries))
    )
    for one, attack in zip(results[:2], found, strict=True):
        assert one.before == pytest.approx(attack.plain, abs=1e-3)
        assert one.after == pytest.approx(attack.margins[-1], abs=1e-3)
    for one in results:
        guard, query = others[one.guard], queries[int(one.query[1])]
        plain = guard.score(exchange_of(query))
        attacked = guard.score(text_of(query, found[int(one.query[1])]))
        assert one.caught == plain.flagged
        assert one.success == (plain.flagged and not attacked.flagged)
    with pytest.raises(RedTeamError, match="q1"):
        transfer(found, queries[:1], others)
    free = attack_guard(guard_of("one"), queries[:1], replace(SMALL, space="embeddings"))
    with pytest.raises(RedTeamError, match="in token space"):
        transfer(free, queries, others)


def test_a_record_is_json_and_tells_no_text_unless_asked() -> None:
    (found,) = attack_guard(guard_of("verdict", escalate=99.0), [ask()], SMALL)
    assert found.scores == (None,)  # stage 2 was never asked
    (found,) = attack_guard(guard_of("one"), [ask()], SMALL)
    content = json.loads(json.dumps(found.to_dict()))
    again = Found.from_dict(content)
    assert (again.words, again.slots, again.steps) == (found.words, found.slots, found.steps)
    assert json.loads(json.dumps(again.to_dict())) == content
    assert again == found
    numbers = found.to_dict(words=False)
    assert set(content) - set(numbers) == {"words", "slots"}
    texts = {key for key, value in numbers.items() if isinstance(value, str)}
    assert texts == {"query", "target", "space"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "text"},
        {"space": "pixels"},
        {"steps": -1},
        {"batch": 0},
        {"topk": 0},
        {"fluency": math.nan},
        {"temperature": 0.0},
        {"epsilon": -1.0},
        {"seconds": math.inf},
    ],
)
def test_wrong_options(wrong) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        AttackOptions(**wrong)


def test_an_exchange_of_too_many_tokens_is_refused() -> None:
    with pytest.raises(RedTeamError, match="at most 20"):
        attack_guard(guard_of("one"), [ask()], replace(SMALL, most_tokens=20))
    assert tiny_backbone().context_length == 512
