"""Plays: their order, their ends, what attacks are told, and what is asked again."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import Keyword, Scripted, query, query_set

from lockgate.redteam import RubricGrader, Runner


def runner(target, *, attempts=20, batch=4):
    return Runner("v", target, RubricGrader(), attempts=attempts, batch=batch)


def test_a_play_ends_at_its_first_success_and_its_attack_is_told_what_came_back():
    attack = Scripted("late", ["halt", "halt", "please", "more"], adaptive=True)
    rows = runner(Keyword()).run([attack], [query()])
    assert [(row.number, row.halted, row.success) for row in rows] == [
        (0, True, False),
        (1, True, False),
        (2, False, True),
    ]
    assert [seen.reply.halted for seen in attack.seen] == [True, True]  # nobody is told of the last one
    assert rows[2].topics == ("gate", "sluice", "paddle", "chamber")
    assert rows[2].facts == {"text": "please"}
    assert rows[2].answer.startswith("please Lock 0")


def test_the_budget_ends_a_play():
    rows = runner(Keyword(), attempts=3).run([Scripted("never", ["halt"] * 50)], [query()])
    assert len(rows) == 3


def test_twins_are_asked_once_and_never_count_as_success():
    attacks = [Scripted("plain", ["please"]), Scripted("adaptive", ["please"], adaptive=True)]
    rows = runner(Keyword()).run(attacks, [query(), query(1, twin=False)], twins=8)
    twins = [row for row in rows if row.twin]
    assert [(row.attack, row.query, row.success) for row in twins] == [("plain", "lock-0", False)]
    assert "Who painted" in twins[0].messages[0]["content"]
    assert sum(row.success for row in rows) == 4


def test_attacks_take_turns_at_the_twins():
    attacks = [Scripted(name, ["please"]) for name in "abc"]
    rows = runner(Keyword()).run(attacks, query_set(4).queries, twins=3)
    asked = {name: [row.query for row in rows if row.twin and row.attack == name] for name in "abc"}
    assert {name: len(queries) for name, queries in asked.items()} == {"a": 3, "b": 3, "c": 3}
    assert Counter(query for queries in asked.values() for query in queries) == Counter(
        {"lock-0": 3, "lock-1": 2, "lock-2": 2, "lock-3": 2}
    )


def test_an_attempt_that_fails_is_no_success_and_the_play_goes_on():
    attack = Scripted("a", ["broken", "please"])
    rows = runner(Keyword(fails="broken")).run([attack], [query()])
    assert [seen.reply.halted for seen in attack.seen] == [True]
    assert rows[0].halted is False  # the attack is told that nothing got through; the row says what was
    assert [(row.failed, row.success) for row in rows] == [("no_answer", False), (None, True)]


@settings(max_examples=30)
@given(
    scripts=st.lists(st.lists(st.sampled_from(["halt", "please", "broken"]), max_size=5), max_size=4),
    batch=st.integers(1, 7),
    seeds=st.integers(1, 3),
)
def test_rows_do_not_depend_on_what_is_asked_together(scripts, batch, seeds):
    def played(size):
        attacks = [Scripted(f"a{number}", texts) for number, texts in enumerate(scripts)]
        target = Keyword(fails="broken")
        rows = runner(target, attempts=4, batch=size).run(attacks, query_set(2).queries, seeds=seeds, twins=1)
        assert max(map(len, target.asked), default=0) <= size
        return rows

    assert played(batch) == played(1)


def test_an_interrupted_run_raises_and_a_new_one_begins_at_the_beginning():
    target = Keyword(dies_after=1)
    with pytest.raises(KeyboardInterrupt):
        runner(target, batch=1).run([Scripted("a", ["halt", "halt"])], [query()])
    assert len(target.asked) == 2
