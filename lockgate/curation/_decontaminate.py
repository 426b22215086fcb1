"""Decontamination: finding training rows that give away an evaluation item.

Run it before augmentation. Encoded or translated text is not recognised.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockgate.curation._duplicates import THRESHOLD
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, normalise_text, read_exchanges
from lockgate.exchanges.shingles import (
    SHINGLE_WORDS,
    Hashes,
    hash_ngrams,
    jaccard_index,
    mix_bits,
    sign_shingles,
)

# Texts of fewer words than MIN_WORDS occur in many harmless sentences. Only an equal message leaks them.
NGRAM_WORDS = 13
MIN_WORDS = 8
_BANDS, _ROWS = 32, 4


@dataclass(frozen=True, slots=True)
class Leak:
    """An evaluation item that a training row gives away.

    Attributes:
        file: name of the evaluation file.
        id: the item's `Exchange.id`.
        part: part of the item, "prompt" or "answer".
        rule: "equal" (a message equals the item after normalisation), "ngram" (both share a run of words) or
            "near" (a near-duplicate).
        value: share of the item's n-grams that the row holds; the Jaccard index for "near"; 1 for "equal".
    """

    file: str
    id: str
    part: str
    rule: str
    value: float

    @property
    def reason(self) -> str:
        """One line for a rejected row; it holds no text."""
        return f"leak of {self.part} {self.id} of {self.file}: {self.rule} {self.value:.4g}"


@dataclass(frozen=True, slots=True)
class _Item:
    file: str
    id: str
    part: str
    runs: Hashes
    shingles: Hashes
    words: int


class EvaluationIndex:
    """An index of evaluation items by their word runs: about 30 bytes a word and a kilobyte an item."""

    def __init__(self, evaluations: Iterable[tuple[str, Iterable[Exchange]]]) -> None:
        """Index the last user message and the answer of every item. Of equal texts, the first one counts."""
        self._items: list[_Item] = []
        self._equal: dict[str, int] = {}
        for file, exchanges in evaluations:
            for exchange in exchanges:
                for part, text in _parts(exchange):
                    self._add(file, exchange.id, part, normalise_text(text))
        self._runs = {
            size: self._sorted_runs(size) for size in {self._size(item) for item in self._items} - {0}
        }
        self._bands = self._sorted_bands()

    @classmethod
    def from_files(cls, paths: Sequence[str | os.PathLike[str]]) -> "EvaluationIndex":
        """Index evaluation files. A leak names the file without its folder.

        Raises:
            ExchangeError: a file can't be read or holds no exchange.
        """

        def read(path: str | os.PathLike[str]) -> list[Exchange]:
            exchanges = list(read_exchanges(path))
            if not exchanges:
                raise ExchangeError(
                    f"{os.fspath(path)}: no exchange to protect; name a file with evaluation items"
                )
            return exchanges

        return cls((Path(path).name, read(path)) for path in paths)

    def __len__(self) -> int:
        """Return the number of distinct evaluation texts."""
        return len(self._items)

    def find_leak(self, exchange: Exchange) -> Leak | None:
        """Find the clearest leak in any message of the row, if any: equality, then runs, then nearness."""
        messages = [
            normalise_text(message.content) for message in exchange.messages if message.content.strip()
        ]
        for text in messages:
            if (found := self._equal.get(text)) is not None:
                return self._leak(found, "equal", 1.0)
        words = [text.split(" ") for text in messages]
        best = max(filter(None, map(self._find_run, words)), key=lambda leak: leak.value, default=None)
        return best or next(filter(None, map(self._find_near, words)), None)

    def _add(self, file: str, identity: str, part: str, text: str) -> None:
        if text in self._equal or not text:
            return
        words = text.split(" ")
        self._equal[text] = len(self._items)
        runs = np.unique(hash_ngrams(words, min(NGRAM_WORDS, len(words))))
        shingles = np.unique(hash_ngrams(words, SHINGLE_WORDS))
        self._items.append(_Item(file, identity, part, runs, shingles, len(words)))

    def _leak(self, number: int, rule: str, value: float) -> Leak:
        item = self._items[number]
        return Leak(item.file, item.id, item.part, rule, value)

    def _size(self, item: _Item) -> int:
        """Return the number of words in the runs of an item. It is 0 if the item is too short for runs."""
        return 0 if item.words < MIN_WORDS else min(NGRAM_WORDS, item.words)

    def _sorted_runs(self, size: int) -> tuple[Hashes, NDArray[np.int64]]:
        owners = [number for number, item in enumerate(self._items) if self._size(item) == size]
        hashes = np.concatenate([self._items[number].runs for number in owners])
        numbers = np.repeat(owners, [len(self._items[number].runs) for number in owners])
        order = np.argsort(hashes, kind="stable")
        return hashes[order], numbers[order].astype(np.int64)

    def _find_run(self, words: list[str]) -> Leak | None:
        met: set[int] = set()
        for size, (hashes, numbers) in self._runs.items():
            if len(words) < size:
                continue
            own = np.unique(hash_ngrams(words, size))
            starts, ends = np.searchsorted(hashes, own, "left"), np.searchsorted(hashes, own, "right")
            for start, end in zip(starts[ends > starts], ends[ends > starts], strict=True):
                met.update(numbers[start:end].tolist())
        if not met:
            return None
        shares = {number: self._share(number, words) for number in met}
        number = max(sorted(met), key=lambda candidate: shares[candidate])
        return self._leak(number, "ngram", shares[number])

    def _share(self, number: int, words: list[str]) -> float:
        item = self._items[number]
        own = np.unique(hash_ngrams(words, self._size(item)))
        return len(np.intersect1d(own, item.runs, assume_unique=True)) / len(item.runs)

    def _sorted_bands(self) -> list[tuple[Hashes, NDArray[np.int64]]]:
        """Return the sorted keys and numbers of all items that are long enough, for each band."""
        long = [number for number, item in enumerate(self._items) if item.words >= MIN_WORDS]
        keys = np.array([_band_keys(self._items[number].shingles) for number in long], dtype=np.uint64)
        keys = keys.reshape(len(long), _BANDS)
        numbers = np.array(long, dtype=np.int64)
        orders = np.argsort(keys, axis=0, kind="stable")
        return [(keys[orders[:, band], band], numbers[orders[:, band]]) for band in range(_BANDS)]

    def _find_near(self, words: list[str]) -> Leak | None:
        if len(words) < MIN_WORDS or not self._items:
            return None
        shingles = np.unique(hash_ngrams(words, SHINGLE_WORDS))
        met: set[int] = set()
        for key, (keys, numbers) in zip(_band_keys(shingles), self._bands, strict=True):
            start, end = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
            met.update(numbers[start:end].tolist())
        likeness = {number: jaccard_index(shingles, self._items[number].shingles) for number in sorted(met)}
        number = max(likeness, key=lambda candidate: likeness[candidate], default=-1)
        return (
            self._leak(number, "near", likeness[number]) if likeness.get(number, 0.0) >= THRESHOLD else None
        )


def _parts(exchange: Exchange) -> list[tuple[str, str]]:
    users = [message.content for message in exchange.messages if message.role == "user"]
    parts = [("prompt", users[-1])] if users else []
    return parts if exchange.is_prompt_only else [*parts, ("answer", exchange.messages[-1].content)]


def _band_keys(shingles: Hashes) -> Hashes:
    signature = sign_shingles(shingles, _BANDS * _ROWS).astype(np.uint64).reshape(_BANDS, _ROWS)
    keys = np.zeros(_BANDS, dtype=np.uint64)
    for column in range(_ROWS):
        keys = mix_bits(keys ^ signature[:, column])
    return keys
