"""Tokens of an answer that arrives in pieces are those of the finished answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import gemma_tokenizer, tiny_tokenizer
from transformers import AutoTokenizer

from lockgate.backbones import AnswerTokeniser
from lockgate.backbones._embedded import TOKENIZER_FILE
from lockgate.backbones._vocabulary import LONGEST_CHUNK, LONGEST_TAIL, Vocabulary

TOKENIZERS = {
    "chatml": tiny_tokenizer,
    "gemma": gemma_tokenizer,
    "embedded": lambda: AutoTokenizer.from_pretrained(TOKENIZER_FILE.parent, local_files_only=True),
}
PARTS = st.one_of(
    st.sampled_from(list(" \n\t'.,-0123456789abcdefgXYZ")),
    st.sampled_from(
        ["é", "你", "好", "🙂", "\u200d", "don't", " I'll ", "<|im_end|>", "</think>", "  \n", "}\n"]
    ),
    st.characters(exclude_categories=["Cs"]),
)
TEXT = st.lists(PARTS, max_size=80).map("".join)


@st.composite
def pieces(draw: st.DrawFn) -> list[str]:
    text = draw(TEXT)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=20)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.fixture(scope="module", params=TOKENIZERS)
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return Vocabulary(TOKENIZERS[request.param]())


def read(vocabulary: Vocabulary, parts: list[str]) -> tuple[list[int], str, list[str]]:
    """Return all settled tokens, their text, and what settled tokens and tail told after each part."""
    tokeniser, tokens, told = AnswerTokeniser(vocabulary.encode_answer_tokens), [], []
    for part in parts:
        tokeniser.push(part)
        while tokeniser.unsettled:
            tokens += tokeniser.settle()
        told.append("".join(token.text for token in [*tokens, *tokeniser.tail()]))
    tokeniser.end()
    while tokeniser.unsettled:
        tokens += tokeniser.settle()
    assert tokeniser.tail() == []
    return [token.id for token in tokens], "".join(token.text for token in tokens), told


@given(parts=pieces())
@settings(max_examples=60)
def test_pieces_give_the_tokens_of_the_whole(vocabulary, parts) -> None:
    text = "".join(parts)
    ids, made, told = read(vocabulary, parts)
    assert ids == vocabulary.encode_answer(text)
    if ids:
        assert made == text
        assert told[-1] == text


@given(text=TEXT)
@settings(max_examples=40)
def test_parts_of_tokens_make_up_the_text(vocabulary, text) -> None:
    tokens = vocabulary.encode_answer_tokens(text)
    assert [token.id for token in tokens] == vocabulary.encode_answer(text)
    assert "".join(token.text for token in tokens) == (text if tokens else "")


@pytest.mark.slow
@given(word=st.sampled_from(["a", "ab1", "你好", "🙂"]), times=st.integers(LONGEST_TAIL, 3 * LONGEST_TAIL))
@settings(max_examples=8)
def test_text_without_blanks_does_not_grow_the_tail(vocabulary, word, times) -> None:
    tokeniser, made = AnswerTokeniser(vocabulary.encode_answer_tokens), ""
    for _ in range(times):
        tokeniser.push(word)
        made += "".join(token.text for token in tokeniser.settle())
        assert sum(len(token.text) for token in tokeniser.tail()) <= LONGEST_TAIL + len(word)
    tokeniser.end()
    made += "".join(token.text for token in tokeniser.settle())
    assert made == word * times


def test_one_long_text_is_read_in_chunks(vocabulary) -> None:
    tokeniser = AnswerTokeniser(vocabulary.encode_answer_tokens)
    text = "so it goes on, " * LONGEST_CHUNK
    tokeniser.push(text)
    first = tokeniser.settle()
    assert 0 < sum(len(token.text) for token in first) <= LONGEST_CHUNK
    tokeniser.end()
    tokens = first
    while tokeniser.unsettled:
        tokens += tokeniser.settle()
    assert [token.id for token in tokens] == vocabulary.encode_answer(text)
