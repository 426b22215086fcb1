import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockgate.curation import EvaluationIndex
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message, write_exchanges

WORDS = [f"word{number}" for number in range(2000)]


def exchange(asked: str, said: str | None = None) -> Exchange:
    messages = [Message("user", asked)] + ([Message("assistant", said)] if said else [])
    return Exchange(tuple(messages))


def words(seed: int, count: int) -> list[str]:
    return random.Random(seed).sample(WORDS, count)


LONG = exchange(" ".join(words(1, 60)), " ".join(words(2, 80)))
MIDDLE = exchange("How does the assistant leave the box before the saw?")
SHORT = exchange("Where is the coin?")
INDEX = EvaluationIndex([("long.jsonl", [LONG]), ("short.jsonl", [MIDDLE, SHORT])])


def test_a_planted_leak_is_named_by_file_and_id() -> None:
    run = LONG.messages[0].content.split(" ")[20:33]
    leak = INDEX.find_leak(exchange(" ".join([*words(3, 30), *run, *words(4, 30)])))
    assert leak is not None
    assert (leak.file, leak.id, leak.part, leak.rule) == ("long.jsonl", LONG.id, "prompt", "ngram")
    assert leak.value == pytest.approx(1 / 48)
    assert leak.reason == f"leak of prompt {LONG.id} of long.jsonl: ngram 0.02083"


def test_one_word_less_is_no_leak() -> None:
    run = LONG.messages[0].content.split(" ")[20:32]
    assert INDEX.find_leak(exchange(" ".join([*words(3, 30), *run, *words(4, 30)]))) is None


def test_an_equal_message_leaks_whatever_its_case_turn_and_length() -> None:
    row = Exchange(
        (Message("user", "WHERE is the coin"), Message("assistant", "Here."), Message("user", "And?"))
    )
    leak = INDEX.find_leak(row)
    assert leak is not None
    assert (leak.file, leak.id, leak.rule) == ("short.jsonl", SHORT.id, "equal")


def test_a_short_item_inside_a_row_is_no_leak_and_a_middle_one_is() -> None:
    assert INDEX.find_leak(exchange("Tell the audience: where is the coin? Then pause.")) is None
    leak = INDEX.find_leak(exchange("Well: " + MIDDLE.messages[0].content + " Please."))
    assert leak is not None
    assert (leak.id, leak.rule, leak.value) == (MIDDLE.id, "ngram", 1.0)


def test_an_answer_leaks_and_a_row_is_judged_by_its_worst_item() -> None:
    first, second = LONG.messages[0].content.split(" "), LONG.messages[1].content
    leak = INDEX.find_leak(exchange(" ".join(first[:13]), f"So: {second}"))
    assert leak is not None
    assert (leak.part, leak.value) == ("answer", 1.0)


def test_a_near_duplicate_without_a_shared_run_is_found() -> None:
    item = words(5, 120)
    index = EvaluationIndex([("e.jsonl", [exchange(" ".join(item))])])
    # Every thirteenth word is another one: no run of 13 is shared. At that density 5-grams differ too much
    # to be near, so a text shorter than a run shows the rule: one word of 12 is changed at its end.
    changed = [word if place % 13 != 12 else f"new{place}" for place, word in enumerate(item)]
    assert index.find_leak(exchange(" ".join(changed))) is None
    short = item[:12]
    near = EvaluationIndex([("e.jsonl", [exchange(" ".join(short))])]).find_leak(
        exchange(" ".join([*short[:-1], "other"]))
    )
    assert near is not None
    assert near.rule == "near"
    assert near.value == pytest.approx(7 / 9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 47), st.integers(13, 60), st.randoms(use_true_random=False))
def test_any_run_of_13_words_is_caught(start: int, size: int, rng: random.Random) -> None:
    run = LONG.messages[0].content.split(" ")[start : start + size]
    around = [f"new{number}" for number in range(40)]
    cut = rng.randrange(40)
    leak = INDEX.find_leak(exchange(" ".join([*around[:cut], *run, *around[cut:]])))
    assert leak is not None
    assert leak.id == LONG.id


def test_files_are_named_and_empty_ones_refused(tmp_path: Path) -> None:
    write_exchanges(tmp_path / "held_out.jsonl", [MIDDLE])
    index = EvaluationIndex.from_files([tmp_path / "held_out.jsonl"])
    leak = index.find_leak(MIDDLE)
    assert len(index) == 1
    assert leak is not None
    assert leak.file == "held_out.jsonl"
    write_exchanges(tmp_path / "empty.jsonl", [])
    with pytest.raises(ExchangeError, match=r"empty\.jsonl"):
        EvaluationIndex.from_files([tmp_path / "empty.jsonl"])


def test_an_empty_index_finds_nothing() -> None:
    assert EvaluationIndex([]).find_leak(LONG) is None
