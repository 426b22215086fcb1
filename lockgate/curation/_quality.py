"""Quality and repetition rules for text (Gopher, section A.1.1 and its table A1).

Words are separated by white space. The published rules are for web documents: a short answer breaks the first
rule, `words`. For text of another kind, remove rules by name with `leave_out`.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lockgate.errors import ConfigError
from lockgate.exchanges.shingles import hash_ngrams

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("-", "*", "•", "‣", "◦", "▪", "·", "–")
_ELLIPSES = ("...", "…")
_EDGES = re.compile(r"^\W+|\W+$")
_PARAGRAPHS = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class TextFault:
    """A rule that a text breaks, with the measured value and the rule's bounds. None means no bound."""

    rule: str
    value: float
    low: float | None
    high: float | None

    @property
    def reason(self) -> str:
        """One line for a rejected row; it holds no text."""
        below = self.low is not None and self.value < self.low
        return f"{self.rule}: {self.value:.4g} is {'below' if below else 'above'} {self._bound(below):g}"

    def _bound(self, below: bool) -> float:
        bound = self.low if below else self.high
        return float("nan") if bound is None else bound


@dataclass(frozen=True, slots=True)
class Measured:
    """A text cut into the units that rules count."""

    text: str
    words: list[str] = field(init=False)
    plain: list[str] = field(init=False)
    lines: list[str] = field(init=False)
    paragraphs: list[str] = field(init=False)

    def __post_init__(self) -> None:
        words = self.text.split()
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "plain", [_EDGES.sub("", word).casefold() or word for word in words])
        object.__setattr__(self, "lines", _strip(self.text.split("\n")))
        object.__setattr__(self, "paragraphs", _strip(_PARAGRAPHS.split(self.text)))


@dataclass(frozen=True, slots=True)
class TextRule:
    """A measure of a text and its bounds, both included. None means no bound."""

    name: str
    measure: Callable[[Measured], float]
    low: float | None = None
    high: float | None = None

    def check(self, measured: Measured) -> TextFault | None:
        """Return the fault, or None if the text passes."""
        value = self.measure(measured)
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            return TextFault(self.name, value, self.low, self.high)
        return None


def find_faults(text: str, rules: Sequence[TextRule] | None = None) -> list[TextFault]:
    """Find all rules that the text breaks, in the order of the rules. The default is `DOCUMENT_RULES`."""
    measured = Measured(text)
    found = (rule.check(measured) for rule in (DOCUMENT_RULES if rules is None else rules))
    return [fault for fault in found if fault is not None]


def measure_text(text: str, rules: Sequence[TextRule] | None = None) -> dict[str, float]:
    """Measure a text by each rule. Return the values by the rule's name, also of rules that it keeps."""
    measured = Measured(text)
    return {rule.name: rule.measure(measured) for rule in (DOCUMENT_RULES if rules is None else rules)}


def leave_out(rules: Sequence[TextRule], names: Collection[str]) -> tuple[TextRule, ...]:
    """Return the rules without the named ones.

    Raises:
        ConfigError: no rule has one of the names.
    """
    if unknown := set(names) - {rule.name for rule in rules}:
        known = ", ".join(rule.name for rule in rules)
        raise ConfigError(f"rules: unknown {', '.join(sorted(unknown))}; expected some of {known}")
    return tuple(rule for rule in rules if rule.name not in names)


def _strip(parts: Sequence[str]) -> list[str]:
    return [part for part in map(str.strip, parts) if part]


def _share(count: float, total: float) -> float:
    return count / total if total else 0.0


def _word_length(measured: Measured) -> float:
    return _share(sum(map(len, measured.words)), len(measured.words))


def _hashes_per_word(measured: Measured) -> float:
    return _share(measured.text.count("#"), len(measured.words))


def _ellipses_per_word(measured: Measured) -> float:
    return _share(sum(measured.text.count(mark) for mark in _ELLIPSES), len(measured.words))


def _bullet_lines(measured: Measured) -> float:
    return _share(sum(line.startswith(_BULLETS) for line in measured.lines), len(measured.lines))


def _ellipsis_lines(measured: Measured) -> float:
    return _share(sum(line.endswith(_ELLIPSES) for line in measured.lines), len(measured.lines))


def _alphabetic_words(measured: Measured) -> float:
    return _share(sum(any(map(str.isalpha, word)) for word in measured.words), len(measured.words))


def _stop_words(measured: Measured) -> float:
    return float(len(_STOP_WORDS & set(measured.plain)))


def _repeated(unit: str, by_characters: bool, measured: Measured) -> float:
    """Return the share of lines or paragraphs that repeat an earlier one, by number or by characters."""
    parts = measured.lines if unit == "line" else measured.paragraphs
    weights = [len(part) if by_characters else 1 for part in parts]
    seen: set[str] = set()
    repeated = 0
    for part, weight in zip(parts, weights, strict=True):
        repeated += weight if part in seen else 0
        seen.add(part)
    return _share(repeated, sum(weights))


def _top_ngram(size: int, measured: Measured) -> float:
    """Return the share of characters in the most frequent n-gram. It is 0 if no n-gram repeats."""
    if len(measured.plain) < size:
        return 0.0
    hashes = hash_ngrams(measured.plain, size)
    grams, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        return 0.0
    lengths = _lengths(measured)
    windows = np.convolve(lengths, np.ones(size, dtype=np.int64), mode="valid")
    # Of equally frequent n-grams, the longest counts.
    top = np.where(counts == counts.max(), np.bincount(inverse, weights=windows), -1.0).argmax()
    return _covered(hashes == grams[top], size, lengths)


def _repeated_ngrams(size: int, measured: Measured) -> float:
    """Return the share of characters inside repeated n-grams. Each character counts once."""
    if len(measured.plain) < size:
        return 0.0
    hashes = hash_ngrams(measured.plain, size)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return _covered(counts[inverse] > 1, size, _lengths(measured))


def _lengths(measured: Measured) -> NDArray[np.int64]:
    return np.array([len(word) for word in measured.words], dtype=np.int64)


def _covered(starts: NDArray[np.bool_], size: int, lengths: NDArray[np.int64]) -> float:
    mask = np.zeros(len(lengths), dtype=bool)
    for offset in range(size):
        mask[offset : offset + len(starts)] |= starts
    return _share(int(lengths[mask].sum()), int(lengths.sum()))


QUALITY_RULES: tuple[TextRule, ...] = (
    TextRule("words", lambda measured: float(len(measured.words)), 50, 100_000),
    TextRule("mean_word_length", _word_length, 3, 10),
    TextRule("hashes_per_word", _hashes_per_word, high=0.1),
    TextRule("ellipses_per_word", _ellipses_per_word, high=0.1),
    TextRule("bullet_lines", _bullet_lines, high=0.9),
    TextRule("ellipsis_lines", _ellipsis_lines, high=0.3),
    TextRule("alphabetic_words", _alphabetic_words, low=0.8),
    TextRule("stop_words", _stop_words, low=2),
)

REPETITION_RULES: tuple[TextRule, ...] = (
    TextRule("repeated_lines", partial(_repeated, "line", False), high=0.30),
    TextRule("repeated_paragraphs", partial(_repeated, "paragraph", False), high=0.30),
    TextRule("repeated_line_characters", partial(_repeated, "line", True), high=0.20),
    TextRule("repeated_paragraph_characters", partial(_repeated, "paragraph", True), high=0.20),
    *(
        TextRule(f"top_{size}_gram", partial(_top_ngram, size), high=high)
        for size, high in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        TextRule(f"repeated_{size}_grams", partial(_repeated_ngrams, size), high=high)
        for size, high in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)

DOCUMENT_RULES = (*QUALITY_RULES, *REPETITION_RULES)
