"""Following a log part by part: the oracle is the whole log, on both databases."""

import pytest
from logs import decision, opened_log
from sqlalchemy import event, text

from lockgate.databases import Database
from lockgate.decisions import open_log
from lockgate.decisions._onward import read_onward
from lockgate.decisions._schema import LOG_SCHEMA, place_of


def gathered(log, most, seen=None):
    """Everything that is left, in parts, and where the last part ended."""
    found, seen = [], {} if seen is None else seen
    while True:
        part = log.onward(seen, most)
        assert len(part.lines) <= most
        found += part.lines
        seen = part.seen
        if not part.more:
            return found, seen


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_each_decision_comes_once_also_those_that_are_written_meanwhile(place, most):
    logs = [opened_log(place, writer=writer) for writer in ("one", "two")]
    for number in range(12):
        logs[number % 2].write(decision(number))
    logs[0].close()
    with open_log(place) as log:
        found, seen = gathered(log, most)
        for number in range(12, 20):
            logs[1].write(decision(number))
        logs[1].close()
        later, seen = gathered(log, most, seen)
        assert log.onward(seen) == ((), seen, False)
        every = [line.decision.id for line in gathered(log, most)[0]]
    names = [line.decision.id for line in (*found, *later)]
    assert sorted(names) == sorted(every) == sorted(f"chatcmpl-{number}" for number in range(20))
    for chain in {line.chain for line in later}:
        numbers = [line.seq for line in (*found, *later) if line.chain == chain]
        assert numbers == sorted(numbers)


def test_what_is_read_at_once_comes_in_the_order_of_time(place):
    logs = [opened_log(place, writer=writer) for writer in ("one", "two")]
    for number in range(10):
        logs[number % 2].write(decision(number))
    for log in logs:
        log.close()
    with open_log(place) as log:
        lines = log.onward({}).lines
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert len(lines) == 10


def test_a_damaged_record_is_passed_over_and_a_chain_of_elsewhere_is_kept(place):
    log = opened_log(place)
    for number in range(3):
        log.write(decision(number))
    log.close()
    database = Database(place_of(place), LOG_SCHEMA)
    database.open()
    with database.writing() as connection:
        connection.execute(text("UPDATE entries SET body = 'x' WHERE exchange = 'chatcmpl-1'"))
    with open_log(place) as opened:
        lines, seen, _ = opened.onward({"elsewhere": 7})
        assert [line.decision.id for line in lines] == ["chatcmpl-0", "chatcmpl-2"]
        assert seen.pop("elsewhere") == 7
        assert seen == opened.tips()
    database.close()


def test_a_part_is_read_by_its_place_alone(tmp_path):
    """The cost of a part does not grow with the log: no scan, and no index but that of the place."""
    path = tmp_path / "decisions.db"
    opened_log(path).close()
    database = Database(place_of(path), LOG_SCHEMA)
    database.open()
    plans = []

    with database.reading() as connection:

        def explain(conn, cursor, statement, parameters, context, many):
            if "entries.body" in statement:
                plans.append(cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())

        event.listen(connection, "before_cursor_execute", explain)
        read_onward(connection, {}, 10)
    database.close()
    assert len(plans) == 1
    (step,) = plans[0]
    assert "USING PRIMARY KEY" in step[3] or "sqlite_autoindex_entries_1 (chain=? AND seq>?)" in step[3]
