"""The log in real databases: what is written is there, in a chain, and old records can be removed."""

import json
import subprocess
import sys
import threading

import pytest
from logs import checked, decision, decisions_in, numbers_in, opened_log, started
from sqlalchemy import text

from lockgate.databases import Database
from lockgate.decisions import DecisionLog, LogOptions, Scores, Tip, open_log, purge_log
from lockgate.decisions._schema import LOG_SCHEMA, place_of


def change(where, statement, **values):
    """Change the database behind the log's back."""
    database = Database(place_of(where), LOG_SCHEMA)
    database.open(create=False)
    with database.writing() as connection:
        connection.execute(text(statement), values)
    database.close()


def test_records_are_there_when_the_writer_says_so(place):
    log = opened_log(place)
    seen = []
    for number in range(3):
        done = threading.Event()
        log.begin(started(number))
        log.write(decision(number), then=lambda kept, done=done: (seen.append(kept), done.set()))
        assert done.wait(30)
        assert numbers_in(place) == list(range(number + 1))
    assert seen == [True] * 3
    assert (log.written, log.unwritten, log.failure) == (3, 0, None)
    assert log.close().unwritten == 0
    report = checked(place)
    assert (report.entries, report.decisions, report.open, report.unfinished) == (8, 3, [], 0)
    assert decisions_in(place)[0]["scores"] == {"max_prompt": None, "max_answer": 1.5, "threshold": 3.0}


def test_each_start_has_a_chain_that_names_the_one_before(place):
    for number in range(3):
        log = opened_log(place, writer="me")
        log.write(decision(number))
        log.close()
    report = checked(place)
    assert len(report.heads) == 3
    change(place, "DELETE FROM entries WHERE chain = :chain", chain=report.heads[1].chain)
    with open_log(place) as opened:
        [found] = opened.verify().breaks
    assert (found.writer, found.chain, found.seq) == ("me", report.heads[2].chain, 0)


def test_an_edit_in_the_database_is_found_and_heads_find_what_was_cut_off(place):
    log = opened_log(place, writer="me")
    for number in range(5):
        log.write(decision(number))
    log.close()
    chain = checked(place).heads[0].chain
    with open_log(place) as opened:
        heads = opened.verify().heads
    change(place, "DELETE FROM entries WHERE seq > 3")
    assert checked(place).open == [chain]
    with open_log(place) as opened:
        assert "is missing" in opened.verify(heads).breaks[0].what
    change(place, "UPDATE entries SET body = replace(body, 'pass', 'halt') WHERE seq = 2")
    with open_log(place) as opened:
        [found] = opened.verify().breaks
    assert (found.writer, found.chain, found.seq) == ("me", chain, 2)


def test_many_writers_have_chains_of_their_own(place):
    logs = [opened_log(place, writer=f"writer-{number}") for number in range(3)]
    for number in range(60):
        logs[number % 3].write(decision(number))
    for log in logs:
        assert log.close().unwritten == 0
    report = checked(place)
    assert (len(report.heads), report.decisions) == (3, 60)
    assert sorted(numbers_in(place)) == list(range(60))


def test_an_exchange_without_a_decision_is_counted(place):
    log = opened_log(place)
    log.begin(started(0, choices=3))
    log.begin(started(1))
    log.write(decision(0, choice=1))
    log.write(decision(1))
    log.close()
    assert checked(place).unfinished == 2


def moments(place):
    with open_log(place) as opened:
        return [stored.at for stored in opened.records()]


def age(place, chain, upto, at):
    """Make entries old, with fitting hashes, as time would."""
    from lockgate.decisions._chain import NOTHING, link
    from lockgate.decisions._store import read_entries

    database = Database(place_of(place), LOG_SCHEMA)
    database.open(create=False)
    with database.writing() as connection:
        previous = NOTHING
        for entry in list(read_entries(connection)):
            if entry.chain != chain:
                continue
            from dataclasses import replace

            draft = replace(entry.draft, at=at) if entry.seq <= upto else entry.draft
            previous = link(previous, chain, entry.seq, draft)
            connection.execute(
                text("UPDATE entries SET at = :at, hash = :hash WHERE chain = :chain AND seq = :seq"),
                {"at": draft.at, "hash": previous, "chain": chain, "seq": entry.seq},
            )
    database.close()


def test_a_purge_removes_old_records_and_the_chains_still_hold(place):
    log = opened_log(place, writer="me")
    for number in range(6):
        log.write(decision(number))
    log.close()
    chain = checked(place).heads[0].chain
    age(place, chain, 3, "2020-01-01T00:00:00.000Z")
    heads = checked(place).heads
    assert purge_log(place, "2019-01-01T00:00:00.000Z", "operator") == 0
    assert purge_log(place, "2021-01-01T00:00:00.000Z", "operator", shrink=True) == 4
    assert numbers_in(place) == [3, 4, 5]
    with open_log(place) as opened:
        report = opened.verify(heads)
        purges = [stored.record for stored in opened.records(kinds=["purge"])]
    assert report.ok
    assert (purges[-1]["entries"], purges[-1]["removed"][0]["seq"]) == (4, 3)
    # What follows the removed part can't be taken away with it.
    change(place, "DELETE FROM entries WHERE chain = :chain AND seq = 4", chain=chain)
    with open_log(place) as opened:
        assert opened.verify().breaks[0].seq == 5


def test_everything_can_be_purged_again_and_again_while_a_server_writes(place):
    log = opened_log(place, writer="me")
    total = 0
    for number in range(4):
        done = threading.Event()
        log.write(decision(number), then=lambda kept, done=done: done.set())
        assert done.wait(30)
        total += purge_log(place, "2999-01-01T00:00:00.000Z", "operator")
        assert numbers_in(place) == []
        checked(place)
    log.write(decision(9))
    assert log.close().unwritten == 0
    assert numbers_in(place) == [9]
    checked(place)
    assert total >= 8
    opened_log(place, writer="me").close()
    checked(place)


def test_retention_purges_by_itself(place):
    log = opened_log(place, writer="me")
    for number in range(3):
        log.write(decision(number))
    log.close()
    age(place, checked(place).heads[0].chain, 3, "2020-01-01T00:00:00.000Z")
    log = DecisionLog(LogOptions(place, writer="me", retention_days=30))
    told, done = [], threading.Event()
    log.on_purge = lambda days: (told.append(days), done.set())
    log.open()
    log.write(decision(7))
    assert done.wait(30)
    log.close()
    assert numbers_in(place) == [7]
    assert told == [30]
    checked(place)


def test_a_purge_that_fails_stops_no_record(place, caplog):
    log = opened_log(place, writer="me")
    log.write(decision(0))
    log.close()
    age(place, checked(place).heads[0].chain, 1, "2020-01-01T00:00:00.000Z")
    assert purge_log(place, "2021-01-01T00:00:00.000Z", "operator") == 2
    change(place, "UPDATE entries SET body = '[]' WHERE kind = 'purge'")
    opened_log(place, writer="me").close()
    age_all = "UPDATE entries SET at = '2020-01-01T00:00:00.000Z'"
    change(place, age_all)
    log = opened_log(place, writer="me", retention_days=30)
    done = threading.Event()
    log.write(decision(7), then=lambda kept: done.set())
    assert done.wait(30)
    assert log.close().unwritten == 0
    assert numbers_in(place)[-1] == 7
    assert "old records stay for another hour" in caplog.text


def test_new_records_are_seen_as_they_come(place):
    log = opened_log(place)
    log.write(decision(0))
    with open_log(place) as opened:
        seen = opened.tips()
        done = threading.Event()
        log.write(decision(1), then=lambda kept: done.set())
        assert done.wait(30)
        new = [stored.record["id"] for stored in opened.new(seen)]
        assert new[-1] == "chatcmpl-1"
        assert opened.new(seen) == []
        assert [stored.record["id"] for stored in opened.last(1)] == ["chatcmpl-1"]
    log.close()


def test_the_file_is_private(tmp_path):
    path = tmp_path / "new" / "decisions.db"
    log = opened_log(path)
    log.write(decision())
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    log.close()
    assert set(modes.values()) == {0o600}


def test_sqlite_tools_read_it(tmp_path):
    path = tmp_path / "decisions.db"
    log = opened_log(path)
    log.write(decision(scores=Scores(None, 2.5, 3.0)))
    log.close()
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])"
    query = "SELECT json_extract(body, '$.scores.max_answer') FROM entries WHERE kind = 'decision'"
    done = subprocess.run(
        [sys.executable, "-c", code, path, query], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == 2.5


def test_tips_compare():
    assert Tip("a", 1, "b") == Tip("a", 1, "b")


@pytest.mark.parametrize("path", ["a b.db", "50%.db", "what?.db", "#1.db"])
def test_odd_names_of_files(tmp_path, path):
    opened_log(tmp_path / path).close()
    assert checked(tmp_path / path).entries == 2
