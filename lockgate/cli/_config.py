"""`lockgate config`: check and show config files of `lockgate serve`, and print their schema."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import JsonFlag, print_json

commands = typer.Typer(help="Check and show config files of `lockgate serve`.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A file .yaml, .yml or .toml.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="config")


@commands.command()
def check(file: FileArgument, json: JsonFlag = False) -> None:
    """Check a config file: its keys and values, and that the variables and files with secrets are there."""
    from lockgate.gateway.config import apply_config, read_config

    applied = apply_config(read_config(file), file)
    upstreams = [] if applied.table is None else list(applied.table.upstreams)
    if json:
        print_json({"file": str(file), "ok": True, "upstreams": upstreams, "keys": list(applied.keys)})
        return
    typer.echo(f"{file}: fine ({len(upstreams)} upstream(s), {len(applied.keys)} key(s))")


@commands.command()
def show(
    file: FileArgument,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Show all settings, also those that the file leaves out.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show what a config file says. Secrets are not in it, only the names of their places."""
    from lockgate.gateway.config import read_config, show_config

    config = read_config(file)
    if json:
        print_json(config.model_dump(mode="json", exclude_unset=not resolved))
        return
    typer.echo(show_config(config, resolved=resolved), nl=False)


@commands.command()
def schema(json: JsonFlag = False) -> None:
    """Print the JSON Schema of config files. It is JSON also without --json."""
    _ = json
    from lockgate.gateway.config import config_schema

    print_json(config_schema())
