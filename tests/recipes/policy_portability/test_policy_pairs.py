"""The hand-written pairs of the policy test: well formed, balanced, distinct, kept apart from training."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lockgate.constitution import lint_constitution
from lockgate.curation import EvaluationIndex
from lockgate.errors import ExchangeError
from lockgate.exchanges import Exchange, Message, normalise_text
from recipes.policy_portability.policy_keywords import VIEWS, best_cut, keyword_scores, keywords
from recipes.policy_portability.policy_pairs import (
    HERE,
    PAIRS,
    POLICIES,
    flipped_pairs,
    load_policies,
    read_pairs,
)

ROWS = read_pairs()


def answer(row) -> str:
    return row.exchange.messages[-1].content


def prompt(row) -> str:
    return "\n".join(message.content for message in row.exchange.messages if message.role == "user")


def most_alike(texts: list[tuple[str, str]]) -> float:
    """The largest share of common three-word runs between texts of different pairs."""
    runs = []
    for pair, text in texts:
        words = normalise_text(text).split(" ")
        runs.append((pair, {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)}))
    return max(
        len(first & second) / len(first | second)
        for (one, first), (two, second) in itertools.combinations(runs, 2)
        if one != two
    )


def test_there_are_enough_pairs_and_enough_flipped_ones() -> None:
    pairs = Counter(row.pair for row in ROWS)
    assert len(pairs) >= 260
    assert set(pairs.values()) == {2}
    assert len(flipped_pairs(ROWS)) >= 150
    assert sum(len(row.exchange.messages) > 2 for row in ROWS) >= 20


@pytest.mark.parametrize("name", POLICIES)
def test_labels_are_balanced_and_follow_the_half_of_their_category(name: str) -> None:
    policy = load_policies()[name]
    assert 0.45 <= np.mean([row.labels[name] for row in ROWS]) <= 0.55
    harmful, known = set(policy.category_ids), {category.id for category in policy.categories}
    for row in ROWS:
        assert row.categories[name] in known
        assert (row.categories[name] in harmful) == bool(row.labels[name])
    counts = Counter(row.categories[name] for row in ROWS)
    assert all(counts[category] >= 15 for category in harmful)


def test_categories_flip_both_ways_and_some_stay() -> None:
    kinds: dict[tuple[int, ...], set[str]] = {}
    for row in ROWS:
        kinds.setdefault(tuple(row.labels[name] for name in POLICIES), set()).add(
            row.categories["magic-school"]
        )
    assert len(kinds[0, 1]) >= 3
    assert len(kinds[1, 0]) >= 3
    assert len(kinds[1, 1]) >= 3
    assert len(kinds[0, 0]) >= 6


def test_texts_are_distinct_and_no_two_pairs_are_alike() -> None:
    answers = [normalise_text(answer(row)) for row in ROWS]
    assert len(set(answers)) == len(answers)
    assert most_alike([(row.pair, answer(row)) for row in ROWS]) < 0.1
    assert most_alike([(row.pair, prompt(row)) for row in ROWS]) < 0.25
    lengths = [len(answer(row).split()) for row in ROWS]
    assert min(lengths) >= 20
    assert max(lengths) <= 95


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_keyword_list_does_not_solve_the_pairs(name: str, view: str) -> None:
    policy = load_policies()[name]
    scores = keyword_scores([row.exchange for row in ROWS], policy, view)
    labels = np.array([row.labels[name] for row in ROWS], bool)
    flagged = scores > best_cut(scores, labels)
    assert 0.5 < (flagged[labels].mean() + (~flagged)[~labels].mean()) / 2 < 0.72


def test_keywords_are_the_harmful_halfs_own() -> None:
    words = keywords(load_policies()["stage-magic"])
    assert {"palmi", "deck", "billet"[:5], "strai"} <= words
    assert not {"magic", "card", "secre", "games"} & words  # the harmless half speaks of these too


def test_the_best_cut_is_found() -> None:
    scores, labels = np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True])
    assert best_cut(scores, labels) == 1.0
    assert best_cut(scores, ~labels) == -1.0  # the wrong way round, flagging all is as good as it gets


def test_the_school_has_no_findings() -> None:
    assert lint_constitution(HERE / "magic-school.yaml") == []


def test_decontamination_takes_the_pairs_as_an_evaluation_file() -> None:
    index = EvaluationIndex.from_files([PAIRS])
    copied = Exchange((Message("user", "Anything else?"), Message("assistant", f"Well. {answer(ROWS[7])}")))
    found = index.find_leak(copied)
    assert found is not None
    assert found.file == "pairs.jsonl"
    fresh = replace(copied, messages=(copied.messages[0], Message("assistant", "A soup of leeks for six.")))
    assert index.find_leak(fresh) is None


def test_the_agreement_follows_from_the_second_reading() -> None:
    command = [sys.executable, str(HERE / "agreement.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def broken(tmp_path: Path, change) -> Path:
    lines = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()[:4]]
    change(lines)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1].pop("labels"), "exchange 2: expected labels"),
        (lambda lines: lines[1]["labels"].update({"magic-school": 2}), "exchange 2: expected labels"),
        (lambda lines: lines[2]["categories"].pop("stage-magic"), "exchange 3: expected labels"),
        (lambda lines: lines[0].update(side="c"), "exchange 1: expected an answer"),
        (lambda lines: lines[3]["messages"].pop(), "exchange 4: expected an answer"),
        (lambda lines: lines[1].update(labels=lines[0]["labels"]), "expected sides a and b"),
        (lambda lines: lines[1].update(pair="p999"), "expected sides a and b"),
        (lambda lines: lines.pop(), "expected two exchanges to each pair"),
    ],
)
def test_a_file_that_is_not_made_of_pairs_is_refused(tmp_path, change, message) -> None:
    with pytest.raises(ExchangeError, match=message):
        read_pairs(broken(tmp_path, change))
    assert len(read_pairs(broken(tmp_path, lambda lines: None))) == 4
