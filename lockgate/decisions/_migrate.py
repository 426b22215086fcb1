"""Bringing a database to the schema of this version."""

import threading
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from lockgate.errors import DecisionLogError

VERSION_TABLE = "lockgate_log_version"
FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x10C6A7E
# Alembic keeps the migration that runs in variables of its modules, so a process can run only one.
_RUNNING = threading.Lock()


def migrate(connection: Connection, name: str, target: str = "head") -> None:
    """Bring a database forward, in the open transaction.

    Args:
        name: name of the database, for errors.
        target: a revision. Tests make old databases with it.

    Raises:
        DecisionLogError: a newer version of Lockgate made the database.
    """
    take_turn(connection)
    if _place_of(connection, name) == "newest":
        return
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    with _RUNNING:
        command.upgrade(config, target)


def take_turn(connection: Connection) -> None:
    """Let no other server migrate or purge before this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def check_schema(connection: Connection, name: str) -> None:
    """See whether a database has the schema of this version.

    Raises:
        DecisionLogError: it has none, an older or a newer one.
    """
    found = _place_of(connection, name)
    if found == "none":
        raise DecisionLogError(f"decision log {name}: there is no decision log in it")
    if found == "older":
        raise DecisionLogError(
            f"decision log {name}: its schema is of an older Lockgate; start the server once, which "
            "brings it to this version"
        )


def _place_of(connection: Connection, name: str) -> Literal["none", "older", "newest"]:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    current, script = context.get_current_revision(), ScriptDirectory(str(FOLDER))
    if current is None:
        return "none"
    if current == script.get_current_head():
        return "newest"
    if current in {found.revision for found in script.walk_revisions()}:
        return "older"
    raise DecisionLogError(
        f"decision log {name}: its schema {current} is of a newer Lockgate, and there is no way back; "
        "install that version, or give another database"
    )
