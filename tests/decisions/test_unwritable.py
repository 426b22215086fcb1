"""A database that is locked, slow, full or gone: nothing is lost without a word, and the policy holds."""

import os
import resource
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress

import psycopg
import pytest
from logs import checked, decision, decisions_in, numbers_in, opened_log, started

from lockgate.decisions import open_log

PATIENCE = 0.2


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


class Told:
    """What waits for records: what it was told, and that it was told once."""

    def __init__(self, log):
        self.log = log
        self.kept = {}

    def write(self, number):
        self.log.write(decision(number), then=lambda kept: self.kept.setdefault(number, []).append(kept))

    def wait(self, *numbers):
        until(lambda: set(numbers) <= set(self.kept))
        return [self.kept[number] for number in numbers]


def wait_written(log, count):
    until(lambda: log.written >= count and log.failure is None)


@contextmanager
def locked(place):
    """Another process holds a lock that keeps the writer out."""
    if isinstance(place, str):
        with psycopg.connect(place) as connection:
            connection.execute("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()
        return
    connection = sqlite3.connect(place, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize("policy", ["stop_admission", "degrade"])
def test_a_locked_database_stops_admission_and_holds_no_stream(place, policy, caplog):
    log = opened_log(place, patience=PATIENCE, when_unwritable=policy)
    told = Told(log)
    told.write(0)
    assert told.wait(0) == [[True]]
    with locked(place):
        log.begin(started(1))
        told.write(1)
        assert told.wait(1) == [[True]]
        assert log.admits == (policy == "degrade")
        assert not log.blocks
        assert (log.unwritten, log.lost) == (1, 0)
        assert log.spilled >= 1
        told.write(2)
        assert told.wait(2) == [[True]]
    wait_written(log, 3)
    assert log.admits
    until(lambda: log.spilled == 0)
    assert log.close().unwritten == 0
    assert (numbers_in(place), told.kept) == ([0, 1, 2], {0: [True], 1: [True], 2: [True]})
    assert checked(place).unfinished == 0
    said = caplog.text
    assert said.count("\n") == 2
    assert "can be written again" in said


def test_block_lets_no_answer_end_well(place):
    log = opened_log(place, patience=PATIENCE, when_unwritable="block")
    halted = threading.Event()
    log.on_block = halted.set
    told = Told(log)
    with locked(place):
        told.write(0)
        assert told.wait(0) == [[False]]
        assert halted.wait(30)
        assert log.blocks
        assert not log.admits
    wait_written(log, 1)
    told.write(1)
    assert told.wait(1) == [[True]]
    log.close()
    assert numbers_in(place) == [0, 1]
    checked(place)


def test_a_slow_database_holds_no_stream_for_longer_than_the_patience(place):
    log = opened_log(place, patience=PATIENCE)
    told = Told(log)
    if isinstance(place, str):
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(1.5); RETURN NEW; END $$"
            )
            connection.execute("CREATE TRIGGER nap BEFORE INSERT ON entries EXECUTE FUNCTION nap()")
        begun = time.monotonic()
        told.write(0)
        told.wait(0)
        took = time.monotonic() - begun
        assert not log.admits
    else:
        with locked(place):
            begun = time.monotonic()
            told.write(0)
            told.wait(0)
            took = time.monotonic() - begun
            assert not log.admits
    assert took > PATIENCE / 2
    assert log.lost == 0
    wait_written(log, 1)
    assert log.close().unwritten == 0
    # The commit came late, but it came: the record is there once.
    assert numbers_in(place) == [0]
    checked(place)


@contextmanager
def full(path):
    """The file system takes no more: no file may grow beyond what the log has now."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_records_until_there_is_room(tmp_path, caplog):
    path = tmp_path / "decisions.db"
    log = opened_log(path, patience=PATIENCE)
    told = Told(log)
    told.write(0)
    told.wait(0)
    with full(path):
        for number in range(1, 6):
            told.write(number)
        assert told.wait(1, 2, 3, 4, 5) == [[True]] * 5
        assert not log.admits
        assert (log.unwritten, log.lost) == (5, 0)
    wait_written(log, 6)
    assert log.close().unwritten == 0
    assert numbers_in(path) == list(range(6))
    checked(path)
    assert "disk" in caplog.text


def test_at_the_end_the_spill_file_has_what_the_database_lacks(tmp_path, caplog):
    path = tmp_path / "decisions.db"
    log = opened_log(path, patience=PATIENCE)
    told = Told(log)
    told.write(0)
    told.wait(0)
    with full(path):
        told.write(1)
        told.wait(1)
        left = log.close(timeout=5)
    assert (left.unwritten, left.spilled, left.lost) == (1, 1, 0)
    assert left.spill is not None
    assert left.spill.stat().st_mode & 0o777 == 0o600
    assert "1 decision(s) are not in the database" in caplog.text
    # A kill may cut the last line.
    with left.spill.open("ab") as file:
        file.write(b'{"kind": "decision", "at"')
    log = opened_log(path)
    log.write(decision(2))
    assert log.close().unwritten == 0
    assert sorted(numbers_in(path)) == [0, 1, 2]
    assert not left.spill.exists()
    assert "1 line(s) were not whole" in caplog.text
    checked(path)


def test_what_can_be_kept_nowhere_is_counted_as_lost(tmp_path, caplog):
    path, nowhere = tmp_path / "decisions.db", tmp_path / "nowhere"
    nowhere.touch()
    log = opened_log(path, patience=PATIENCE, spill=nowhere)
    told = Told(log)
    told.write(0)
    told.wait(0)
    with full(path):
        told.write(1)
        told.wait(1)
        left = log.close(timeout=5)
        assert (left.unwritten, left.spilled, left.lost, left.spill) == (1, 0, 1, None)
    said = caplog.text
    assert "1 are lost" in said
    assert said.count("records wait in memory alone") == 1


@pytest.mark.parametrize("spills", [True, False])
def test_memory_for_waiting_records_is_bounded(place, tmp_path, spills):
    (tmp_path / "nowhere").touch()
    spill = tmp_path / "made" if spills else tmp_path / "nowhere"
    log = opened_log(place, patience=PATIENCE, when_unwritable="degrade", most_waiting=5, spill=spill)
    told = Told(log)
    with locked(place):
        told.write(0)
        told.wait(0)
        for number in range(1, 20):
            told.write(number)
        told.wait(*range(20))
        until(lambda: len(log._queue) <= 5)
        assert log.lost == (0 if spills else 15)
        assert log.unwritten == (20 if spills else 5)
    until(lambda: log.failure is None and log.unwritten == 0)
    assert log.close().lost == (0 if spills else 15)
    assert sorted(numbers_in(place)) == list(range(20 if spills else 5))
    report = checked(place)
    assert report.lost == (0 if spills else 15)
    assert list(tmp_path.rglob("*.spill.*")) == []


def test_a_server_that_is_gone_and_comes_back(postgres, caplog):
    place = postgres.database()
    log = opened_log(place, patience=PATIENCE)
    told = Told(log)
    told.write(0)
    told.wait(0)
    postgres.stop()
    try:
        told.write(1)
        assert told.wait(1) == [[True]]
        assert not log.admits
    finally:
        postgres.start()
    wait_written(log, 2)
    assert log.close().unwritten == 0
    assert numbers_in(place) == [0, 1]
    checked(place)
    assert "lockgate@" not in caplog.text.replace(str(log.place), "")


def test_a_file_that_was_removed_is_seen_without_a_request(tmp_path):
    path = tmp_path / "decisions.db"
    log = opened_log(path, patience=PATIENCE)
    told = Told(log)
    told.write(0)
    told.wait(0)
    path.rename(tmp_path / "elsewhere.db")
    until(lambda: log.failure is not None)
    assert not log.admits
    assert "moved or removed" in (log.failure or "")
    told.write(1)
    told.wait(1)
    assert log.unwritten == 1
    # Brought back, it goes on as if nothing had been.
    (tmp_path / "elsewhere.db").rename(path)
    wait_written(log, 2)
    log.close()
    assert numbers_in(path) == [0, 1]
    assert len(checked(path).heads) == 1


def test_a_new_file_begins_with_a_word_about_the_old_one(tmp_path):
    path, old = tmp_path / "decisions.db", tmp_path / "old.db"
    log = opened_log(path, patience=PATIENCE, writer="me")
    told = Told(log)
    told.write(0)
    told.wait(0)
    path.rename(old)
    told.write(1)
    told.wait(1)
    log.reopen()
    wait_written(log, 2)
    assert log.close().unwritten == 0
    assert (numbers_in(old), numbers_in(path)) == ([0], [1])
    checked(path)
    with open_log(path) as opened:
        [genesis] = opened.records(kinds=["genesis"])
    assert genesis.record["moved"] is True
    assert genesis.record["previous"]["chain"] == checked(old).heads[0].chain


def test_an_old_backup_in_place_of_the_database_is_found(tmp_path, caplog):
    path, backup = tmp_path / "decisions.db", tmp_path / "backup.db"
    log = opened_log(path, patience=PATIENCE, writer="me")
    told = Told(log)
    told.write(0)
    told.wait(0)
    source, target = sqlite3.connect(path), sqlite3.connect(backup)
    source.backup(target)
    source.close()
    target.close()
    told.write(1)
    told.wait(1)
    os.replace(backup, path)
    until(lambda: log.failure is not None)
    log.reopen()
    until(lambda: log.failure is None)
    told.write(2)
    told.wait(2)
    log.close()
    assert numbers_in(path) == [0, 2]
    with open_log(path) as opened:
        [found] = opened.verify().breaks
    assert "is missing" in found.what
    assert "has lost records" in caplog.text


def test_a_commit_whose_answer_was_lost_is_not_repeated(place, monkeypatch):
    """As if the connection broke off between the commit and the word that it is done."""
    log = opened_log(place, patience=5.0)
    told = Told(log)
    told.write(0)
    told.wait(0)
    database = log._appender.database
    real, broken = database.writing, []

    @contextmanager
    def writing():
        with real() as connection:
            yield connection
        if not broken:
            broken.append(True)
            raise log_error()

    monkeypatch.setattr(database, "writing", writing)
    told.write(1)
    told.wait(1)
    told.write(2)
    told.wait(2)
    log.close()
    assert broken
    assert numbers_in(place) == [0, 1, 2]
    assert len(checked(place).heads) == 1


def log_error():
    from lockgate.errors import DecisionLogError

    return DecisionLogError("the connection is gone")


def test_a_fault_of_one_stream_is_not_that_of_others(place):
    log = opened_log(place)
    told = Told(log)

    def fail(kept):
        raise RuntimeError("a broken client")

    log.write(decision(0), then=fail)
    told.write(1)
    assert told.wait(1) == [[True]]
    log.close()
    assert len(decisions_in(place)) == 2


def test_closing_twice_says_the_same(tmp_path):
    log = opened_log(tmp_path / "decisions.db")
    log.write(decision())
    assert log.close() == log.close()


def open_files():
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are listed by Linux alone")
def test_a_closed_log_leaves_no_thread_and_no_descriptor(tmp_path):
    path = tmp_path / "decisions.db"
    log = opened_log(path, patience=PATIENCE)
    told = Told(log)
    told.write(0)
    told.wait(0)
    with locked(path):
        told.write(1)
        told.wait(1)
    wait_written(log, 2)
    log.close()
    assert not any(thread.name.startswith("lockgate-log") for thread in threading.enumerate())
    assert not [name for name in open_files() if str(tmp_path) in name]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["decisions.db"]
