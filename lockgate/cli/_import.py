"""`lockgate import`: turn a public data set into exchanges with categories of a constitution."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import JsonFlag, print_json, print_table, progress

if TYPE_CHECKING:
    from lockgate.constitution import DataMapping
    from lockgate.exchanges.importing import ImportReport

_DRY_ROWS = 10_000
_SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command("import")(import_source)


def import_source(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A Hugging Face data set's folder, or a .jsonl, .json, .csv, .parquet or .arrow file.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write the exchanges to: .jsonl[.gz|.zst] or .parquet."),
    ] = None,
    mapping: Annotated[str | None, typer.Option(help="Mapping file, or the name of a shipped one.")] = None,
    constitution: Annotated[
        str | None, typer.Option(help="Constitution of the categories. Default: the mapping's.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Layout of the rows. `auto` finds it. Default: the mapping's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many exchanges.")] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(
            help="Write file, row number and reason of each rejected row to this file (JSON lines)."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help=f"Write nothing. Show layout and counts of the first {_DRY_ROWS} exchanges, or of --limit.",
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Import a data set. Rows that can't be read are left out and counted by reason."""
    from lockgate.errors import ConfigError
    from lockgate.exchanges.importing import import_data, inspect_data

    if out is None and not dry_run:
        raise ConfigError("--out: missing; name the file to write, or add --dry-run to look first")
    rules = _rules(mapping, constitution, shape)
    with progress("import") as advance:
        if dry_run or out is None:
            report = inspect_data(source, rules, limit=limit or _DRY_ROWS, advance=advance)
        else:
            report = import_data(source, out, rules, limit=limit, rejects=rejects, advance=advance)
    if json:
        print_json({**report.to_dict(), "output": None if dry_run else str(out)})
    else:
        _print(report, None if dry_run else out)


def _rules(mapping: str | None, constitution: str | None, shape: str | None) -> "DataMapping":
    from pydantic import ValidationError

    from lockgate.constitution import SHAPES, DataMapping, load_constitution, read_mapping
    from lockgate.errors import ConfigError

    if mapping is not None:
        rules = read_mapping(mapping, constitution)
    else:
        if constitution is not None:
            load_constitution(constitution)
        rules = DataMapping(constitution=constitution)
    if shape is None:
        return rules
    try:
        return DataMapping.model_validate({**rules.model_dump(exclude_unset=True), "shape": shape})
    except ValidationError:
        raise ConfigError(f"--shape: expected one of {', '.join(SHAPES)}") from None


def _print(report: "ImportReport", output: Path | None) -> None:
    splits = f", splits {', '.join(report.splits)}" if report.splits else ""
    typer.echo(f"{report.source}: {report.files} {report.kind} file(s){splits}")
    typer.echo(
        f"license: {report.license or 'the data set names none; find it before you train on the data'}"
    )
    columns = [
        (part, name if isinstance(name, str) else ", ".join(name)) for part, name in report.columns.items()
    ]
    typer.echo("; ".join([f"shape: {report.shape}", *(f"{part}: {_plain(name)}" for part, name in columns)]))
    done = "would be imported" if output is None else f"in {output}"
    typer.echo(f"{report.rows} rows, {report.imported} exchanges {done}, {report.skipped} skipped")
    counts = [
        (kind, name, count)
        for kind, part in (
            ("label", report.labels),
            ("category", report.categories),
            ("unmapped", report.unmapped),
            ("hidden", {"no label by its looks": report.hidden} if report.hidden else {}),
            ("rejected", report.rejected),
        )
        for name, count in list(part.items())[:_SHOWN]
    ]
    print_table(("count", "name", "exchanges or rows"), [(kind, _plain(name), n) for kind, name, n in counts])
    for line in report.first:
        typer.echo(f"rejected: {_plain(line, 400)}", err=True)
    for note in report.notes:
        typer.echo(f"note: {_plain(note, 400)}", err=True)


def _plain(text: str, longest: int = 60) -> str:
    """Make a data set's own text safe and short enough for a terminal."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= longest else f"{clean[: longest - 3]}..."
