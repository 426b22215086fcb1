"""Which categories say nearly the same."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

SAME = 0.8
SIMILAR = 0.5
# Titles are so short that one shared word is half of them.
_SIMILAR_TITLES = 0.6

_WORD = re.compile(r"\w+")
# Words that any two policies share would make short descriptions look alike.
_COMMON_TEXT = """
a an and any are as at be by for from how in into is it its not of on or other such than that the their them
these they this those to what when which who with without
"""
_COMMON = frozenset(_COMMON_TEXT.split())


class Entry(NamedTuple):
    """A category as the overlap check sees it; `number` is its place in the caller's list."""

    number: int
    title: str
    description: str
    examples: Sequence[str]


class Overlap(NamedTuple):
    """Two entries with the larger of their similarities, and how many examples they share word for word."""

    first: int
    second: int
    similarity: float
    shared_examples: int


def tokens(text: str) -> frozenset[str]:
    """Lower-case words of a text without the commonest ones."""
    return frozenset(_WORD.findall(text.casefold())) - _COMMON


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared words over all words; 0 when both are empty."""
    union = len(first | second)
    return len(first & second) / union if union else 0.0


def find_overlaps(entries: Sequence[Entry]) -> Iterator[Overlap]:
    """Pairs of categories whose titles, descriptions or whole texts are similar, or that share examples."""
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
