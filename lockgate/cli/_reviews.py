"""`lockgate reviews`: what reviewers said on the dashboard, as a file for `lockgate build`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lockgate.cli._common import JsonFlag, print_json

commands = typer.Typer(help="Use the reviews of the dashboard.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="reviews")


@commands.command()
def export(
    operations: Annotated[
        str,
        typer.Argument(
            metavar="OPERATIONS",
            help="The operations database with the reviews: a file of SQLite, or "
            "postgresql://USER@HOST/DATABASE with the password in LOCKGATE_OPERATIONS_PASSWORD.",
        ),
    ],
    log: Annotated[
        str,
        typer.Option(
            metavar="LOG",
            help="The decision log with the texts: a file, or an address with the password in "
            "LOCKGATE_LOG_PASSWORD.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Review file to write (.jsonl).")] = Path("reviews.jsonl"),
    tenant: Annotated[
        str | None, typer.Option(help="Only reviews of this tenant's exchanges. Without it, all.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File with the private key of `lockgate log keygen`, for sealed texts."
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Write verdicts as the file that `lockgate build --update GUARD --feedback FILE` reads.

    The texts come from the decision log. Verdicts whose text it has no longer are counted and left out.
    """
    found = _export(operations, log, output, tenant, key)
    if json:
        print_json(found)
        return
    typer.echo(f"{found['reviews']} reviews written to {output}")
    if found["left_out"]:
        typer.echo(f"{found['left_out']} left out. {found['why']}", err=True)


def _export(operations: str, log: str, output: Path, tenant: str | None, key: Path | None) -> dict[str, Any]:
    from lockgate.cli._log_export import read_key
    from lockgate.databases import Place
    from lockgate.decisions import ContentReader, open_log
    from lockgate.durable import open_atomic
    from lockgate.errors import ConfigError
    from lockgate.reviews import Left, export_lines, open_reviews
    from lockgate.tenants import PASSWORD_VARIABLE

    if output.suffix != ".jsonl":
        raise ConfigError(f"--output {output}: expected a name that ends with .jsonl")
    reader = ContentReader(None if key is None else read_key(key))
    place = Place.of(operations, "operations database", PASSWORD_VARIABLE)
    left, count = Left(), 0
    with open_reviews(place) as reviews, open_log(log) as opened, open_atomic(output) as file:
        for line in export_lines(reviews.standing(tenant), opened, reader, left):
            file.write(line)
            count += 1
    return {
        "output": str(output),
        "reviews": count,
        "left_out": left.total,
        "why": str(left),
    }
