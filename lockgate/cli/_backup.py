"""`lockgate backup`: a copy of a database while servers write to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import EXIT_CHECK_FAILED, JsonFlag, print_json, progress
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.databases import Place
    from lockgate.decisions import Report


def register(app: typer.Typer) -> None:
    app.command()(backup)


def backup(
    database: Annotated[str, typer.Argument(help="The file of SQLite, or postgresql://USER@HOST/DATABASE.")],
    output: Annotated[Path, typer.Option(help="New file for the copy.")],
    password_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the password of PostgreSQL. Default: LOCKGATE_LOG_PASSWORD."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Copy a database as it is now. Servers go on writing to it meanwhile.

    A file of SQLite becomes a file of SQLite: put it in the place of the database to restore it. The chains
    of a decision log are checked in the copy; exit code 1 says that one does not hold. A database of
    PostgreSQL becomes an archive of pg_dump with our tables, for pg_restore; its chains are not checked. Both
    are readable by their owner only.
    """
    from lockgate.dashboard import DASHBOARD_SCHEMA
    from lockgate.databases import Place, back_up
    from lockgate.decisions import LOG_SCHEMA, PASSWORD_VARIABLE, spill_files
    from lockgate.reviews import REVIEWS_SCHEMA
    from lockgate.tenants import OPERATIONS_SCHEMA

    schemas = [LOG_SCHEMA, OPERATIONS_SCHEMA, REVIEWS_SCHEMA, DASHBOARD_SCHEMA]
    if output.exists() and not force:
        raise ConfigError(f"--output: {output} is there already; give another name, or --force")
    place = Place.of(database, "database", password_env or PASSWORD_VARIABLE)
    if place.path is not None and output.exists() and output.samefile(place.path):
        raise ConfigError(f"--output: {output} is the database itself")
    checked: list[Report] = []
    with _watching(place) as report:
        made = back_up(place, output, schemas, report=report, check=lambda copy: checked.extend(_check(copy)))
    spilled = [] if place.path is None else spill_files(place.path)
    chains = None if not checked else checked[0].to_dict()
    if json:
        print_json(
            {
                "database": str(place),
                "output": str(output),
                "bytes": made.size,
                "schemas": made.schemas,
                "log": chains,
                "spill_files": [str(path) for path in spilled],
            }
        )
    else:
        held = ", ".join(f"{what} (schema {revision})" for what, revision in made.schemas.items())
        typer.echo(f"{output}: {held}, {made.size} bytes")
        for found in checked:
            state = "hold" if found.ok else "are BROKEN"
            typer.echo(f"its {len(found.heads)} chain(s) {state}: {found.entries} entries")
        if place.path is None and LOG_SCHEMA.what in made.schemas:
            typer.echo("its chains are not checked; run `lockgate log verify` on the database")
        for path in spilled:
            typer.echo(f"{path} has records that are not in the database yet; the server will take them over")
    if any(not found.ok for found in checked):
        raise typer.Exit(EXIT_CHECK_FAILED)


def _check(copy: Path) -> "list[Report]":
    """Check the chains of a copy, if it is a decision log."""
    from lockgate.databases import Database, Place
    from lockgate.decisions import LOG_SCHEMA, open_log

    place = Place.of(copy, "database", "")
    if not Database(place, LOG_SCHEMA).revisions([LOG_SCHEMA.version_table]):
        return []
    with open_log(copy) as log:
        return [log.verify()]


@contextmanager
def _watching(place: "Place") -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a copy on standard error."""
    with progress(f"copy {place}") as advance:
        before = 0

        def report(done: int, total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        yield report
