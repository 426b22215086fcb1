"""Find categories that say nearly the same."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

SAME = 0.8
SIMILAR = 0.5
# Titles are short: one shared word can be half of a title.
_SIMILAR_TITLES = 0.6

_WORD = re.compile(r"\w+")
# Words that every policy uses. They would make short descriptions look alike.
_COMMON_TEXT = """
a an and any are as at be by for from how in into is it its not of on or other such than that the their them
these they this those to what when which who with without
"""
_COMMON = frozenset(_COMMON_TEXT.split())


class Entry(NamedTuple):
    """A category for the overlap check. `number` is its index in the caller's list."""

    number: int
    title: str
    description: str
    examples: Sequence[str]


class Overlap(NamedTuple):
    """Two similar entries.

    Attributes:
        first: number of one entry.
        second: number of the other.
        similarity: the largest similarity of their titles, descriptions, examples and whole texts.
        shared_examples: number of examples that they share word for word.
    """

    first: int
    second: int
    similarity: float
    shared_examples: int


def tokens(text: str) -> frozenset[str]:
    """Return the words of a text in lower case, without the most common ones."""
    return frozenset(_WORD.findall(text.casefold())) - _COMMON


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the number of shared words divided by the number of all words; 0 if both are empty."""
    union = len(first | second)
    return len(first & second) / union if union else 0.0


def find_overlaps(entries: Sequence[Entry]) -> Iterator[Overlap]:
    """Yield pairs of categories that have similar texts or share examples."""
    prepared = [(entry, _views(entry), {_fold(example) for example in entry.examples}) for entry in entries]
    for (one, one_views, one_examples), (two, two_views, two_examples) in combinations(prepared, 2):
        titles, *texts = (jaccard(a, b) for a, b in zip(one_views, two_views, strict=True))
        similarity = max(titles if titles >= _SIMILAR_TITLES else 0.0, *texts)
        shared = len(one_examples & two_examples)
        if similarity >= SIMILAR or shared:
            yield Overlap(one.number, two.number, similarity, shared)


def _views(entry: Entry) -> tuple[frozenset[str], ...]:
    examples = " ".join(entry.examples)
    return (
        tokens(entry.title),
        tokens(entry.description),
        tokens(examples),
        tokens(f"{entry.title} {entry.description} {examples}"),
    )


def _fold(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
