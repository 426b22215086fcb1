"""Normalised texts, hashes of their word n-grams, and MinHash signatures of sets of hashes."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SHINGLE_WORDS",
    "Hashes",
    "Signatures",
    "hash_ngrams",
    "jaccard_index",
    "mix_bits",
    "shingle_text",
    "sign_shingles",
]

Hashes = NDArray[np.uint64]
Signatures = NDArray[np.uint32]

_CHUNK_SHINGLES = 4096

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
# In scripts without spaces, a character is a word. Operators are kept: "3*4" and "3/4" differ.
_SPACELESS = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|[+*/=<>^%]")

# Words in each n-gram that prompts are compared by.
SHINGLE_WORDS = 5


def normalise_text(text: str) -> str:
    """Normalise a text: words in compatibility form, without case or punctuation, joined by spaces."""
    folded = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_WORD.findall(folded)) or folded.strip()


def text_hash(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the normalised text."""
    return hashlib.sha256(normalise_text(text).encode("utf-8")).hexdigest()[:16]


def hash_ngrams(words: Sequence[str], size: int) -> Hashes:
    """Hash each run of `size` words, in order. A shorter text is one n-gram, so there is at least one."""
    hashed = np.array([_word_hash(word) for word in words] or [0], dtype=np.uint64)
    count = max(1, len(hashed) - size + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(min(size, len(hashed))):
        hashes = mix_bits(hashes ^ hashed[offset : offset + count])
    return hashes


def shingle_text(text: str, size: int) -> Hashes:
    """Return the sorted distinct hashes of a normalised text's word n-grams. There is at least one."""
    return np.unique(hash_ngrams(text.split(" "), size))


def jaccard_index(first: Hashes, second: Hashes) -> float:
    """Return the Jaccard index of two sorted sets."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def sign_shingles(shingles: Hashes, size: int) -> Signatures:
    """Return the MinHash signature [size]: the minimum over the set, upper 32 bits, of each hash function."""
    factors, offsets = _permutations(size)
    smallest = np.full(size, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(shingles), _CHUNK_SHINGLES):
        block = shingles[start : start + _CHUNK_SHINGLES, None] * factors + offsets
        smallest = np.minimum(smallest, (block >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return smallest


def mix_bits(values: Hashes) -> Hashes:
    """Mix bits by the finaliser of splitmix64: each input bit changes half of the output bits."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _permutations(size: int) -> tuple[Hashes, Hashes]:
    rng = np.random.Generator(np.random.PCG64(20260117))
    factors = rng.integers(0, 2**64, size, dtype=np.uint64) | np.uint64(1)
    return factors, rng.integers(0, 2**64, size, dtype=np.uint64)


@lru_cache(2**17)
def _word_hash(word: str) -> int:
    # Python's own hash differs from process to process.
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")
