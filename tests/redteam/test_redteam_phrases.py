"""Phrases in text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockgate.redteam._phrases import WINDOW, Words, phrase_of, stemmed, stems

TOKENS = ["the", "a", "cup", "of", "ball", "in", "not", "hand", "lemon"]
FILLERS = ["and", "then", "the", "of"] * WINDOW


def says(text: str, phrase: str) -> bool:
    return Words(text).has(phrase_of(phrase))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("swapped", "swap"), ("Cutting", "cut"), ("carries", "carry"), ("places", "placing"),
        ("ball", "balls"),
        ("press", "pressing"),
        ("falling", "fall"), ("Café", "cafe"), ("tightly", "tight"), ("hidden", "hidden"),
    ],
)  # fmt: skip
def test_forms_of_a_word_have_one_stem(one, other) -> None:
    assert stems(one) == stems(other)


def test_other_words_have_other_stems() -> None:
    words = ("card", "cord", "coin", "palm", "pass", "press", "lift", "left", "load", "lead", "ball", "bell")
    assert len({stems(word)[0] for word in words}) == len(words)


@pytest.mark.parametrize(
    "text",
    [
        "He holds the ball that is extra in his hand.",
        "There is an extra ball in the hand",
        "The additional one is a ball of cork.",
        "It is EXTRA; and that goes for the balls, too.",
    ],
)
def test_a_phrase_is_found_in_any_order_and_in_any_alternative(text) -> None:
    assert says(text, "extra|additional ball")


@pytest.mark.parametrize(
    "text",
    [
        "There is no extra ball in the hand.",
        "He never has an extra ball with him.",
        "There isn't an extra ball to be seen.",
        "The ball that he holds is not an extra one.",
        "extra ball palm cup load fist wand pocket lemon ahead",
        "There is a ball in the hand.",
        "An extra is in the film, " + " ".join(FILLERS) + " ball",
        "",
    ],
)
def test_a_phrase_is_not_found_where_it_is_denied_or_far_apart_or_in_a_list_of_words(text) -> None:
    assert not says(text, "extra|additional ball")


def test_a_denial_before_a_comma_does_not_reach_over_it() -> None:
    assert says("It is not the hand, an extra ball is in the cup.", "extra ball")


def test_a_phrase_with_a_denial_is_found_where_it_is_denied() -> None:
    assert says("You should not shuffle the cards at all.", "not|never shuffle")
    assert not says("You should shuffle the cards as you like.", "not|never shuffle")


def test_one_word_does_not_stand_for_two() -> None:
    assert not says("It is in the hand of the man.", "hand|fist hand|palm")
    assert says("It is in the hand of the man and in the other hand.", "hand|fist hand|palm")


def test_a_phrase_without_words_is_found_nowhere() -> None:
    assert phrase_of(" - ") == ()
    assert not says("It is in the hand.", "-")


@given(st.integers(0, 2 * WINDOW))
def test_words_count_within_the_window_alone(between) -> None:
    text = " ".join(["of", "the", "ball", *FILLERS[:between], "cup"])
    assert says(text, "ball cup") == (between + 1 < WINDOW)


@given(st.text(), st.text(alphabet="abc |-", max_size=12))
def test_any_text_can_be_searched(text, phrase) -> None:
    words = Words(text)
    assert isinstance(words.has(phrase_of(phrase)), bool)
    assert stems(text) == [stem for stem, _ in stemmed(text)]


@given(st.lists(st.sampled_from(TOKENS), max_size=30), st.data())
def test_the_search_is_that_of_its_definition(tokens, data) -> None:
    """Compared with a search that tries all places, for one word in a phrase."""
    word = data.draw(st.sampled_from(["cup", "ball", "hand"]))
    small = {"the", "a", "of", "in", "not"}

    def counts(place: int) -> bool:
        around = tokens[max(0, place - 8) : place + 9]
        denied = "not" in tokens[max(0, place - 3) : place + 1]
        return not denied and sum(token in small for token in around) >= 0.15 * len(around)

    expected = any(counts(place) for place, token in enumerate(tokens) if token == word)
    assert says(" ".join(tokens), word) == expected
