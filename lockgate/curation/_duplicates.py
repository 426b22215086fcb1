"""Duplicates: equal after normalisation, or near by MinHash with a verified Jaccard index.

Run it across ALL data sets before any split. It does not find translations: give them their own group key.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lockgate.curation._groups import DisjointSets
from lockgate.errors import ConfigError
from lockgate.exchanges import normalise_text, text_hash
from lockgate.exchanges.shingles import (
    SHINGLE_WORDS,
    Hashes,
    Signatures,
    jaccard_index,
    mix_bits,
    shingle_text,
    sign_shingles,
)

THRESHOLD = 0.7

# With 128 hashes the standard deviation of the estimate is 0.04 at 0.7. A pair five deviations below is out.
_MARGIN = 0.2
_CACHED_ROWS = 4096
_GROWTH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class MinHash:
    """Settings of the search for near-duplicates.

    A signature takes 4 * bands * rows bytes a text: half a kilobyte by default. A pair of Jaccard index J
    shares a band with probability 1 - (1 - J**rows)**bands. The default finds a pair of J = 0.7 with
    probability 0.9998.

    Attributes:
        words: words in an n-gram.
        bands: bands of a signature. Two texts are compared if they agree in one band.
        rows: hashes in a band.

    Raises:
        ConfigError: a value is below 1.
    """

    words: int = SHINGLE_WORDS
    bands: int = 32
    rows: int = 4

    def __post_init__(self) -> None:
        if min(self.words, self.bands, self.rows) < 1:
            raise ConfigError("minhash: words, bands and rows must each be at least 1")


# For web documents (Gopher, section A.1.1: 13-grams, Jaccard 0.8). These bands find 0.94 of such pairs.
DOCUMENT_MINHASH = MinHash(words=13, bands=25, rows=10)
_DEFAULT = MinHash()


def find_duplicates(
    texts: Sequence[str], *, threshold: float = THRESHOLD, minhash: MinHash = _DEFAULT
) -> list[str]:
    """Group texts that are equal after normalisation or near-duplicates of each other.

    Two texts are near-duplicates if the Jaccard index of their sets of word n-grams is at least `threshold`.
    MinHash bands give candidates, and each candidate is verified. A text of fewer words than an n-gram counts
    as one n-gram. Groups are transitive: A near B and B near C puts A and C together.

    Args:
        texts: read once in order, then single rows again to verify candidates. If the sequence reads its rows
            from disk, memory holds only the index: under a kilobyte a row.
        threshold: smallest Jaccard index of near-duplicates.
        minhash: settings of the search.

    Returns:
        The group of each text: the smallest `text_hash` in it. The order of the texts does not matter.
    """
    hashes, firsts, signatures = _read_signatures(texts, minhash)
    sets = _join_near(texts, firsts, signatures, threshold, minhash)
    # The signatures take most of the memory, so they go before the groups get names.
    del signatures
    return _name_groups(hashes, firsts, sets)


def shingle_jaccard(first: str, second: str, *, words: int = SHINGLE_WORDS) -> float:
    """Return the Jaccard index of two texts' sets of word n-grams."""
    return jaccard_index(
        shingle_text(normalise_text(first), words), shingle_text(normalise_text(second), words)
    )


def _read_signatures(texts: Sequence[str], minhash: MinHash) -> tuple[Hashes, NDArray[np.int64], Signatures]:
    """Return every text's hash, the first row of each distinct text, and the signatures of those rows."""
    # Arrays and not lists: the index of a row must not take more memory than its signature.
    hashes, firsts = array("Q"), array("q")
    seen: set[int] = set()
    size = minhash.bands * minhash.rows
    signatures = np.empty((0, size), dtype=np.uint32)
    for row, text in enumerate(texts):
        digest = int(text_hash(text), 16)
        hashes.append(digest)
        if digest in seen:
            continue
        seen.add(digest)
        if len(firsts) == len(signatures):
            # It grows in place and by a fixed share. A copy or a doubling would raise the peak of memory.
            signatures.resize((len(signatures) + len(signatures) // 8 + _GROWTH_ROWS, size), refcheck=False)
        signatures[len(firsts)] = sign_shingles(shingle_text(normalise_text(text), minhash.words), size)
        firsts.append(row)
    # A resize gives spare rows back; a view would keep them.
    signatures.resize((len(firsts), size), refcheck=False)
    return np.array(hashes, dtype=np.uint64), np.array(firsts, dtype=np.int64), signatures


def _name_groups(hashes: Hashes, firsts: NDArray[np.int64], sets: DisjointSets) -> list[str]:
    """Return the smallest hash of each row's group, in hex. Rows of a group share one string."""
    smallest: dict[int, int] = {}
    for index, digest in enumerate(hashes[firsts].tolist()):
        root = sets.find(index)
        smallest[root] = min(smallest.get(root, digest), digest)
    names = {root: f"{digest:016x}" for root, digest in smallest.items()}
    order = np.argsort(hashes[firsts])
    places = order[np.searchsorted(hashes[firsts], hashes, sorter=order)]
    return [names[sets.find(int(place))] for place in places]


def _join_near(
    texts: Sequence[str],
    firsts: NDArray[np.int64],
    signatures: Signatures,
    threshold: float,
    minhash: MinHash,
) -> DisjointSets:
    sets = DisjointSets(len(firsts))

    @lru_cache(_CACHED_ROWS)
    def shingles(index: int) -> Hashes:
        return shingle_text(normalise_text(texts[int(firsts[index])]), minhash.words)

    for bucket in _buckets(signatures, minhash):
        own = signatures[bucket]
        for place, index in enumerate(bucket[:-1].tolist()):
            likely = (own[place + 1 :] == own[place]).mean(axis=1) >= threshold - _MARGIN
            for other in bucket[place + 1 :][likely].tolist():
                if (
                    sets.find(index) != sets.find(other)
                    and jaccard_index(shingles(index), shingles(other)) >= threshold
                ):
                    sets.union(index, other)
    return sets


def _buckets(signatures: Signatures, minhash: MinHash) -> Iterator[NDArray[np.int64]]:
    """Yield sets of two or more indices with equal signatures in one band."""
    for start in range(0, minhash.bands * minhash.rows, minhash.rows):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(start, start + minhash.rows):
            keys = mix_bits(keys ^ signatures[:, column].astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate(([0], np.flatnonzero(np.diff(keys[order])) + 1)).astype(np.int64)
        sizes = np.diff(np.append(starts, len(order)))
        # Only buckets of two or more are cut out. Most texts are alone in theirs.
        for first, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            yield order[first : first + size]
