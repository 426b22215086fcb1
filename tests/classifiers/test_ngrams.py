"""The reader of growing text, with scikit-learn's hashing vectoriser as the oracle."""

import random
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32
from voices import random_text

from lockgate.classifiers._ngrams import Murmur, bucket_of
from lockgate.classifiers.text import TextReader, exchange_text
from lockgate.exchanges import Exchange, Message

BITS = 10
# Blanks that `str.split` knows, letters with a case of two letters, a sigma, joined emoji, and half a pair.
ODD = " \t\n\r\x1c\x85\xa0\u2028\u3000İßΣσς'’.:_-·\u0301\u00ad水門の番人🚤👩\u200d🚀\ud83d0٣"
PIECES = st.one_of(
    st.text(),
    st.text(alphabet=ODD),
    st.text(alphabet="ab "),
    st.sampled_from(["the lock ", "holds", "水門" * 60, "x" * 200, "WATER", "ΟΔΟΣ", " " * 9]),
)


def expected(turns: tuple[Message, ...]) -> float:
    return float(random_text(BITS).decision_function([Exchange(turns)])[0])


@given(st.text())
@example("abcd")
@example("\U0010ffff" * 3)
def test_hashes_are_scikit_learns(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert Murmur(text).digest() == murmurhash3_32(text, seed=0, positive=True)
    assert bucket_of(text, 2**BITS) == abs(murmurhash3_32(text, seed=0)) % 2**BITS
    half = Murmur(text[: len(text) // 2])
    half.add(text[len(text) // 2 :])
    assert half.digest() == Murmur(text).digest()


@given(st.lists(PIECES, max_size=8), st.text(alphabet=ODD))
@example(["", ""], "")
@example(["x" * 70, "y", " ", "x" * 70, "y z"], "")
@example(["a", "'", "Σ", ".", " B"], "ΣΣ")
def test_a_reader_agrees_with_scikit_learn_for_every_split(pieces: list[str], prompt: str) -> None:
    request = (Message("user", prompt),)
    reader = TextReader(random_text(BITS))
    reader.read(exchange_text(request, "exchange") + "\n[assistant]\n")
    answer = ""
    for piece in pieces:
        reader.read(piece)
        answer += piece
        assert reader.logit == pytest.approx(
            expected((*request, Message("assistant", answer))), rel=1e-9, abs=1e-9
        )


@given(st.text(alphabet=ODD + "abc"), st.randoms(use_true_random=False))
def test_the_split_changes_no_bit(text: str, draw: random.Random) -> None:
    text = text * 3
    whole, split = TextReader(random_text(BITS)), TextReader(random_text(BITS))
    whole.read(text)
    at = 0
    while at < len(text):
        step = draw.randrange(1, 9)
        split.read(text[at : at + step])
        if draw.random() < 0.5:
            assert isinstance(split.logit, float)
        at += step
    assert split.logit == whole.logit


def test_a_reader_of_nothing_gives_the_intercept() -> None:
    assert TextReader(random_text(BITS)).logit == pytest.approx(-0.7)
    reader = TextReader(random_text(BITS))
    reader.read(" \n\t")
    assert reader.logit == pytest.approx(-0.7)


@pytest.mark.parametrize("unit", ["x", "水", "水門 ", "a b "])
def test_the_work_grows_with_the_text_alone(unit: str) -> None:
    """Count the lines of Python that run: reading 8 units costs the same after a long text as before."""

    def lines(reader: TextReader) -> int:
        count = 0

        def trace(*_: object) -> object:
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()  # coverage has one
        sys.settrace(trace)
        try:
            reader.read(unit * 8)
            assert np.isfinite(reader.logit)
        finally:
            sys.settrace(before)
        return count

    reader = TextReader(random_text(BITS))
    early = [lines(reader) for _ in range(40)][-1]
    reader.read(unit * 20_000)
    assert lines(reader) <= early * 1.5


def test_counts_beyond_the_table_agree() -> None:
    turns = (Message("user", "lock the gate " * 1500),)
    reader = TextReader(random_text(BITS))
    text = exchange_text(turns, "exchange")
    for at in range(0, len(text), 997):
        reader.read(text[at : at + 997])
    assert reader.logit == pytest.approx(expected(turns), rel=1e-9, abs=1e-9)
