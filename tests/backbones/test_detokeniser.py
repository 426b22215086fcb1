"""Text from tokens that arrive one by one: whole characters, and all of them in the end."""

from hypothesis import given
from hypothesis import strategies as st
from models import tiny_tokenizer

from lockgate.backbones._vocabulary import REPLACEMENT, Detokeniser

WORDS = st.text(alphabet="abAB é水🚤 .", max_size=40)


def decode(ids):
    return tiny_tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def encode(text):
    return tiny_tokenizer().encode(text, add_special_tokens=False)


@given(WORDS)
def test_pieces_make_up_the_text_and_hold_no_half_characters(text):
    detokeniser = Detokeniser(decode)
    pieces = [detokeniser.push(token) for token in encode(text)]
    assert all(REPLACEMENT not in piece for piece in pieces)
    assert "".join(pieces) + detokeniser.finish() == text


def test_a_long_stream_keeps_only_a_window():
    text = "the boat 水門 " * 200
    detokeniser = Detokeniser(decode)
    assert "".join(detokeniser.push(token) for token in encode(text)) + detokeniser.finish() == text
    assert len(detokeniser._ids) < 200


def test_malformed_bytes_come_out_in_the_end():
    first_byte = tiny_tokenizer().convert_tokens_to_ids("æ")  # how byte-level vocabularies spell 0xE6
    detokeniser = Detokeniser(decode)
    assert [detokeniser.push(first_byte) for _ in range(3)] == ["", "", ""]
    assert set(detokeniser.finish()) == {REPLACEMENT}
