"""Copies of databases while servers write to them."""

import sqlite3
import subprocess
import threading

import pytest
from logs import checked, decision, numbers_in, opened_log, write_log
from sqlalchemy import make_url

from lockgate.databases import Place, back_up
from lockgate.decisions import LOG_SCHEMA, open_log
from lockgate.errors import BackupError, ExchangeError

LOG = [LOG_SCHEMA]


def place_in(where):
    return Place.of(where, "database", "NO_SUCH_VARIABLE")


class Writing:
    """A log that a thread writes to until the block ends."""

    def __init__(self, where) -> None:
        self._log = opened_log(where)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            self._log.write(decision(number))
            number += 1
            if self._log.unwritten > 200:
                self._stop.wait(0.001)

    def __enter__(self):
        self._thread.start()
        return self._log

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        assert self._log.close().unwritten == 0


def test_a_copy_is_what_was_there_at_one_moment_and_a_server_goes_on_from_it(tmp_path):
    source = tmp_path / "log.db"
    copies = [tmp_path / f"copy {number}.db" for number in range(3)]
    with Writing(source) as log:
        for copy in copies:
            before = log.written
            made = back_up(place_in(source), copy, LOG)
            assert made.schemas == {"decision log": "0001"}
            assert made.size == copy.stat().st_size
            assert before <= len(numbers_in(copy))
    whole = numbers_in(source)
    for copy in copies:
        assert copy.stat().st_mode & 0o777 == 0o600
        heads = checked(copy).heads
        assert numbers_in(copy) == whole[: len(numbers_in(copy))]
        with open_log(source) as original:
            assert original.verify(heads).ok
        log = opened_log(copy)
        log.write(decision(10**6))
        assert log.close().unwritten == 0
        assert numbers_in(copy)[-1] == 10**6
        assert len(checked(copy).heads) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(copy.name for copy in copies), "log.db"]


def test_an_archive_of_postgresql_holds_our_tables_and_comes_back(postgres, tmp_path):
    source, restored = postgres.database(), postgres.database()
    postgres.run(make_url(source).database, "CREATE TABLE theirs (number integer)")
    target = tmp_path / "log.dump"
    with Writing(source) as log:
        before = log.written
        assert back_up(place_in(source), target, LOG).schemas == {"decision log": "0001"}
    subprocess.run(["pg_restore", f"--dbname={restored}", str(target)], check=True)
    with open_log(source) as original:
        assert original.verify(checked(restored).heads).ok
    assert before <= len(numbers_in(restored))
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    found = {row[0] for row in postgres.run(make_url(restored).database, tables)}
    assert found == {"chains", "entries", "lockgate_log_version"}


def test_a_copy_tells_how_far_it_is(tmp_path):
    write_log(tmp_path / "log.db", [decision(number) for number in range(50)])
    told = []
    back_up(
        place_in(tmp_path / "log.db"), tmp_path / "copy.db", LOG, report=lambda *pages: told.append(pages)
    )
    assert told[-1][0] == told[-1][1] > 0


def test_a_copy_that_fails_its_check_gets_no_name(tmp_path):
    write_log(tmp_path / "log.db", [decision()])

    def refuse(copy):
        assert numbers_in(copy) == [0]
        raise BackupError("on purpose")

    with pytest.raises(BackupError, match="on purpose"):
        back_up(place_in(tmp_path / "log.db"), tmp_path / "copy.db", LOG, check=refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["log.db"]


def test_what_is_no_database_of_ours_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("no database, though it is long enough for a header of one" * 20)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE theirs (number integer)")
    for name, words in (
        ("none.db", "no such file"),
        ("text.db", "not a database"),
        ("other.db", "is no database of Lockgate: it holds no decision log"),
    ):
        with pytest.raises(BackupError, match=words):
            back_up(place_in(tmp_path / name), tmp_path / "copy.db", LOG)
    write_log(tmp_path / "log.db", [decision()])
    with pytest.raises(ExchangeError, match="does not exist"):
        back_up(place_in(tmp_path / "log.db"), tmp_path / "none" / "copy.db", LOG)
    assert not list(tmp_path.glob("*copy*"))


def test_a_server_that_is_not_there_is_one_error(tmp_path):
    place = place_in(f"postgresql://lockgate@/none?host={tmp_path}")
    with pytest.raises(Exception, match=r"decision log postgresql://lockgate@/none: .*socket"):
        back_up(place, tmp_path / "copy.dump", LOG)
    assert not list(tmp_path.glob("*copy*"))
