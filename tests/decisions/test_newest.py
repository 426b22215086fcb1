"""Searching the newest decisions: the oracle is a list in memory, on both databases."""

import pytest
from logs import decision, opened_log
from sqlalchemy import event, text

from lockgate.databases import Database
from lockgate.decisions import open_log
from lockgate.decisions._schema import LOG_SCHEMA, place_of
from lockgate.decisions._store import newest_rows
from lockgate.errors import ConfigError


@pytest.fixture
def filled(place):
    """A log with 60 decisions of two writers, some at the same time."""
    for writer in ("one", "two"):
        log = opened_log(place, writer=writer)
        for number in range(30):
            name = number + 30 * (writer == "two")
            log.write(decision(name, decision="halt" if number % 4 == 0 else "pass"))
        log.close()
    return place


def names(found):
    return [line.decision.id for line in found.lines]


def test_all_come_newest_first(filled):
    with open_log(filled) as log:
        expected = [stored.record["id"] for stored in log.records()][::-1]
        found = log.find()
    assert len(expected) == 60
    assert sorted(names(found)) == sorted(expected)
    assert [line.at for line in found.lines] == sorted((line.at for line in found.lines), reverse=True)
    assert (found.read, found.end, found.damaged) == (60, None, 0)


@pytest.mark.parametrize("count", [1, 7, 60, 61])
@pytest.mark.parametrize("most", [1, 9, 1000])
def test_pages_hold_each_decision_once(filled, count, most):
    with open_log(filled) as log:
        whole = names(log.find(lambda one: one.flagged))
        assert len(whole) == 16
        gathered, place = [], None
        while True:
            found = log.find(lambda one: one.flagged, count=count, most=most, before=place)
            assert len(found.lines) <= count
            assert found.read <= most
            gathered += names(found)
            place = found.end
            if place is None:
                break
    assert gathered == whole


def test_times_bound_the_search(filled):
    with open_log(filled) as log:
        every = log.find().lines
        middle = every[30].at
        assert names(log.find(since=middle)) == [line.decision.id for line in every if line.at >= middle]
        assert names(log.find(until=middle)) == [line.decision.id for line in every if line.at < middle]
        assert log.find(since="2100").read == 0


def test_one_decision_with_its_content(filled):
    with open_log(filled) as log:
        assert log.one("chatcmpl-7", 0).record["id"] == "chatcmpl-7"
        assert log.one("chatcmpl-7", 1) is None
        assert log.one("' OR 1=1 --", 0) is None


@pytest.mark.parametrize("place_", ["", "x", "a_b_c", "a_b_-1", "a_b_" + "9" * 19, "a_b_²"])
def test_what_is_no_place_is_refused(filled, place_):
    with open_log(filled) as log, pytest.raises(ConfigError, match="before: expected the place"):
        log.find(before=place_)


def test_damaged_records_are_counted(filled):
    database = Database(place_of(filled), LOG_SCHEMA)
    database.open()
    with database.writing() as connection:
        connection.execute(text("UPDATE entries SET body = '{}' WHERE exchange = 'chatcmpl-3'"))
    database.close()
    with open_log(filled) as log:
        found = log.find()
    assert (found.damaged, len(found.lines)) == (1, 59)


@pytest.mark.parametrize(
    ("limits", "step"),
    [
        ({}, "SCAN entries USING INDEX entries_at"),
        ({"since": "2020"}, "SEARCH entries USING INDEX entries_at (at>?)"),
        (
            {"since": "2020", "before": ("2021", "a", 1)},
            "SEARCH entries USING INDEX entries_at (at>? AND at<?)",
        ),
    ],
)
def test_sqlite_reads_only_what_it_must(tmp_path, limits, step):
    """The search goes down the index of times; it sorts no part of the log but equal times."""
    place = tmp_path / "decisions.db"
    opened_log(place).close()
    database = Database(place_of(place), LOG_SCHEMA)
    database.open()
    seen = []
    with database.reading() as connection:
        event.listen(connection, "before_cursor_execute", lambda *call: seen.append((call[2], call[3])))
        assert list(newest_rows(connection, "decision", most=5, **limits)) == []
        statement, values = seen[-1]
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
    database.close()
    assert plan[0] == step
    assert plan[1:] in (
        ["USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"],
        ["USE TEMP B-TREE FOR LAST 2 TERMS OF ORDER BY"],
    )
