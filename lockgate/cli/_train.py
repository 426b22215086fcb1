"""`lockgate train`: from labelled exchanges to a guard."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import JsonFlag, print_json, print_skipped
from lockgate.cli._train_classifier import classifier


def register(app: typer.Typer) -> None:
    commands = typer.Typer(help="Train the parts of a guard.", no_args_is_help=True)
    commands.command("probe")(probe)
    commands.command("classifier")(classifier)
    commands.callback()(_root)
    app.add_typer(commands, name="train")


def _root() -> None: ...


def probe(
    inputs: Annotated[
        list[Path], typer.Option("--input", help="Labelled exchanges; may be given several times.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the guard.")],
    constitution: Annotated[
        str, typer.Option(help="A constitution's file, or the name of one that is shipped.")
    ] = ("general-harms"),
    backbone: Annotated[
        str, typer.Option(help="`embedded`, or a local Hugging Face causal language model.")
    ] = "embedded",
    layers: Annotated[
        str, typer.Option(help="`all`, or 0-based numbers and ranges such as 16-24,29.")
    ] = "all",
    site: Annotated[str, typer.Option(help="residual, attention or mlp.")] = "residual",
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 3e-4,
    weight_decay: Annotated[float, typer.Option(min=0.0)] = 1.0,
    max_tokens: Annotated[
        int, typer.Option(help="Longer exchanges keep their last tokens in training.", min=32)
    ] = 1024,
    seed: Annotated[int, typer.Option()] = 0,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave malformed rows out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a linear probe on a backbone's activations and write an uncalibrated guard.

    Interrupted, the same command goes on where it stopped (its work lies in OUTPUT.work until it is done).
    """
    from lockgate.backbones import SITES, Backbone
    from lockgate.durable import scratch_folder
    from lockgate.errors import ConfigError
    from lockgate.exchanges import InvalidCounter, read_exchanges
    from lockgate.guards import check_target
    from lockgate.training import ProbeConfig, train_guard

    chosen = next((known for known in SITES if known == site), None)
    if chosen is None:
        raise ConfigError(f"--site: expected one of {', '.join(SITES)}")
    check_target(output)
    invalid = InvalidCounter()
    rows = [
        row for path in inputs for row in read_exchanges(path, skip_invalid=skip_invalid, on_invalid=invalid)
    ]
    loaded = Backbone.load(backbone)
    config = ProbeConfig(
        name="probe",
        layers=parse_layers(layers, loaded.n_layers),
        epochs=epochs,
        lr=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
    )
    with scratch_folder(output.with_name(output.name + ".work"), "lockgate train probe") as work:
        guard = train_guard(
            rows,
            backbone=loaded,
            constitution=constitution,
            config=config,
            site=chosen,
            max_tokens=max_tokens,
            work=work,
            report=lambda line: typer.echo(f"train: {line}", err=True),
        ).save(output)
    if json:
        counts = guard.record.training.exchanges if guard.record.training else {}
        print_json({"guard": str(output), "exchanges": counts, "invalid": invalid.count})
    else:
        print_skipped(invalid.count, invalid.first)
        typer.echo(
            f"guard in {output}, uncalibrated; next: lockgate calibrate {output} --input YOUR_TRAFFIC.jsonl"
        )


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """`all` or a list such as `16-24,29` as layer numbers.

    Raises:
        ConfigError: not a list of layers, or a layer that the backbone does not have.
    """
    from lockgate.errors import ConfigError

    if text == "all":
        return tuple(range(n_layers))
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found.update(range(max(-1, int(first)), min(n_layers, int(last or first)) + 1))
    except ValueError:
        raise ConfigError(
            f"--layers: expected `all` or numbers and ranges such as 16-24,29; found {text!r}"
        ) from None
    if not found or min(found) < 0 or max(found) >= n_layers:
        raise ConfigError(f"--layers: the backbone has layers 0 to {n_layers - 1}; found {text!r}")
    return tuple(sorted(found))
