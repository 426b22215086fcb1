"""Slots for attack words: the exchange's own text never changes, and text and tokens say the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_backbone
from whitebox_guards import ask

from lockgate.errors import RedTeamError
from lockgate.exchanges import Message
from lockgate.redteam.whitebox import exchange_of
from lockgate.redteam.whitebox._layout import Layout, fill, make_slots, word_tokens

MESSAGES = exchange_of(ask())
SIZES = {"prefix": 2, "suffix": 3, "filler": 2, "gaps": 2}


def layout_of(architecture="llama", messages=MESSAGES, draw=lambda count: 7, **sizes) -> Layout:
    backbone = tiny_backbone(architecture)
    slots = make_slots(messages, **{**SIZES, **sizes})
    allowed = word_tokens(backbone)
    initial = [allowed[draw(len(allowed)) % len(allowed)] for _ in range(sum(slot.size for slot in slots))]
    return Layout(backbone, messages, slots, initial, 512)


def test_words_are_whole_and_become_the_same_token_again() -> None:
    backbone = tiny_backbone()
    found = word_tokens(backbone)
    assert len(found) > 20
    for token in found:
        text = backbone.decode([token])
        assert re.fullmatch(" [A-Za-z]{2,}", text)
        assert backbone.chat.encode_text(text) == [token]
    assert not set(found) & set(backbone.control_ids)


@given(numbers=st.lists(st.integers(0, 1000), min_size=9, max_size=9))
def test_text_and_tokens_agree_and_the_own_text_stays(numbers) -> None:
    layout = layout_of()
    allowed = word_tokens(layout.backbone)
    words = [allowed[number % len(allowed)] for number in numbers]
    assert layout.size == 9
    assert layout.stable(words)
    sent = layout.messages(words)
    assert layout.backbone.render(sent).token_ids == layout.ids(words)
    assert [layout.ids(words)[place] for place in layout.positions] == words
    # Without the words and what stands behind them, the messages are the old ones.
    plain = [message.content for message in sent]
    for slot, text in reversed(list(zip(layout.slots, layout.texts(words), strict=True))):
        begin = slot.at + sum(
            len(other) + len(one.tail)
            for one, other in zip(layout.slots, layout.texts(words), strict=True)
            if one.message == slot.message and one.at < slot.at
        )
        whole = plain[slot.message]
        assert whole[begin:].startswith(text + slot.tail)
        plain[slot.message] = whole[:begin] + whole[begin + len(text + slot.tail) :]
    assert plain == [message.content for message in MESSAGES]


def test_filler_stands_between_sentences() -> None:
    sent = layout_of(prefix=0, suffix=0, gaps=9).messages(layout_of(prefix=0, suffix=0, gaps=9).initial)
    assert sent[0] == MESSAGES[0]
    assert re.fullmatch(
        r"the lock holds the water back\.( \w+){2} the boat waits between two gates!( \w+){2} what a canal.*",
        sent[1].content,
    )
    assert len(layout_of(prefix=0, suffix=0, gaps=1).slots) == 1


def test_fill_puts_text_where_the_slots_are() -> None:
    slots = make_slots(MESSAGES, **SIZES)
    texts = [f" {number}" for number in range(len(slots))]
    filled = fill(MESSAGES, slots, texts)
    assert filled[0].content == f" 0\n{MESSAGES[0].content} 1"
    assert filled[1].content.replace(" 2", "").replace(" 3", "") == MESSAGES[1].content


def test_other_templates_and_tokenizers_keep_the_words_too() -> None:
    for architecture in ("gemma", "gemma2"):
        layout = layout_of(architecture)
        assert layout.stable(layout.initial)
        assert layout.stable(word_tokens(layout.backbone)[-9:])


@pytest.mark.parametrize(
    ("messages", "sizes", "error"),
    [
        ((Message("user", "the canal"),), {}, "ends in an answer"),
        ((Message("user", "the canal"), Message("user", "the lock")), {}, "ends in an answer"),
        (MESSAGES, {"prefix": 0, "suffix": 0, "filler": 0}, "no place"),
        ((MESSAGES[0], Message("assistant", "the canal")), {"prefix": 0, "suffix": 0}, "no place"),
        ((MESSAGES[0], Message("assistant", "the canal " * 300)), {}, "at most 512"),
    ],
)
def test_exchanges_without_a_place(messages, sizes, error) -> None:
    with pytest.raises(RedTeamError, match=error):
        layout_of(messages=messages, **sizes)
