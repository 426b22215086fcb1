import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.curation import (
    DOCUMENT_RULES,
    QUALITY_RULES,
    REPETITION_RULES,
    find_faults,
    leave_out,
    measure_text,
)
from lockgate.errors import ConfigError


def numbered(count: int, start: int = 0) -> list[str]:
    """Different words of four letters."""
    return [
        "".join(chr(97 + (number // 26**place) % 26) for place in range(4))
        for number in range(start, start + count)
    ]


def document(words: int, *extra: str) -> str:
    """A clean document of that many words, `extra` among them."""
    stop = ["the", "of"]
    return " ".join([*stop, *extra, *numbered(words - len(stop) - len(extra))])


def repeating(size: int, times: int, words: int) -> str:
    """`words` words of four letters, the first n-gram of `size` words `times` times, apart."""
    gram = numbered(size)
    text: list[str] = []
    for number in range(times):
        text += [*gram, *numbered(1, 5000 + number)]
    return " ".join([*text, *numbered(words - len(text), 10_000)])


def lines(count: int, repeated: int, length: int = 4, repeated_length: int = 4) -> str:
    """`count` different lines, and the last of them `repeated` times more."""
    short = ["Q" * repeated_length] * (repeated + 1)
    return "\n".join([*(word.ljust(length, "z") for word in numbered(count - 1)), *short])


def broken(text: str) -> set[str]:
    return {fault.rule for fault in find_faults(text)}


GOLDEN = [
    ("words", document(50), document(49)),
    ("words", document(100_000), document(100_001)),
    ("mean_word_length", " ".join(["abc"] * 60), " ".join(["abc"] * 59 + ["ab"])),
    ("mean_word_length", " ".join(["a" * 10] * 60), " ".join(["a" * 10] * 59 + ["a" * 11])),
    ("hashes_per_word", document(60, *["x#"] * 6), document(60, *["x#"] * 7)),
    ("ellipses_per_word", document(60, *["x…"] * 6), document(60, *["x..."] * 7)),
    ("bullet_lines", "- a\n" * 9 + "b", "- a\n" * 10 + "b"),
    ("ellipsis_lines", "a...\n" * 3 + "b\n" * 7, "a…\n" * 4 + "b\n" * 7),
    ("alphabetic_words", document(60, *["12"] * 12), document(60, *["12"] * 13)),
    ("stop_words", "The cat and", "The cat sat, the"),
    ("repeated_lines", lines(70, 30), lines(69, 31)),
    ("repeated_paragraphs", lines(70, 30).replace("\n", "\n\n"), lines(69, 31).replace("\n", "\n \n")),
    # 16 lines of 4 characters and 4 of 4 that repeat; then 4 of 5.
    ("repeated_line_characters", lines(16, 4), lines(16, 4, repeated_length=5)),
    (
        "repeated_paragraph_characters",
        lines(16, 4).replace("\n", "\n\n"),
        lines(16, 4, repeated_length=5).replace("\n", "\n\n"),
    ),
    ("top_2_gram", repeating(2, 10, 100), repeating(2, 11, 100)),
    ("top_3_gram", repeating(3, 6, 100), repeating(3, 7, 100)),
    ("top_4_gram", repeating(4, 4, 100), repeating(4, 5, 100)),
    ("repeated_5_grams", repeating(5, 3, 100), repeating(5, 4, 100)),
    ("repeated_6_grams", repeating(7, 2, 100), repeating(8, 2, 100)),
    ("repeated_7_grams", repeating(13, 2, 200), repeating(14, 2, 200)),
    ("repeated_8_grams", repeating(12, 2, 200), repeating(13, 2, 200)),
    ("repeated_9_grams", repeating(11, 2, 200), repeating(12, 2, 200)),
    ("repeated_10_grams", repeating(10, 2, 200), repeating(11, 2, 200)),
]


@pytest.mark.parametrize(("rule", "passes", "fails"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_both_sides_of_every_threshold(rule: str, passes: str, fails: str) -> None:
    chosen = [one for one in DOCUMENT_RULES if one.name == rule]
    assert find_faults(passes, chosen) == []
    (fault,) = find_faults(fails, chosen)
    assert fault.rule == rule
    assert fault.value == measure_text(fails)[rule]
    assert fault.reason.startswith(f"{rule}: ")


def test_every_rule_has_a_golden_case() -> None:
    assert {rule for rule, _, _ in GOLDEN} == {rule.name for rule in DOCUMENT_RULES}


def test_the_published_bounds() -> None:
    bounds = {rule.name: (rule.low, rule.high) for rule in DOCUMENT_RULES}
    assert bounds["words"] == (50, 100_000)
    assert bounds["mean_word_length"] == (3, 10)
    assert [bounds[f"top_{n}_gram"][1] for n in (2, 3, 4)] == [0.20, 0.18, 0.16]
    assert [bounds[f"repeated_{n}_grams"][1] for n in range(5, 11)] == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert len(QUALITY_RULES) == 8
    assert len(REPETITION_RULES) == 13


def test_a_clean_document_passes_and_a_loop_does_not() -> None:
    assert broken(document(80)) == set()
    assert {"repeated_lines", "top_2_gram", "repeated_10_grams"} <= broken("we go round and round the\n" * 20)


def test_overlapping_repeats_count_once() -> None:
    assert measure_text("la " * 40)["top_2_gram"] == 1.0
    assert measure_text("la " * 40)["repeated_5_grams"] == 1.0


def test_an_ngram_that_stands_once_is_no_repetition() -> None:
    assert measure_text("three different words")["top_2_gram"] == 0.0


def test_reasons_name_the_bound_on_the_side_that_was_crossed() -> None:
    reasons = [fault.reason for fault in find_faults("a b", QUALITY_RULES)]
    assert reasons[0] == "words: 2 is below 50"
    assert find_faults("#", [QUALITY_RULES[2]])[0].reason == "hashes_per_word: 1 is above 0.1"


def test_rules_are_left_out_by_name() -> None:
    assert "words" not in {rule.name for rule in leave_out(DOCUMENT_RULES, ["words"])}
    with pytest.raises(ConfigError, match="wrods"):
        leave_out(DOCUMENT_RULES, ["wrods"])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_shares_are_shares(text: str) -> None:
    values = measure_text(text)
    shares = [value for name, value in values.items() if name.startswith(("top", "rep", "bullet", "alpha"))]
    assert all(0 <= share <= 1 for share in shares)
    assert find_faults(text) == find_faults(text)
