"""Bringing a database to the schemas of this version."""

import threading
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from lockgate.databases._schema import Schema

# Alembic keeps the migration that runs in variables of its modules, so a process can run only one.
_RUNNING = threading.Lock()


def migrate(connection: Connection, schema: Schema, name: str, target: str = "head") -> None:
    """Bring a database forward, in the open transaction.

    Args:
        name: name of the database, for errors.
        target: a revision. Tests make old databases with it.

    Raises:
        LockgateError: a newer version of Lockgate made the database. It is the schema's own error.
    """
    take_turn(connection, schema)
    if _place_of(connection, schema, name) == "newest":
        return
    config = Config()
    config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=schema.version_table)
    with _RUNNING:
        command.upgrade(config, target)


def take_turn(connection: Connection, schema: Schema) -> None:
    """Let no other server take a turn with this schema before the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema.lock})


def check_schema(connection: Connection, schema: Schema, name: str) -> None:
    """See whether a database has the schema of this version.

    Raises:
        LockgateError: it has none, an older or a newer one.
    """
    found = _place_of(connection, schema, name)
    if found == "none":
        raise schema.error(f"{schema.what} {name}: there is no {schema.what} in it")
    if found == "older":
        raise schema.error(
            f"{schema.what} {name}: its schema is of an older Lockgate; start the server once, which "
            "brings it to this version"
        )


def _place_of(connection: Connection, schema: Schema, name: str) -> Literal["none", "older", "newest"]:
    context = MigrationContext.configure(connection, opts={"version_table": schema.version_table})
    current, script = context.get_current_revision(), ScriptDirectory(str(schema.migrations))
    if current is None:
        return "none"
    if current == script.get_current_head():
        return "newest"
    if current in {found.revision for found in script.walk_revisions()}:
        return "older"
    raise schema.error(
        f"{schema.what} {name}: its schema {current} is of a newer Lockgate, and there is no way back; "
        "install that version, or give another database"
    )
