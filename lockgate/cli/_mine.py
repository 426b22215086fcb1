"""`lockgate mine`: take the harmless exchanges that a guard finds most harmful, to train on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lockgate.cli._common import GuardArgument, JsonFlag, names_of_options, print_json, print_table
from lockgate.cli._scoring import BackboneOption, WorkersOption, load_guard, watch_files

_SHOWN = 12
_OPTIONS = {
    "pool": "--input",
    "output": "--output",
    "keep_harmful": "--keep-harmful",
    "stage": "--stage",
    "top": "--top",
    "count": "--count",
    "per_source": "--per-source",
    "held_out": "--held-out",
    "drop_overlap": "--drop-overlap",
    "unlabelled_as": "--unlabelled-as",
    "round": "--round",
    "workers": "--workers",
}


def register(app: typer.Typer) -> None:
    app.command()(mine)


def mine(
    guard: GuardArgument,
    inputs: Annotated[
        list[Path],
        typer.Option("--input", help="Pool of exchanges: .jsonl[.gz|.zst] or .parquet. May be repeated."),
    ],
    output: Annotated[
        Path, typer.Option(help="File for the mined exchanges. Its manifest is OUTPUT.manifest.json.")
    ],
    stage: Annotated[
        int, typer.Option(help="1: score with the probe alone. 2: score with the whole cascade.")
    ] = 1,
    top: Annotated[
        float | None, typer.Option(help="Share of the harmless exchanges to take. Default: 0.05.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Number of exchanges to take, in place of --top.", min=1)
    ] = None,
    per_source: Annotated[
        int | None, typer.Option(help="Most exchanges to take from one source.", min=1)
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prompts of calibration, development and test: exchanges, or fingerprints (.safetensors). "
            "A pool with such a prompt, equal or near, is refused. May be repeated."
        ),
    ] = None,
    drop_overlap: Annotated[
        bool,
        typer.Option("--drop-overlap", help="Leave out exchanges with held-out prompts, and count them."),
    ] = False,
    unlabelled_as: Annotated[
        int | None,
        typer.Option(
            help="0: take exchanges without a label as harmless. Default: leave them out.", metavar="0"
        ),
    ] = None,
    keep_harmful: Annotated[
        Path | None,
        typer.Option(
            help="File for the harmful exchanges of the pool, unchanged. Default: they are left out."
        ),
    ] = None,
    round: Annotated[  # noqa: A002
        int, typer.Option(help="Number of this round of mining, for the record.", min=1)
    ] = 1,
    backbone: BackboneOption = None,
    workers: WorkersOption = 1,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave malformed rows out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Find the hard harmless exchanges of a pool: those with the highest scores.

    `lockgate train classifier --mined` trains on them. The pool may hold prompts that the guard was trained
    on, but none that calibrates or tests it.

    After an interruption, run the same command again to continue. Unfinished work is kept in OUTPUT.state,
    without text.
    """
    from lockgate.errors import ConfigError
    from lockgate.traffic import MiningPlan
    from lockgate.traffic import mine as mine_pool

    if top is not None and count is not None:
        raise ConfigError("give either --top (a share) or --count (a number)")
    settings: dict[str, Any] = {} if top is None else {"top": top}
    with names_of_options(_OPTIONS):
        plan = MiningPlan(
            stage=stage,
            count=count,
            per_source=per_source,
            held_out=tuple(held_out or ()),
            drop_overlap=drop_overlap,
            unlabelled_as=unlabelled_as,
            round=round,
            skip_invalid=skip_invalid,
            workers=workers,
            **settings,
        )
        if not held_out:
            typer.echo(
                "note: without --held-out nothing is checked; the pool must share no prompt with "
                "calibration, development or test",
                err=True,
            )
        with watch_files(f"mine with stage {stage}") as watch:
            found = mine_pool(
                load_guard(guard, backbone), inputs, output, plan, keep_harmful=keep_harmful, report=watch
            )
    if json:
        print_json({"output": str(output), **found})
    else:
        _print(found, output)


def _print(found: dict[str, Any], output: Path) -> None:
    kinds = found["kinds"]
    typer.echo(
        f"{found['file']['rows']} of {kinds['candidate']} harmless exchanges in {output}, with scores of "
        f"{found['cut']:.4f} and more"
    )
    left = ", ".join(f"{n} {name}" for name, n in kinds.items() if n and name != "candidate")
    if left:
        typer.echo(f"left out: {left.replace('_', ' ')}")
    if found["flag"] is not None:
        what = "stage 1" if found["stage"] == 1 else "the mixed score"
        typer.echo(
            f"above {found['flag']:.4f}, the threshold of {what}: {found['flagged']} of the harmless ones, "
            f"{found['harmful_flagged']} of {kinds['harmful']} harmful ones"
        )
    mined = sorted(found["by_source"].items(), key=lambda item: (-item[1], item[0]))
    print_table(
        ("source", "mined", "harmless in the pool"),
        [(name or "unnamed", count, found["pool_by_source"][name]) for name, count in mined[:_SHOWN]],
    )
