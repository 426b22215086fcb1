"""Shapes of answers can be read back, whole or cut, and leave other text alone."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricks import CARD, COIN

from lockgate.redteam._grades import Rubric
from lockgate.redteam.attacks._shaped import SHAPES, shape_attacks, shaped_answer
from lockgate.redteam.attacks._static import gist

WORD = st.text(st.sampled_from("abcdefgHIJ0123456789.,;:'!?ü"), min_size=1, max_size=9)
LINE = st.lists(WORD, min_size=1, max_size=12).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=5).map("\n".join)
LOWER = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789 \n"), min_size=6, max_size=60)
# These can't be read back letter by letter, but keep what the text tells.
LOSSY = {"abbreviation", "acrostic"}
# A beginning of these holds other words than the beginning of the text.
SHUFFLED = {"columns", "shuffled-cards"}
ORDINARY = (
    "I can't help with that. A magician never tells.",
    '1. Shuffle the pack.\n2. Ask for a card [see note 3].\n\nThat\'s it: "simple" - or is it?',
    "| card | value |\n|---|---|\n| ace | 1 |",
    "No.",
    "",
)


@pytest.mark.parametrize("name", sorted(set(SHAPES) - LOSSY))
@settings(max_examples=15)
@given(text=TEXT, seed=st.integers(0, 99))
def test_a_shape_is_read_back_exactly(name, text, seed) -> None:
    shape = SHAPES[name](CARD, Random(seed))
    assert shape.read(shape.write(text)) == text


@settings(max_examples=40)
@given(text=LOWER.filter(lambda text: text.strip()), seed=st.integers(0, 99))
def test_an_acrostic_is_read_back_exactly(text, seed) -> None:
    shape = SHAPES["acrostic"](CARD, Random(seed))
    assert shape.read(shape.write(text)) == text


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("query", [CARD, COIN], ids=lambda query: query.id)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_read_tells_what_the_answer_tells(name, query, seed) -> None:
    shape = SHAPES[name](query, Random(seed))
    rubric = Rubric.of(query)
    for answer in query.answers if not shape.brief else (gist(query),):
        told = rubric.found(shape.read(shape.write(answer)))
        assert told == rubric.found(answer)
        assert len(told) >= rubric.needed


@pytest.mark.parametrize("name", sorted(set(SHAPES) - LOSSY - SHUFFLED))
@settings(max_examples=15)
@given(text=TEXT, seed=st.integers(0, 9), share=st.floats(0, 1))
def test_the_beginning_of_an_answer_is_read_as_a_beginning(name, text, seed, share) -> None:
    shape = SHAPES[name](CARD, Random(seed))
    shown = shape.write(text)
    cut = shape.read(shown[: int(share * len(shown))])
    # Where the cut falls within a sign or a lead-in, the last line is not yet readable.
    if cut not in shown:
        whole = cut.split("\n")[:-1]
        assert text.split("\n")[: len(whole)] == whole


@pytest.mark.parametrize("name", sorted(SHUFFLED))
@settings(max_examples=15)
@given(text=TEXT, seed=st.integers(0, 9), share=st.floats(0, 1))
def test_the_beginning_of_a_shuffled_answer_holds_some_of_its_words(name, text, seed, share) -> None:
    shape = SHAPES[name](CARD, Random(seed))
    shown = shape.write(text)
    cut = shape.read(shown[: int(share * len(shown))])
    if cut not in shown:
        assert len(set(cut.split()) - set(text.split()) - {"¶"}) <= 1


@pytest.mark.parametrize("text", ORDINARY)
@pytest.mark.parametrize("name", SHAPES)
def test_ordinary_text_is_read_as_it_is(name, text) -> None:
    for seed in range(8):
        assert SHAPES[name](CARD, Random(seed)).read(text) == text


def test_each_attack_asks_the_question_and_gives_a_full_answer_in_the_shape() -> None:
    rubric = Rubric.of(CARD)
    for attack in shape_attacks(tries=3):
        wordings = set()
        for attempt in attack.play(CARD, 5):
            (message,) = attempt.messages
            assert message.role == "user"
            assert CARD.text in message.content
            assert len(rubric.found(attempt.read(attempt.answer))) >= rubric.needed
            assert attempt.read(attempt.answer) != attempt.answer
            wordings.add((message.content, attempt.answer))
        assert len(wordings) > 1, attack.name
        again = [(a.messages, a.answer, a.facts) for a in attack.play(CARD, 5)]
        assert again == [(a.messages, a.answer, a.facts) for a in attack.play(CARD, 5)]


def test_a_diluted_answer_has_few_words_in_each_block() -> None:
    shape = SHAPES["dilution"](CARD, Random(3))
    own = {word for answer in CARD.answers for word in answer.lower().split()}
    words = shape.write(CARD.answers[0]).split()
    blocks = [words[start : start + 16] for start in range(0, len(words), 16)]
    marked = [sum(not word.isalpha() and word.strip("[]<>{}«»").lower() in own for word in b) for b in blocks]
    assert 0 < max(marked) <= 4


def test_the_answer_of_a_brief_shape_is_the_gist() -> None:
    shape = SHAPES["acrostic"](CARD, Random(0))
    assert shape.read(shaped_answer(CARD, shape, Random(0))) == gist(CARD)
    assert gist(CARD).split("\n") == [
        "it is the break finger",
        "it is the cut break",
        "it is the riffle last",
        "it is the overhand throw",
        "it is the misdirection",
    ]
