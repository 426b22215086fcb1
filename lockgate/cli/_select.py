"""`lockgate select`: choose the exchanges of a file that are most worth a person's label."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lockgate.cli._common import (
    DeviceOption,
    DtypeOption,
    GuardArgument,
    JsonFlag,
    names_of_options,
    print_json,
    print_table,
)
from lockgate.cli._scoring import BackboneOption, WorkersOption, load_guard, watch_files

_SHOWN = 12
_OPTIONS = {
    "pool": "--input",
    "output": "--output",
    "n": "--n",
    "held_out": "--held-out",
    "workers": "--workers",
}


def register(app: typer.Typer) -> None:
    app.command()(select)


def select(
    guard: GuardArgument,
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--input", help="Exchanges to choose from: .jsonl[.gz|.zst] or .parquet. May be repeated."
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="File for the chosen exchanges. Its manifest is OUTPUT.manifest.json.")
    ],
    n: Annotated[int, typer.Option("--n", help="Number of exchanges to choose.", min=1)] = 50,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            help="Reviews that `lockgate label` wrote. Their prompts, equal or near, are not chosen again. "
            "May be repeated."
        ),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prompts of calibration, development and test: exchanges, or fingerprints (.safetensors). "
            "They are not chosen. May be repeated."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Decides between equally uncertain exchanges, and the order of the chosen ones."),
    ] = 0,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    workers: WorkersOption = 1,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave malformed rows out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Choose the exchanges that are most worth a label: near the threshold, and different from each other.

    Each prompt is chosen once. Exchanges with a label are left out, and so are prompts that the guard was
    trained on. `lockgate label OUTPUT` shows the chosen ones.

    After an interruption, run the same command again to continue. Unfinished work is kept in OUTPUT.state,
    without text.
    """
    from lockgate.feedback import read_reviewed
    from lockgate.traffic import SelectionPlan, select_exchanges

    reviewed = read_reviewed(known or ())
    with names_of_options(_OPTIONS):
        plan = SelectionPlan(
            n=n,
            known=reviewed.prompts if len(reviewed.prompts) else None,
            known_ids=reviewed.ids,
            held_out=tuple(held_out or ()),
            seed=seed,
            skip_invalid=skip_invalid,
            workers=workers,
        )
        if not held_out:
            typer.echo(
                "note: a guard knows only the prompts that trained it; name those of calibration and test "
                "with --held-out, or they may be chosen",
                err=True,
            )
        with watch_files("select") as watch:
            found = select_exchanges(
                load_guard(guard, backbone, device, dtype), inputs, output, plan, report=watch
            )
    if json:
        print_json({"output": str(output), **found})
    else:
        _print(found, output)


def _print(found: dict[str, Any], output: Path) -> None:
    short = found["shortlist"]
    typer.echo(
        f"{found['file']['rows']} of {found['prompts']} prompts in {output}, all within {short['reach']:.2f} "
        f"spreads of the threshold (a spread is {found['spread']['value']:.3f}, of {found['spread']['of']})"
    )
    left = {name: count for name, count in found["fates"].items() if count and name != "candidate"}
    if found["unjudged"]:
        left["not judged by stage 2"] = found["unjudged"]
    if left:
        told = ", ".join(f"{count} {name}" for name, count in left.items())
        typer.echo(f"left out: {told.replace('_', ' ')}")
    if found["training_prompts"] is None:
        typer.echo("note: the guard does not say what it was trained on, so that was not checked", err=True)
    if found["file"]["rows"] < found["wanted"]:
        typer.echo(
            f"fewer than {found['wanted']}: the nearest {short['prompts']} prompts hold {short['distinct']} "
            "that are different"
        )
    print_table(("score band", "chosen"), list(found["by_band"].items()))
    sources = sorted(found["by_source"].items(), key=lambda item: (-item[1], item[0]))
    print_table(("source", "chosen"), [(name or "unnamed", count) for name, count in sources[:_SHOWN]])
    typer.echo(f"next: lockgate label {output}")
