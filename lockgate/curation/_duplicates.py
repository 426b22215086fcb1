"""Duplicates: exact after normalisation, and near by MinHash with the Jaccard index verified.

Run it across ALL data sets before any split. Translations are not found: give them a group key of their own.
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

# The estimate's deviation at 0.7 is 0.04 with 128 hashes, so five of them below rule a pair out.
_MARGIN = 0.2
_CACHED_ROWS = 4096
_GROWTH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class MinHash:
    """How near-duplicates are looked for: n-grams of `words` words, `bands` bands of `rows` hashes.

    A signature takes 4 * bands * rows bytes a text. A pair of Jaccard index J shares a band with probability
    1 - (1 - J**rows)**bands. The default finds J = 0.7 with probability 0.9998, in half a kilobyte.
    """

    words: int = SHINGLE_WORDS
    bands: int = 32
    rows: int = 4

    def __post_init__(self) -> None:
        if min(self.words, self.bands, self.rows) < 1:
            raise ConfigError("minhash: words, bands and rows must each be at least 1")


# As for web documents (Gopher, section A.1.1: 13-grams, Jaccard 0.8), with bands that find 0.94 of such
# pairs.
DOCUMENT_MINHASH = MinHash(words=13, bands=25, rows=10)
_DEFAULT = MinHash()


def find_duplicates(
    texts: Sequence[str], *, threshold: float = THRESHOLD, minhash: MinHash = _DEFAULT
) -> list[str]:
    """Group texts that are equal after normalisation or near-duplicates of each other, also over others.

    Two texts are near-duplicates when the Jaccard index of their sets of word n-grams is at least
    `threshold`; candidates come from MinHash bands and are verified. A text of fewer words than the n-gram
    counts as one n-gram.

    Args:
        texts: read once in order, and single rows again to verify candidates. A sequence that reads its rows
            from disk keeps memory at the index, under a kilobyte a row.

    Returns:
        For each text its group: the smallest `text_hash` in it, whatever the order of the texts.
    """
    hashes, firsts, signatures = _read_signatures(texts, minhash)
    sets = _join_near(texts, firsts, signatures, threshold, minhash)
    # By far the largest part goes before names are given.
    del signatures
    return _name_groups(hashes, firsts, sets)


def shingle_jaccard(first: str, second: str, *, words: int = SHINGLE_WORDS) -> float:
    """Jaccard index of the two texts' sets of word n-grams."""
    return jaccard_index(
        shingle_text(normalise_text(first), words), shingle_text(normalise_text(second), words)
    )


def _read_signatures(texts: Sequence[str], minhash: MinHash) -> tuple[Hashes, NDArray[np.int64], Signatures]:
    """Every text's hash, the rows where a text stands first, and the signatures of those."""
    # Arrays rather than lists: an index of a row's text must not cost more than its signature.
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
            # In place, and by a fixed share: a copy or a doubling would set the peak of memory.
            signatures.resize((len(signatures) + len(signatures) // 8 + _GROWTH_ROWS, size), refcheck=False)
        signatures[len(firsts)] = sign_shingles(shingle_text(normalise_text(text), minhash.words), size)
        firsts.append(row)
    # Not a view of it: the rows to spare are given back.
    signatures.resize((len(firsts), size), refcheck=False)
    return np.array(hashes, dtype=np.uint64), np.array(firsts, dtype=np.int64), signatures


def _name_groups(hashes: Hashes, firsts: NDArray[np.int64], sets: DisjointSets) -> list[str]:
    """For each row the smallest hash of its group, in hex; rows of a group share one string."""
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
    """Indices, two or more at a time, whose signatures agree in one band."""
    for start in range(0, minhash.bands * minhash.rows, minhash.rows):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(start, start + minhash.rows):
            keys = mix_bits(keys ^ signatures[:, column].astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate(([0], np.flatnonzero(np.diff(keys[order])) + 1)).astype(np.int64)
        sizes = np.diff(np.append(starts, len(order)))
        # Splitting at every end would build an array for each text that is alone.
        for first, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            yield order[first : first + size]
