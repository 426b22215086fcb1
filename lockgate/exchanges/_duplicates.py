"""Duplicates: exact after normalisation, and near by MinHash with the Jaccard index verified.

Run it across ALL data sets before any split. Translations are not found: give them a group key of their own.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lockgate.exchanges._groups import DisjointSets
from lockgate.exchanges._record import Exchange

THRESHOLD = 0.7
SHINGLE_WORDS = 5

# 128 values of 4 bytes: half a kilobyte a row. 32 bands of 4 find a pair of Jaccard index 0.7 with
# probability 0.9998; the estimate's deviation there is 0.04, so five of them below rule a pair out.
_PERMUTATIONS = 128
_BANDS = 32
_MARGIN = 0.2
_CHUNK_SHINGLES = 4096
_CACHED_ROWS = 4096

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
# Scripts without spaces count by character. Operators stay: "3*4" and "3/4" are two questions.
_SPACELESS = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[+*/=<>^%]")

_Hashes = NDArray[np.uint64]
_Signatures = NDArray[np.uint32]


def normalise_text(text: str) -> str:
    """Words in compatibility form and without case, joined by spaces; punctuation is left out."""
    folded = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_WORD.findall(folded)) or folded.strip()


def text_hash(text: str) -> str:
    """16 hex digits of the SHA-256 of the normalised text."""
    return hashlib.sha256(normalise_text(text).encode("utf-8")).hexdigest()[:16]


def prompt_group(exchange: Exchange) -> str:
    """`text_hash` of the last user message, the unit by which prompts count as distinct.

    Without a user message: of all messages' text.
    """
    for message in reversed(exchange.messages):
        if message.role == "user":
            return text_hash(message.content)
    return text_hash("\n".join(message.content for message in exchange.messages))


def find_duplicates(texts: Sequence[str], *, threshold: float = THRESHOLD) -> list[str]:
    """Group texts that are equal after normalisation or near-duplicates of each other, also over others.

    Two texts are near-duplicates when the Jaccard index of their sets of word 5-grams is at least
    `threshold`; candidates come from MinHash bands and are verified. A text of fewer than five words counts
    as one 5-gram.

    Returns:
        For each text its group: the smallest `text_hash` in it, whatever the order of the texts.
    """
    hashes = [text_hash(text) for text in texts]
    unique = sorted(set(hashes))
    position = {digest: index for index, digest in enumerate(unique)}
    normal = [""] * len(unique)
    for text, digest in zip(texts, hashes, strict=True):
        index = position[digest]
        normal[index] = normal[index] or normalise_text(text)
    sets = _join_near(normal, threshold)
    # The hashes are sorted and a set's root is its smallest member, hence the group's smallest hash.
    return [unique[sets.find(position[digest])] for digest in hashes]


def shingle_jaccard(first: str, second: str) -> float:
    """Jaccard index of the two texts' sets of word 5-grams."""
    return _jaccard(_shingles(normalise_text(first)), _shingles(normalise_text(second)))


def _join_near(texts: Sequence[str], threshold: float) -> DisjointSets:
    sets = DisjointSets(len(texts))
    signatures = np.empty((len(texts), _PERMUTATIONS), dtype=np.uint32)
    for row, text in enumerate(texts):
        signatures[row] = _signature(_shingles(text))

    @lru_cache(_CACHED_ROWS)
    def shingles(row: int) -> _Hashes:
        return _shingles(texts[row])

    for bucket in _buckets(signatures):
        own = signatures[bucket]
        for place, row in enumerate(bucket[:-1]):
            likely = (own[place + 1 :] == own[place]).mean(axis=1) >= threshold - _MARGIN
            for other in bucket[place + 1 :][likely].tolist():
                if (
                    sets.find(row) != sets.find(other)
                    and _jaccard(shingles(row), shingles(other)) >= threshold
                ):
                    sets.union(row, other)
    return sets


def _buckets(signatures: _Signatures) -> Iterator[NDArray[np.int64]]:
    """Rows, two or more at a time, whose signatures agree in one band."""
    width = _PERMUTATIONS // _BANDS
    for start in range(0, _PERMUTATIONS, width):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(start, start + width):
            keys = _mix(keys ^ signatures[:, column].astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(np.diff(keys[order])) + 1
        yield from (rows for rows in np.split(order, ends) if len(rows) > 1)


def _jaccard(first: _Hashes, second: _Hashes) -> float:
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def _shingles(text: str) -> _Hashes:
    """Sorted hashes of the word 5-grams of a normalised text: at least one."""
    words = np.array([_word_hash(word) for word in text.split(" ")], dtype=np.uint64)
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(min(SHINGLE_WORDS, len(words))):
        hashes = _mix(hashes ^ words[offset : offset + count])
    return np.unique(hashes)


@lru_cache(2**17)
def _word_hash(word: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")


def _mix(values: _Hashes) -> _Hashes:
    """The finaliser of splitmix64: each bit of the input moves half of the output's."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_rng = np.random.Generator(np.random.PCG64(20260117))
_FACTORS: _Hashes = _rng.integers(0, 2**64, _PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
_OFFSETS: _Hashes = _rng.integers(0, 2**64, _PERMUTATIONS, dtype=np.uint64)


def _signature(shingles: _Hashes) -> _Signatures:
    """The smallest of the upper halves of 128 hashes: shape [128]."""
    smallest = np.full(_PERMUTATIONS, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(shingles), _CHUNK_SHINGLES):
        block = shingles[start : start + _CHUNK_SHINGLES, None] * _FACTORS + _OFFSETS
        smallest = np.minimum(smallest, (block >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return smallest
