"""Decision logs as evidence: which exchanges count, and as what."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import decision, opened_log
from parts import make_guard

from lockgate.calibration.sequential import watch_rate
from lockgate.decisions import Content, Scores, Turn, make_keys
from lockgate.errors import CalibrationError, ExchangeError
from lockgate.exchanges import Exchange, Message
from lockgate.traffic import read_logged

BUDGET = 0.3


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    made = make_guard(flag=1.0, flag_on="answer")
    return made.save(tmp_path_factory.mktemp("guard") / "own")


def turns(prompt: str, number: int) -> Content:
    return Content((Turn("user", prompt), Turn("assistant", f"answer {number}")))


def exchange_id(prompt: str, number: int) -> str:
    return Exchange((Message("user", prompt), Message("assistant", f"answer {number}"))).id


def log_of(place, guard, rows, **options):
    """A log with a record for each row: its prompt, its score, and fields that differ."""
    log = opened_log(place, **{"content": "full", **options})
    for number, (prompt, score, fields) in enumerate(rows):
        usual = {
            "guard": guard.sha256,
            "measure": guard.record.measure,
            "mode": "shadow",
            "decision": "halt" if score > 1 else "pass",
            "scores": Scores(None, score, 1.0),
            "stage": 1,
        }
        log.write(decision(number, **{**usual, **fields}), turns(prompt, number))
    assert log.close().unwritten == 0
    return place


def test_what_counts_and_what_is_left_out(guard, tmp_path):
    rows = [
        ("why", 0.5, {}),
        ("why", 2.0, {}),
        ("how", 3.0, {"mode": "enforce", "enforced": True}),
        ("who", 0.0, {"decision": "cancelled"}),
        ("who", 0.0, {"decision": "error", "reason": "x"}),
        ("who", 0.0, {"guard": None, "measure": None}),
        ("who", 0.0, {"guard": "00", "measure": "00"}),
    ]
    logged = read_logged(guard.path, [log_of(tmp_path / "log.db", guard, rows)])
    assert [row.id for row in logged.rows] == ["chatcmpl-0/0", "chatcmpl-1/0", "chatcmpl-2/0"]
    assert logged.left_out == {
        "exchanges that their clients broke off": 1,
        "exchanges that could not be checked": 1,
        "exchanges without a guard": 1,
        "exchanges that another guard judged": 1,
    }
    table = logged.table()
    assert table.ids == ["chatcmpl-0/0", "chatcmpl-1/0"]
    assert len(set(table.groups)) == 1
    assert table.floats("mixed_max").tolist() == [0.5, 2.0]
    listed = logged.confirmed(frozenset({exchange_id("how", 2), "no such"}))
    assert [row.id for row in listed] == ["chatcmpl-2/0"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefghij"), st.booleans(), st.booleans()), min_size=1, max_size=30)
)
def test_each_prompt_counts_once_and_what_reviewers_found_harmful_does_not(guard, tmp_path_factory, rows):
    """Against a plain count of the same rows."""
    place = tmp_path_factory.mktemp("watch") / "log.db"
    written = [(prompt, 2.0 if halted else 0.0, {}) for prompt, halted, _ in rows]
    logged = read_logged(guard.path, [log_of(place, guard, written)])
    harmful = {exchange_id(prompt, n) for n, (prompt, _, reviewed) in enumerate(rows) if reviewed}
    first = {}
    for prompt, halted, reviewed in rows:
        if not reviewed:
            first.setdefault(prompt, halted)
    flagged = [place for place, halted in enumerate(first.values(), start=1) if halted]
    assert logged.watch(BUDGET, frozenset(harmful)) == watch_rate(len(first), flagged, BUDGET)


@pytest.mark.parametrize("mode", ["redacted", "full"])
def test_kept_texts_tell_prompts_apart(guard, tmp_path, mode):
    rows = [("why the lock", 0.0, {}), ("why the boat", 0.0, {}), ("why the lock", 0.0, {})]
    place = log_of(tmp_path / "log.db", guard, rows, content=mode)
    assert len(set(read_logged(guard.path, [place]).table().groups)) == 2


def test_sealed_texts_need_their_key(guard, tmp_path):
    public, private = make_keys()
    rows = [("why", 0.0, {}), ("how", 0.0, {})]
    place = log_of(tmp_path / "log.db", guard, rows, content="encrypted", public_key=public)
    assert len(read_logged(guard.path, [place], key=private).table()) == 2
    with pytest.raises(CalibrationError, match=r"no readable text of its 2 exchanges.*--key"):
        read_logged(guard.path, [place]).table()


def test_without_text_each_exchange_counts_in_the_rate_and_none_in_a_threshold(guard, tmp_path):
    place = log_of(tmp_path / "log.db", guard, [("why", 2.0, {}), ("why", 2.0, {})], content="none")
    logged = read_logged(guard.path, [place])
    assert (logged.watch(BUDGET).n, logged.watch(BUDGET).flags) == (2, 2)
    with pytest.raises(CalibrationError, match="keeps no readable text"):
        logged.table()


def test_answers_that_may_be_stopped_set_no_threshold(guard, tmp_path):
    place = log_of(tmp_path / "log.db", guard, [("why", 0.0, {"mode": "enforce"})])
    with pytest.raises(CalibrationError, match="none of its 1 exchanges was recorded in shadow mode"):
        read_logged(guard.path, [place]).table()


def test_a_log_of_another_guard_is_refused(guard, tmp_path):
    place = log_of(tmp_path / "log.db", guard, [("why", 0.0, {"guard": "00", "measure": "00"})])
    with pytest.raises(ExchangeError, match="no record has scores that guard"):
        read_logged(guard.path, [place])


def test_an_answer_without_a_score_is_never_flagged(guard, tmp_path):
    place = log_of(tmp_path / "log.db", guard, [("why", 0.0, {"scores": Scores(None, None, 1.0)})])
    assert [row.score for row in read_logged(guard.path, [place]).rows] == [-math.inf]
