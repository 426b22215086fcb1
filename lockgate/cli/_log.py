"""`lockgate log`: check, export, follow and purge a decision log."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import EXIT_CHECK_FAILED, JsonFlag, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lockgate.decisions import Tip

commands = typer.Typer(help="Check, export, follow and purge a decision log.", no_args_is_help=True)

LogArgument = Annotated[
    str,
    typer.Argument(
        metavar="LOG",
        help="The file of SQLite, or postgresql://USER@HOST/DATABASE with the password in "
        "LOCKGATE_LOG_PASSWORD.",
    ),
]
_SHOWN = 20


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="log")


@commands.command()
def verify(
    log: LogArgument,
    heads: Annotated[
        Path | None,
        typer.Option(
            help="Output of an earlier `verify --json`, kept elsewhere. Entries that it names must still be "
            "there: so it shows if the newest ones were cut off."
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check the hash chains of all writers. Exit code 1: a link does not hold."""
    from lockgate.decisions import open_log

    noted = [] if heads is None else _read_heads(heads)
    with open_log(log) as opened:
        report = opened.verify(noted)
    if json:
        print_json({"log": log, **report.to_dict()})
    else:
        for found in report.breaks[:_SHOWN]:
            typer.echo(f"broken: {found}")
        state = "hold" if report.ok else "are BROKEN"
        typer.echo(
            f"{log}: {len(report.heads)} chain(s) {state}: {report.entries} entries, "
            f"{report.decisions} decisions"
        )
        if report.unfinished:
            typer.echo(
                f"{report.unfinished} exchange(s) have begun and have no decision: they are open, or a crash "
                "has cut them off"
            )
        if report.lost:
            typer.echo(f"{report.lost} record(s) could not be written, as their writers say")
    if not report.ok:
        raise typer.Exit(EXIT_CHECK_FAILED)


@commands.command()
def export(
    log: LogArgument,
    output: Annotated[
        str, typer.Option(help="File .jsonl or .parquet; - writes JSON lines to standard output.")
    ] = "-",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only records from this time on, such as 2026-01-31.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only records before this time.")] = None,
    content: Annotated[
        bool, typer.Option("--content", help="Add the text of the exchanges, as far as it is kept.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --content: file with the private key of `lockgate log keygen`."
        ),
    ] = None,
    guards: Annotated[
        bool, typer.Option("--guards", help="Write the changes of guard instead, as JSON lines.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Write decisions as JSON lines or Parquet, oldest first.

    `lockgate replay` reads the lines. With --content, each line is an exchange as `lockgate score` reads it.
    """
    from lockgate.cli._log_export import export_log

    times = (read_time(since), read_time(until))
    count = export_log(log, output, times, content=content, key=key, guards=guards)
    if json and output != "-":
        print_json({"log": log, "output": output, "records": count})
    elif output != "-":
        typer.echo(f"{count} records written to {output}")


@commands.command()
def tail(
    log: LogArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Records to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records.")] = False,
    json: JsonFlag = False,
) -> None:
    """Print the newest decisions and changes of guard; with --json, as JSON lines."""
    from lockgate.cli._log_export import tail_log

    tail_log(log, lines, follow=follow, as_json=json)


@commands.command()
def purge(
    log: LogArgument,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove records from before this time.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Remove records older than this.")
    ] = None,
    shrink: Annotated[
        bool,
        typer.Option("--shrink", help="Give the room back to the file system. The server waits meanwhile."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Remove old records. The chains can still be checked: the log says what was removed, and from which hash
    each chain goes on."""
    from datetime import UTC, datetime, timedelta

    from lockgate.decisions import purge_log
    from lockgate.errors import ConfigError

    if (before is None) == (older_than is None):
        raise ConfigError("give either --before TIME or --older-than DAYS")
    moment = read_time(before)
    if moment is None:
        try:
            moment = _text(datetime.now(UTC) - timedelta(days=older_than or 0))
        except OverflowError:
            raise ConfigError("--older-than: goes back to before the year 1; give fewer days") from None
    count = purge_log(log, moment, "lockgate log purge", shrink=shrink)
    if json:
        print_json({"log": log, "before": moment, "removed": count})
    else:
        typer.echo(f"{count} entries from before {moment} removed")


@commands.command()
def keygen(
    private: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the private key.")],
    json: JsonFlag = False,
) -> None:
    """Make a pair of keys for `content: encrypted`. Keep the private one away from the server."""
    import os

    from lockgate.decisions import make_keys

    public, secret = make_keys()
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    if json:
        print_json({"private_key_file": str(private), "public_key": public})
        return
    typer.echo(f"private key written to {private}; texts can't be read without it")
    typer.echo(f"public_key: {public}")


def read_time(given: str | None) -> str | None:
    """Return a time as the log has it. Raises ConfigError."""
    from datetime import UTC, datetime

    from lockgate.errors import ConfigError

    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        return _text(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ConfigError(f"{given}: expected a time such as 2026-01-31 or 2026-01-31T12:00Z") from None


def _text(moment: "datetime") -> str:
    """Return a time as the log has it."""
    from datetime import UTC

    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_heads(path: Path) -> "Sequence[Tip]":
    import json

    from lockgate.decisions import Tip
    from lockgate.errors import ConfigError

    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["heads"]
        return [Tip(str(head["chain"]), int(head["seq"]), str(head["hash"])) for head in listed]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        raise ConfigError(f"--heads {path}: expected the output of `lockgate log verify --json`") from None
