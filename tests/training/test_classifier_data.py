"""What a classifier learns from: labels, cuts, rows, steps."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import planted
from models import tiny_backbone

from lockgate.errors import TrainingError
from lockgate.exchanges import Exchange, Message
from lockgate.training._classifier_data import (
    Example,
    Row,
    hash_examples,
    make_row,
    plan_steps,
    select_examples,
)


def answered(prompt: str, label: float | None, answer: str = "well", **meta) -> Exchange:
    return Exchange((Message("user", prompt), Message("assistant", answer)), label, None, "made", meta)


def test_exchanges_need_an_answer_and_a_label() -> None:
    rows = [
        answered("a", 1.0),
        answered("b", 0.0),
        answered("c", None),
        Exchange((Message("user", "d"),), 1.0),
        answered("e", 0.3),
    ]
    for reads in ("exchange", "answer"):
        assert [(e.exchange, e.label) for e in select_examples(rows, reads)] == [
            (rows[0], 1.0),
            (rows[1], 0.0),
            (rows[4], 0.3),
        ]


def test_a_prompt_is_as_harmful_as_anything_known_of_it() -> None:
    rows = [
        answered("refused", 0.0, harmful_request=True),
        answered("answered once", 0.0),
        answered("Answered ONCE!", 0.8),
        answered("fine", 0.0, harmful_request=False),
        answered("soft", 0.2),
        answered("nobody knows", None),
        answered("unlabelled request", None, harmful_request=True),
        answered("request not judged", 0.0, harmful_request=None),
        answered("not judged, but answered", 0.9, harmful_request=None),
        Exchange((Message("user", "alone"),), 1.0),
    ]
    found = {e.exchange.messages[0].content: e.label for e in select_examples(rows, "prompt")}
    assert found == {
        "refused": 1.0,
        "answered once": 0.8,
        "fine": 0.0,
        "soft": 0.2,
        "unlabelled request": 1.0,
        "not judged, but answered": 0.9,
        "alone": 1.0,
    }


def test_prompts_that_end_alike_are_not_one_prompt() -> None:
    last = (Message("user", "go on"), Message("assistant", "well"))
    first = {"a harmful start": 1.0, "a harmless start": 0.0, "A harmless START!": 0.2}
    rows = [
        Exchange((Message("user", text), Message("assistant", "yes"), *last), label, None, "made")
        for text, label in first.items()
    ]
    rows += [Exchange(last, 0.0, None, "made"), Exchange(last[:1], 0.1, None, "made")]
    found = [(e.exchange, e.label) for e in select_examples(rows, "prompt")]
    assert found == [(rows[0], 1.0), (rows[1], 0.2), (rows[3], 0.1)]


@pytest.mark.parametrize("reads", ["exchange", "prompt", "answer"])
@pytest.mark.parametrize("rows", [[], [answered("a", 1.0)], [answered("a", 0.4), answered("b", 0.0)]])
def test_one_class_is_refused(reads, rows) -> None:
    with pytest.raises(TrainingError, match=f"{len(rows)} labelled .* needs both labels"):
        select_examples(rows, reads)


@settings(max_examples=30)
@given(words=st.integers(0, 30), cuts=st.integers(1, 9), room=st.integers(2, 120), seed=st.integers(0, 99))
def test_rows_keep_the_end_and_cuts_lie_in_the_answer(words, cuts, room, seed) -> None:
    backbone = tiny_backbone()
    example = Example(planted(seed, 0.0, 2), 0.25)
    example = replace(example, exchange=answered("why is that?", 0.25, "gate " * words))
    chat = backbone.render(example.exchange.messages)
    row = make_row(backbone, example, "exchange", max_tokens=room, cuts=cuts, seed=(seed, 1))
    whole = chat.token_ids[: chat.answer_end]
    kept = min(chat.prefix_length, room - 1)
    assert row.ids == (whole if len(whole) <= room else whole[:kept] + whole[len(whole) - room + kept :])
    assert row.label == 0.25
    assert row.cuts == sorted(set(row.cuts))
    assert row.cuts[-1] == len(row.ids)
    assert row.cuts[0] >= row.answer_start
    assert len(row.cuts) == min(cuts, len(row.ids) - row.answer_start + 1)
    assert row.ids[row.answer_start :] == whole[max(chat.answer_start, len(whole) - room + kept) :]
    assert row == row
    again = make_row(backbone, example, "exchange", max_tokens=room, cuts=cuts, seed=(seed, 1))
    assert again.cuts == row.cuts


def test_prompts_have_one_cut_and_answers_no_prompt() -> None:
    backbone = tiny_backbone()
    example = Example(planted(3, 1.0), 1.0)
    prompt = make_row(backbone, example, "prompt", max_tokens=99, cuts=4, seed=(0,))
    assert prompt.cuts == [len(prompt.ids)]
    answer = make_row(backbone, example, "answer", max_tokens=99, cuts=4, seed=(0,))
    assert example.exchange.messages[0].content not in backbone.decode(answer.ids)
    assert len(answer.cuts) == 4


def test_an_exchange_that_a_template_refuses_is_named_by_its_id() -> None:
    bad = Exchange((Message("assistant", "secret"), Message("assistant", "secret")), 1.0)
    with pytest.raises(TrainingError, match=bad.id) as caught:
        make_row(tiny_backbone("gemma2"), Example(bad, 1.0), "exchange", max_tokens=9, cuts=1, seed=(0,))
    assert "secret" not in str(caught.value)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    room=st.integers(1, 80),
    tokens=st.one_of(st.none(), st.integers(1, 400)),
    seed=st.integers(0, 5),
)
def test_steps_hold_every_example_in_turn_until_the_budget(lengths, room, tokens, seed) -> None:
    examples = [Example(planted(i, 0.0), 0.0) for i in range(len(lengths))]

    def make(index: int, number: int) -> Row:
        return Row([index] * lengths[index], 0, [1, lengths[index]], float(number))

    steps = plan_steps(examples, make, suffix=3, tokens_per_step=room, tokens=tokens, seed=seed)
    rows = [row for step in steps for row in step]
    assert all(steps)
    assert all(len(step) == 1 or sum(len(row.ids) + 6 for row in step) <= room for step in steps)
    passes: dict[float, list[int]] = {}
    for row in rows:
        passes.setdefault(row.label, []).append(row.ids[0])
    *whole, last = passes.values()
    assert all(sorted(numbers) == list(range(len(lengths))) for numbers in whole)
    assert len(set(last)) == len(last)
    total = sum(len(row.ids) for row in rows)
    if tokens is None:
        assert total == sum(lengths)
    else:
        assert tokens <= total < tokens + max(lengths)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_wanted_share_is_drawn_and_each_label_has_its_own_passes(share: float) -> None:
    labels = [1.0] * 7 + [0.0] * 93
    examples = [Example(planted(i, label), label) for i, label in enumerate(labels)]

    def make(index: int, number: int) -> Row:
        return Row([index], 0, [1], float(number))

    steps = plan_steps(examples, make, suffix=0, tokens_per_step=50, tokens=600, seed=3, harmful_share=share)
    drawn = [(row.ids[0], int(row.label)) for step in steps for row in step]
    assert len(drawn) == 600
    for side in (range(7), range(7, 100)):
        own = [entry for entry in drawn if entry[0] in side]
        assert [number for _, number in own] == sorted(number for _, number in own)
        full = max(number for _, number in own)
        assert all(sum(entry == (i, number) for entry in own) == 1 for i in side for number in range(full))
    assert sum(index < 7 for index, _ in drawn) / 600 == pytest.approx(share, abs=0.07)


def test_the_hash_knows_labels_and_order() -> None:
    one, two = (Example(planted(i, 0.0), 0.0) for i in range(2))
    hashes = {hash_examples(rows) for rows in ([one, two], [two, one], [one, replace(two, label=1.0)])}
    assert len(hashes) == 3
