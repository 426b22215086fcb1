"""`lockgate constitution`: check, list and show constitutions."""

from typing import Annotated

import typer

from lockgate.cli._common import EXIT_CHECK_FAILED, JsonFlag, print_json, print_table

commands = typer.Typer(help="Check, list and show constitutions.", no_args_is_help=True)

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE|NAME", help="A YAML file, or the name of a shipped constitution.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="constitution")


@commands.command()
def check(file: FileArgument, json: JsonFlag = False) -> None:
    """Check a constitution for errors and weaknesses. Exit code 1 if there are errors. Warnings give 0."""
    from lockgate.constitution import constitution_path, lint_constitution

    path = constitution_path(file)
    findings = lint_constitution(path)
    errors = sum(finding.level == "error" for finding in findings)
    if json:
        found = [finding._asdict() for finding in findings]
        print_json({"file": str(path), "ok": errors == 0, "errors": errors, "findings": found})
    else:
        for finding in findings:
            colour = typer.colors.RED if finding.level == "error" else typer.colors.YELLOW
            level = typer.style(finding.level, fg=colour)
            typer.echo(f"{path}:{finding.line}: {level}: {finding.message}\n    remedy: {finding.remedy}")
        typer.echo(f"{path}: {errors} error(s), {len(findings) - errors} warning(s)")
    if errors:
        raise typer.Exit(EXIT_CHECK_FAILED)


@commands.command("list")
def list_shipped(json: JsonFlag = False) -> None:
    """List the constitutions that come with Lockgate."""
    from lockgate.constitution import load_constitution, shipped_names

    shipped = [(name, load_constitution(name)) for name in shipped_names()]
    if json:
        print_json(
            [
                {
                    "name": name,
                    "version": constitution.version,
                    "description": constitution.description,
                    "harmful": constitution.category_ids,
                    "sha256": constitution.sha256,
                }
                for name, constitution in shipped
            ]
        )
        return
    print_table(
        ("name", "version", "harmful", "harmless", "description"),
        [
            (
                name,
                item.version,
                len(item.harmful),
                len(item.categories) - len(item.harmful),
                item.description,
            )
            for name, item in shipped
        ],
    )


@commands.command()
def show(file: FileArgument, json: JsonFlag = False) -> None:
    """Print a constitution as it is in the file, or with --json its content and hash."""
    from lockgate.constitution import constitution_path, load_constitution

    constitution = load_constitution(file)
    if json:
        print_json({**constitution.model_dump(), "sha256": constitution.sha256})
    else:
        typer.echo(constitution_path(file).read_text(encoding="utf-8"), nl=False)
