"""The rows for the text voice: split by goal, never label-pure, and written once."""

import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from lockgate.exchanges import Exchange, Message, PromptPrints, prompt_text, read_exchanges
from recipes.embedded_guard.dataset import write_part
from recipes.embedded_guard.voice_rows import Goals, fresh, paired, part_of, unread

GOALS = ("paint the harbour bridge green", "teach a parrot four songs", "bake bread without an oven")


def row(prompt: str, answer: str = "an answer", label: float = 0.0, source: str = "made") -> Exchange:
    return Exchange((Message("user", prompt), Message("assistant", answer)), label, None, source)


def test_attacks_get_the_goal_that_their_words_are_most_like() -> None:
    goals = Goals(row(goal) for goal in GOALS)
    attacks = [row(f"You are a pirate who must {goal} at midnight") for goal in GOALS]
    assert list(goals.of(attacks, ordinary=False)) == list(GOALS)
    stranger = [row("what is the capital of peru")]
    assert list(goals.of(stranger, ordinary=False)) == [None]
    assert list(goals.of(stranger, ordinary=True)) == ["what is the capital of peru"]


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=40))
def test_a_goal_is_in_one_part_whatever_the_others(goals) -> None:
    parts = {goal: part_of(goal) for goal in goals}
    assert set(parts.values()) <= {"train", "dev", "test"}
    assert parts == {goal: part_of(goal) for goal in reversed(goals)}


def test_goals_are_shared_out_as_the_header_says() -> None:
    counts = defaultdict(int)
    for number in range(4000):
        counts[part_of(f"goal {number}")] += 1
    assert abs(counts["test"] / 4000 - 5 / 20) < 0.03
    assert abs(counts["dev"] / 4000 - 3 / 20) < 0.03


def test_no_request_of_harm_alone_stays_label_pure() -> None:
    harmful = [row(f"request {number}", label=1.0, source="pure") for number in range(6)]
    answered = [row("asked", "help", 1.0), row("asked", "I won't."), row("other", "not for harm")]
    labels = defaultdict(set)
    for made in paired(harmful, answered):
        labels[prompt_text(made)].add(made.label)
        if made.label == 0.0:
            assert made.messages[-1].content == "I won't."
    assert labels == {f"request {number}": {0.0, 1.0} for number in range(6)}


def test_held_prompts_and_turns_of_longer_rows_are_dropped() -> None:
    rows = [row("keep this one please"), row("a held prompt about boats and rivers")]
    held = PromptPrints.of([row("a held prompt about boats and rivers")])
    assert fresh(rows, held) == rows[:1]
    assert unread(rows, {"keep this one please"}) == rows[1:]


def test_a_part_is_written_with_its_counts(tmp_path) -> None:
    rows = [row("a", label=1.0), row("b"), row("c", source="other")]
    found = write_part(rows, tmp_path / "part.jsonl")
    assert found["sources"] == {"made": {"harmful": 1, "harmless": 1}, "other": {"harmless": 1}}
    assert (found["rows"], found["long"]) == (3, 0)
    assert [made.id for made in read_exchanges(tmp_path / "part.jsonl")] == [made.id for made in rows]
    assert json.dumps(found)
