"""`lockgate score`: write a scores table for a file of exchanges."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import (
    DeviceOption,
    DtypeOption,
    GuardArgument,
    JsonFlag,
    print_json,
    print_skipped,
    progress,
)
from lockgate.cli._scoring import load_guard


def register(app: typer.Typer) -> None:
    app.command()(score)


def score(
    guard: GuardArgument,
    input: Annotated[Path, typer.Option(help="Exchanges to score: .jsonl[.gz|.zst] or .parquet.")],  # noqa: A002
    output: Annotated[Path, typer.Option(help="Scores table to write (.parquet).")],
    backbone: Annotated[
        str | None, typer.Option(help="Folder of the guard's backbone. Default: the embedded one.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    workers: Annotated[
        int, typer.Option(help="Processes that score, with one thread each. A single process uses all cores.")
    ] = 1,
    blocks: Annotated[
        Path | None,
        typer.Option(
            help="Also write a block trace to this file (.parquet): the logits of both stages for each block."
        ),
    ] = None,
    all_blocks: Annotated[
        bool,
        typer.Option("--all-blocks", help="Let the classifier judge every block, not only suspicious ones."),
    ] = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave malformed rows out, and count them.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Score every exchange of a file, with the same scores as in serving.

    After an interruption, run the same command again to continue.
    """
    from lockgate.exchanges import InvalidCounter, read_exchanges
    from lockgate.traffic import score_file

    loaded = load_guard(guard, backbone, device, dtype)
    with progress("score") as advance:
        done = 0

        def report(total: int) -> None:
            nonlocal done
            advance(max(0, total - done))
            done = max(done, total)

        from lockgate.traffic import score_file

        table = score_file(
            loaded,
            input,
            output,
            skip_invalid=skip_invalid,
            workers=workers,
            blocks=blocks,
            all_blocks=all_blocks,
            report=report,
        )
    invalid = InvalidCounter()
    if skip_invalid:
        # Several processes read the file to score it. A read of its own counts each bad row once.
        for _ in read_exchanges(input, skip_invalid=True, on_invalid=invalid):
            pass
    summary = {
        "exchanges": len(table),
        "flagged": int(table.flagged.sum()),
        "tokens": int(table.floats("tokens_stage1").sum()),
        "escalated": int((table.floats("stage") == 2).sum()),
        "invalid": invalid.count,
        "output": str(output),
    }
    if json:
        print_json(summary)
    else:
        typer.echo(f"{summary['exchanges']} exchanges, {summary['flagged']} flagged, in {output}")
        print_skipped(invalid.count, invalid.first)
