"""Databases go forward from every released schema, and never back."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from logs import checked, decision, numbers_in, opened_log
from sqlalchemy import inspect, text

from lockgate.databases import Database, migrate
from lockgate.decisions import check_log, open_log
from lockgate.decisions._schema import LOG_SCHEMA, METADATA, place_of
from lockgate.errors import DecisionLogError


@pytest.fixture
def database(place):
    made = Database(place_of(place), LOG_SCHEMA)
    made.open()
    yield made
    made.close()


def test_migrations_make_the_tables_that_the_code_uses(database):
    with database.writing() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": LOG_SCHEMA.version_table})
        assert compare_metadata(context, METADATA) == []


def test_migrating_again_does_nothing(database, place):
    database.close()
    check_log(place)
    check_log(place)
    log = opened_log(place)
    log.write(decision(3))
    log.close()
    check_log(place)
    assert numbers_in(place) == [3]


REVISIONS = [found.revision for found in ScriptDirectory(str(LOG_SCHEMA.migrations)).walk_revisions()]


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_released_schema_goes_forward(place, revision):
    made = Database(place_of(place), LOG_SCHEMA)
    with pytest.MonkeyPatch.context() as patch:
        older = partial(migrate, target=revision)
        patch.setattr("lockgate.databases._database.migrate", older)
        made.open()
    with made.writing() as connection:
        values = {"chain": "old", "writer": "me", "begun": "2020-01-01T00:00:00.000Z"}
        connection.execute(text("INSERT INTO chains VALUES (:chain, :writer, :begun)"), values)
    made.close()
    check_log(place)
    with open_log(place) as opened:
        assert opened.verify().ok


def test_a_newer_schema_is_refused_with_words(database, place):
    with database.writing() as connection:
        connection.execute(text("UPDATE lockgate_log_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(DecisionLogError, match="9999 is of a newer Lockgate, and there is no way back"):
        check_log(place)
    with pytest.raises(DecisionLogError, match="newer Lockgate"), open_log(place):
        pass


def test_readers_leave_an_empty_database_as_it_is(place, tmp_path):
    if not isinstance(place, str):
        with pytest.raises(DecisionLogError, match="no such file"), open_log(place):
            pass
        assert not place.exists()
        place.touch()
    with pytest.raises(DecisionLogError, match="there is no decision log in it"), open_log(place):
        pass


def test_servers_that_start_together_migrate_once(place):
    import threading

    logs, faults = [], []

    def start():
        try:
            logs.append(opened_log(place))
        except DecisionLogError as error:
            faults.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for log in logs:
        log.close()
    assert len(checked(place).heads) == 4


def test_a_failed_migration_leaves_nothing_behind(place, monkeypatch):
    made = Database(place_of(place), LOG_SCHEMA)

    def fail(connection, schema, name):
        migrate(connection, schema, name)
        raise DecisionLogError("on purpose")

    monkeypatch.setattr("lockgate.databases._database.migrate", fail)
    with pytest.raises(DecisionLogError, match="on purpose"):
        made.open()
    monkeypatch.undo()
    with pytest.raises(DecisionLogError, match="there is no decision log in it"), open_log(place):
        pass


def test_databases_that_one_process_opens_at_the_same_time_are_all_whole(tmp_path):
    """Alembic runs one migration at a time in a process; the tests' own servers start together."""
    places = [place_of(tmp_path / f"{number}.db") for number in range(8)]
    together = Barrier(len(places))

    def open_one(place):
        found = Database(place, LOG_SCHEMA)
        together.wait(30)
        found.open(create=True)
        with found.reading() as connection:
            tables = set(inspect(connection).get_table_names())
        found.close()
        return tables

    with ThreadPoolExecutor(len(places)) as pool:
        assert all(set(METADATA.tables) <= tables for tables in pool.map(open_one, places))
