"""Sketches of prompts, by which near-duplicates are known without their text (MinHash over token ids).

The hashes are keyed with numbers that each process draws anew, so a sketch says nothing to anybody else.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Tokens of a prompt that count: its last ones, where an attacker varies what he asks.
MOST_TOKENS = 2048
# Tokens of a shingle. A shorter prompt is one shingle.
SHINGLE = 3
BANDS, ROWS = 8, 4
# Share of equal minima, which estimates the Jaccard index of two prompts' shingles.
LIKENESS = 0.7
# Sketches of one band's value that are compared.
_MOST_ALIKE = 16

Signature = NDArray[np.uint64]


class Sketcher:
    """Makes signatures. Those of one sketcher can be compared."""

    def __init__(self) -> None:
        draw = [secrets.randbits(64) | 1 for _ in range(SHINGLE + 2 * BANDS * ROWS)]
        self._mix = np.array(draw[:SHINGLE], np.uint64)
        self._factors = np.array(draw[SHINGLE : SHINGLE + BANDS * ROWS], np.uint64)
        self._terms = np.array(draw[SHINGLE + BANDS * ROWS :], np.uint64)

    def sketch(self, tokens: Sequence[int]) -> Signature:
        """Return the minima of the prompt's shingles under each of the hash functions."""
        ids = np.array(tokens[-MOST_TOKENS:], np.uint64)
        if len(ids) < SHINGLE:
            ids = np.concatenate([ids, np.zeros(SHINGLE - len(ids), np.uint64)])
        windows = np.lib.stride_tricks.sliding_window_view(ids + np.uint64(1), SHINGLE)
        mixed = (windows * self._mix).sum(axis=1, dtype=np.uint64)
        mixed ^= mixed >> np.uint64(29)
        hashes = mixed[:, None] * self._factors + self._terms
        hashes ^= hashes >> np.uint64(32)
        found: Signature = hashes.min(axis=0)
        return found


class Sketches:
    """The newest sketches, and whose they are. Beyond `most` the oldest is forgotten."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._number = 0
        self._known: OrderedDict[int, tuple[float, str, Signature]] = OrderedDict()
        self._bands: dict[bytes, list[int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, at: float, key: str, signature: Signature) -> None:
        """Keep a sketch of a key."""
        self._number += 1
        self._known[self._number] = (at, key, signature)
        for band in _bands(signature):
            self._bands.setdefault(band, []).append(self._number)
        if len(self._known) > self._most:
            self._drop_oldest()

    def forget(self, before: float) -> None:
        """Drop the sketches from before a time."""
        while self._known and next(iter(self._known.values()))[0] < before:
            self._drop_oldest()

    def others_like(self, key: str, signature: Signature) -> set[str]:
        """Return the other keys that have sent something alike."""
        near = {n for band in _bands(signature) for n in self._bands.get(band, ())[-_MOST_ALIKE:]}
        found = set()
        for number in near:
            _, other, known = self._known[number]
            if other != key and np.mean(known == signature) >= LIKENESS:
                found.add(other)
        return found

    def _drop_oldest(self) -> None:
        number, (_, _, signature) = self._known.popitem(last=False)
        for band in _bands(signature):
            left = self._bands[band]
            left.remove(number)
            if not left:
                del self._bands[band]


def _bands(signature: Signature) -> list[bytes]:
    return [bytes([band]) + signature[band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)]
