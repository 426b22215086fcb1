"""The labelled exchanges of the learning curve: balanced in every set, distinct, and apart from the pairs."""

import json
from collections import Counter

import pytest
from test_policy_pairs import most_alike

from lockgate.constitution import load_constitution
from lockgate.curation import EvaluationIndex
from lockgate.errors import ExchangeError
from lockgate.exchanges import PromptPrints, normalise_text, prompt_group, prompt_text
from lockgate.feedback import read_feedback
from recipes.policy_portability import agreement
from recipes.policy_portability.policy_labelled import LABELLED, SIZES, read_labelled, write_reviews
from recipes.policy_portability.policy_pairs import PAIRS, POLICIES, load_policies, read_pairs

ROWS = read_labelled()


def text(row) -> str:
    return "\n".join(message.content for message in row.exchange.messages)


def runs(words: str) -> set[tuple[str, ...]]:
    """The three-word runs of a text."""
    found = normalise_text(words).split(" ")
    return {tuple(found[place : place + 3]) for place in range(len(found) - 2)} or {tuple(found)}


def answer_runs(row) -> set[tuple[str, ...]]:
    return runs(row.exchange.messages[-1].content)


def test_there_are_two_hundred_rows_in_a_fixed_order() -> None:
    assert [row.row for row in ROWS] == [f"l{number:03d}" for number in range(1, 201)]
    assert SIZES[-1] == len(ROWS)
    assert len({row.exchange.id for row in ROWS}) == len({prompt_group(row.exchange) for row in ROWS}) == 200
    assert sum(len(set(row.labels.values())) > 1 for row in ROWS) >= 60
    turns = Counter(sum(message.role == "user" for message in row.exchange.messages) for row in ROWS)
    assert set(turns) == {1, 2, 3}
    assert turns[2] + turns[3] >= 30


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", SIZES)
def test_each_set_is_balanced(name, size) -> None:
    rows = ROWS[:size]
    assert sum(row.labels[name] for row in rows) == size // 2
    policy = load_policies()[name]
    harmful = {entry.id for entry in policy.harmful}
    for row in rows:
        assert (row.categories[name] in harmful) == bool(row.labels[name])
    counts = Counter(row.categories[name] for row in rows if row.labels[name])
    assert set(counts) <= harmful
    # No category takes more than half of the harmful rows, and the whole has them all.
    assert max(counts.values()) <= size / 4
    if size == SIZES[-1]:
        assert set(counts) == harmful
        assert min(counts.values()) >= 8


def test_none_is_in_the_pairs_or_near_one() -> None:
    index = EvaluationIndex.from_files([PAIRS])
    assert not [row.row for row in ROWS if index.find_leak(row.exchange)]
    pairs = [row.exchange for row in read_pairs()]
    prints = PromptPrints.of(pairs)
    assert not any(prints.find([prompt_text(row.exchange) for row in ROWS]))
    words = [runs(exchange.messages[-1].content) for exchange in pairs]
    holders: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(words):
        for run in found:
            holders.setdefault(run, []).append(number)
    nearest = 0.0
    for own in map(answer_runs, ROWS):
        shared = Counter(number for run in own for number in holders.get(run, ()))
        found = (n / (len(own) + len(words[number]) - n) for number, n in shared.items())
        nearest = max([nearest, *found])
    assert nearest < 0.2


def test_no_two_rows_are_alike() -> None:
    assert most_alike([(row.row, text(row)) for row in ROWS]) < 0.3


@pytest.mark.parametrize("name", POLICIES)
def test_they_are_reviews_that_a_build_reads(tmp_path, name) -> None:
    policy = load_policies()[name]
    write_reviews(ROWS[:50], name, tmp_path / "reviews.jsonl")
    found = read_feedback(tmp_path / "reviews.jsonl", policy)
    assert [review.label for review in found.reviews] == [row.labels[name] for row in ROWS[:50]]
    assert [review.category for review in found.reviews] == [row.categories[name] for row in ROWS[:50]]
    assert found.conflicts == ()
    # The labels under the other policy stay at home.
    assert "labels" not in (tmp_path / "reviews.jsonl").read_text()


def test_a_line_without_labels_is_named(tmp_path) -> None:
    line = json.loads(LABELLED.read_text(encoding="utf-8").splitlines()[0])
    for key, value in (
        ("labels", {"stage-magic": 1}),
        ("categories", None),
        ("messages", line["messages"][:1]),
    ):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps({**line, key: value}) + "\n")
        with pytest.raises(ExchangeError, match=r"rows\.jsonl: exchange 1: expected an answer, and labels"):
            read_labelled(path)


def test_the_agreement_follows_from_the_second_reading(monkeypatch, tmp_path) -> None:
    found = agreement.compute_labelled()
    assert found == json.loads(agreement.LABELLED_TARGET.read_text())
    assert sorted(found["differing"]) == sorted(found["rewritten"])
    short = tmp_path / "labelled_reading.tsv"
    short.write_text("\n".join(agreement.LABELLED_READING.read_text().splitlines()[:-1]) + "\n")
    monkeypatch.setattr(agreement, "LABELLED_READING", short)
    with pytest.raises(SystemExit, match="expected one line for each exchange"):
        agreement.compute_labelled()


def test_the_shipped_policy_is_the_one_that_was_read() -> None:
    assert load_policies()["stage-magic"].sha256 == load_constitution("stage-magic").sha256
