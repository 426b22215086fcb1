"""Phrases in running text: words of a phrase that stand close together and are not denied."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# Words of a phrase count if they stand within this many words.
WINDOW = 16
# Words around a match that show whether it stands in sentences, and the share of small words in sentences.
_AROUND = 8
_LEAST_SMALL = 0.15
# A word this many words before a phrase denies it.
_DENIED_WITHIN = 3

_TOKEN = re.compile(r"\w+|[.,!?;:\n]")
_ENDINGS = (
    ("ingly", ""), ("edly", ""), ("ings", ""), ("ing", ""), ("ies", "y"), ("ied", "y"), ("ed", ""),
    ("es", ""), ("ly", ""), ("s", ""),
)  # fmt: skip
# The "t" is that of "don't".
_DENIALS = frozenset(
    ("no", "not", "never", "nothing", "nobody", "none", "neither", "nor", "without", "cannot", "t")
)
_SMALL_WORDS = """
    a an the of to in on at by for from with into onto under over as and or but if so than then that this
    these those it its is are was were be been being do does did has have had can could will would may
    must should not no you your he his him she her they their them we our i my me one which who what when
    where while how there here up down out off only just each every all any some
"""
SMALL = frozenset(_SMALL_WORDS.split())

# One set of stems for each word: its alternatives.
Phrase = tuple[frozenset[str], ...]


def phrase_of(text: str) -> Phrase:
    """Read a phrase: words, of which each may have alternatives, as in `double lift|turnover`."""
    groups = (frozenset(stem for word in group.split("|") for stem in stems(word)) for group in text.split())
    return tuple(group for group in groups if group)


def stemmed(text: str) -> list[tuple[str, str]]:
    """Return the words of a text, each with its stem before it: no case, accents and common endings."""
    return [(_stem(token), token) for token in _TOKEN.findall(_fold(text)) if _is_word(token)]


def stems(text: str) -> list[str]:
    """Return the stems of a text's words."""
    return [stem for stem, _ in stemmed(text)]


class Words:
    """The words of a text, ready to be searched for many phrases."""

    def __init__(self, text: str) -> None:
        self._places: dict[str, list[int]] = {}
        self._denials: list[int] = []
        self._starts: list[int] = []
        small: list[int] = []
        begun = 0
        for token in _TOKEN.findall(_fold(text)):
            if not _is_word(token):
                begun = len(small)
                continue
            self._places.setdefault(_stem(token), []).append(len(small))
            if token in _DENIALS:
                self._denials.append(len(small))
            self._starts.append(begun)
            small.append(token in SMALL)
        self._small = [0, *accumulate(small)]

    def has(self, phrase: Phrase) -> bool:
        """Tell whether the text says a phrase: close together, in sentences, and without denying it."""
        groups = [sorted(p for stem in group for p in self._places.get(stem, ())) for group in phrase]
        if not groups or not all(groups):
            return False
        groups.sort(key=len)
        denying = any(group & _DENIALS for group in phrase)
        return any(
            self._in_sentences(*span) and (denying or not self._denied(*span))
            for place in groups[0]
            if (span := _span(place, groups[1:])) is not None
        )

    def _in_sentences(self, first: int, last: int) -> bool:
        begin, end = max(0, first - _AROUND), min(len(self._starts), last + 1 + _AROUND)
        return self._small[end] - self._small[begin] >= _LEAST_SMALL * (end - begin)

    def _denied(self, first: int, last: int) -> bool:
        begin = max(self._starts[first], first - _DENIED_WITHIN)
        found = bisect_left(self._denials, begin)
        return found < len(self._denials) and self._denials[found] <= last


def _span(place: int, groups: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """Return first and last place of a phrase whose rarest word stands at `place`. No word counts twice."""
    taken = {place}
    for group in groups:
        at = bisect_left(group, place - WINDOW + 1)
        near = [other for other in group[at : bisect_left(group, place + WINDOW)] if other not in taken]
        if not near:
            return None
        taken.add(min(near, key=lambda other: abs(other - place)))
    first, last = min(taken), max(taken)
    return (first, last) if last - first < WINDOW else None


def _is_word(token: str) -> bool:
    return token[0] == "_" or token[0].isalnum()


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(character for character in folded if not unicodedata.combining(character))


def _stem(word: str) -> str:
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return _shorten(word[: -len(ending)] + instead)
    return _shorten(word) if len(word) > 3 else word


def _shorten(stem: str) -> str:
    stem = stem.rstrip("e")
    doubled = len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] in "bdgmnprt"
    return stem[:-1] if doubled else stem
