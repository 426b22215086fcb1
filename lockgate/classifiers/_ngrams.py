"""Hashed n-grams of a text that grows, counted as scikit-learn's `HashingVectorizer` counts them.

Only the standard library is used, so a guard with a text voice needs no scikit-learn. An n-gram's bucket is
its MurmurHash3 (x86, 32 bits, seed 0). The running sums of a part change with each n-gram in the order of the
text, so a score does not depend on how the text was split.

The n-grams of a whole conversation are weighed together. So a long harmless context, or harmless sentences
in between, outweigh a few harmful ones. Excerpts of an answer are judged beside it: they have one length, and
each begins in the middle of the one before.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_MASK = 0xFFFFFFFF
_SHORTEST, _LONGEST = 3, 5  # characters of an n-gram within a word
# Longer strings are hashed as they grow and are not kept.
_LONG = 64
_HEADER = "[assistant]\n"
_WORD = re.compile(r"(\w+)|\W+")
_BLANK = re.compile(r"(\S+)|\s+")


class Murmur:
    """A running MurmurHash3 (x86, 32 bits, seed 0) of a string."""

    __slots__ = ("_length", "_rest", "_state")

    def __init__(self, text: str = "") -> None:
        self._state = 0
        self._rest = b""
        self._length = 0
        self.add(text)

    def add(self, text: str) -> None:
        """Append text."""
        data = self._rest + text.encode("utf-8")
        self._length += len(data) - len(self._rest)
        whole = len(data) - len(data) % 4
        state = self._state
        for at in range(0, whole, 4):
            state ^= _scramble(int.from_bytes(data[at : at + 4], "little"))
            state = ((state << 13) | (state >> 19)) & _MASK
            state = (state * 5 + 0xE6546B64) & _MASK
        self._state, self._rest = state, data[whole:]

    def digest(self) -> int:
        """Return the hash of the text so far as an unsigned number."""
        state = self._state
        if self._rest:
            state ^= _scramble(int.from_bytes(self._rest, "little"))
        state ^= self._length & _MASK
        state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _MASK
        state = ((state ^ (state >> 13)) * 0xC2B2AE35) & _MASK
        return state ^ (state >> 16)


def _scramble(block: int) -> int:
    block = (block * 0xCC9E2D51) & _MASK
    block = ((block << 15) | (block >> 17)) & _MASK
    return (block * 0x1B873593) & _MASK


def _bucket(digest: int, buckets: int) -> int:
    # scikit-learn takes the hash as a signed number. Its exception for -2^31 gives 0, as the remainder does
    # for a power of two.
    return (digest if digest < 0x80000000 else 0x100000000 - digest) % buckets


@lru_cache(maxsize=65_536)
def bucket_of(gram: str, buckets: int) -> int:
    """Return the bucket of an n-gram among `buckets`, a power of two."""
    return _bucket(Murmur(gram).digest(), buckets)


class _Growing:
    """A string that grows. It is kept as text while it is short."""

    __slots__ = ("_hash", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._hash: Murmur | None = None

    def add(self, text: str) -> None:
        if self._hash is not None:
            self._hash.add(text)
        elif len(self._text) + len(text) <= _LONG:
            self._text += text
        else:
            self._hash = Murmur(self._text + text)
            self._text = ""

    def bucket(self, buckets: int) -> int:
        if self._hash is None:
            return bucket_of(self._text, buckets)
        return _bucket(self._hash.digest(), buckets)


def _growth(count: int) -> tuple[float, float]:
    """Return how sublinear TF and its square grow when an n-gram is counted once more."""
    if count == 0:
        return 1.0, 1.0
    old, new = 1.0 + math.log(count), 1.0 + math.log(count + 1)
    return new - old, new * new - old * old


_GROWTH = tuple(_growth(count) for count in range(1024))


class _Sums:
    """The part of the score that one kind of n-gram gives: a running dot product and a squared length."""

    __slots__ = ("_counts", "_dot", "_idf", "_square", "_weights")

    def __init__(self, idf: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        # Memory views give plain floats faster than arrays do.
        self._idf, self._weights = idf.data, weights.data
        self._counts: dict[int, int] = {}
        self._dot = 0.0
        self._square = 0.0

    def add(self, bucket: int) -> None:
        """Count an n-gram."""
        count = self._counts.get(bucket, 0)
        self._counts[bucket] = count + 1
        term, square = _GROWTH[count] if count < 1024 else _growth(count)
        idf = self._idf[bucket]
        self._dot += idf * self._weights[bucket] * term
        self._square += idf * idf * square

    def value(self, tail: Iterable[int]) -> float:
        """Return the part's score as if the n-grams in `tail` were counted too."""
        dot, squares = self._dot, self._square
        extra: dict[int, int] = {}
        for bucket in tail:
            count = self._counts.get(bucket, 0) + extra.get(bucket, 0)
            extra[bucket] = extra.get(bucket, 0) + 1
            term, square = _growth(count)
            idf = self._idf[bucket]
            dot += idf * self._weights[bucket] * term
            squares += idf * idf * square
        return dot / math.sqrt(squares) if squares > 0 else 0.0


class NgramWeights(Protocol):
    """What a reader needs of a text baseline.

    Attributes:
        idf, coefficients: float32 [2 * buckets], words first.
        intercept: the logit of an empty text.
    """

    idf: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    intercept: float


class TextReader:
    """The text of one conversation, read as it grows, and its logit under a text baseline.

    The logit is that of `TextBaseline.decision_function` on the same text, up to float noise. It is the same
    bits for every split of the text. Reading costs time in proportion to the new text. The memory
    is bounded by the number of different n-grams.
    """

    def __init__(self, baseline: NgramWeights) -> None:
        self._buckets = len(baseline.idf) // 2
        half = self._buckets
        self._words = _Sums(baseline.idf[:half], baseline.coefficients[:half])
        self._characters = _Sums(baseline.idf[half:], baseline.coefficients[half:])
        self._intercept = baseline.intercept
        self._word = _Growing()
        self._in_word = False
        self._pair: _Growing | None = None  # the word before, a blank, and the word so far
        self._end = ""  # last characters of the unfinished word between blanks, with the blank before it

    def read(self, text: str) -> None:
        """Append text. A lone surrogate counts as a question mark, as in `exchange_text`."""
        text = normalise(text).lower()
        self._read_words(text)
        self._read_characters(text)

    @property
    def logit(self) -> float:
        """The logit of harm of the text so far. An unfinished last word counts as if it were finished."""
        words: list[int] = []
        if self._in_word:
            words = [gram.bucket(self._buckets) for gram in (self._word, self._pair) if gram is not None]
        ending = self._grams(self._end + " ") if self._end else ()
        return self._words.value(words) + self._characters.value(ending) + self._intercept

    def _read_words(self, text: str) -> None:
        for found in _WORD.finditer(text):
            if found[1] is None:
                self._end_word()
                continue
            self._in_word = True
            self._word.add(found[1])
            if self._pair is not None:
                self._pair.add(found[1])

    def _end_word(self) -> None:
        if not self._in_word:
            return
        self._words.add(self._word.bucket(self._buckets))
        if self._pair is not None:
            self._words.add(self._pair.bucket(self._buckets))
        self._pair, self._word, self._in_word = self._word, _Growing(), False
        self._pair.add(" ")

    def _read_characters(self, text: str) -> None:
        add, buckets = self._characters.add, self._buckets
        for found in _BLANK.finditer(text):
            if found[1] is None:
                if self._end:
                    for bucket in self._grams(self._end + " "):
                        add(bucket)
                    self._end = ""
                continue
            before = self._end or " "
            word = before + found[1]
            for end in range(len(before) + 1, len(word) + 1):
                for start in range(max(0, end - _LONGEST), end - _SHORTEST + 1):
                    add(bucket_of(word[start:end], buckets))
            self._end = word[1 - _LONGEST :]

    def _grams(self, word: str) -> Sequence[int]:
        """Return the buckets of the n-grams at the end of `word`."""
        lengths = range(_SHORTEST, min(len(word), _LONGEST) + 1)
        return [bucket_of(word[-length:], self._buckets) for length in lengths]


def normalise(text: str) -> str:
    """Return text that has a UTF-8 form, and whose lower case does not depend on the letters around.

    Python writes a capital sigma at the end of a word in lower case in another way than elsewhere.
    """
    return text.replace("\u03a3", "\u03c3").encode("utf-8", "replace").decode("utf-8")


def excerpts_of(answer: str, length: int) -> list[str]:
    """Return the excerpts of an answer, under its role. The last one ends with the answer.

    An answer that is no longer than an excerpt has one. No excerpt is shorter than half of `length`, unless
    the answer is.

    Args:
        answer: normalised text.
        length: characters of an excerpt, even.
    """
    step = length // 2
    starts = range(0, max(1, len(answer) - step), step)
    return [_HEADER + answer[start : start + length] for start in starts]


class ExchangeReader:
    """One exchange whose answer grows: the highest logit of its whole text and of the answer's excerpts.

    The logit is that of `TextBaseline.decision_function` on the same text, up to float noise. It is the same
    bits for every split of the answer. Each character is read three times at most.
    """

    def __init__(self, baseline: NgramWeights, request: str, excerpt: int = 0) -> None:
        """Take the text before the answer, without its header."""
        self._baseline = baseline
        self._whole = TextReader(baseline)
        self._whole.read(f"{request}\n{_HEADER}")
        self._step = excerpt // 2
        self._length = 0
        self._highest = float("-inf")
        # The excerpts that cover the newest character, the older first. Only one is old enough to be judged.
        self._open: list[TextReader] = []

    def read(self, text: str) -> None:
        """Append text of the answer."""
        text = normalise(text)
        self._whole.read(text)
        if not self._step:
            return
        while text:
            if self._length % self._step == 0:
                self._begin()
            part = text[: self._step - self._length % self._step]
            for reader in self._open:
                reader.read(part)
            self._length += len(part)
            text = text[len(part) :]

    @property
    def logit(self) -> float:
        """The logit of harm of the exchange so far."""
        whole = self._whole.logit
        return max(whole, self._highest, self._open[0].logit) if self._open else whole

    def _begin(self) -> None:
        if len(self._open) == 2:
            self._highest = max(self._highest, self._open.pop(0).logit)
        reader = TextReader(self._baseline)
        reader.read(_HEADER)
        self._open.append(reader)
