"""`lockgate train`: make the parts of a guard from labelled exchanges."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import DeviceOption, DtypeOption, JsonFlag, print_json, print_skipped
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
        list[Path],
        typer.Option("--input", help="Labelled exchanges: .jsonl[.gz|.zst] or .parquet. May be repeated."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the guard.")],
    constitution: Annotated[
        str, typer.Option(help="Policy of the labels: a constitution's file, or the name of a shipped one.")
    ] = ("general-harms"),
    backbone: Annotated[
        str,
        typer.Option(
            help="Model to read: `embedded`, or the folder of a Hugging Face causal language model."
        ),
    ] = "embedded",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    layers: Annotated[
        str, typer.Option(help="Layers to read: `all`, or numbers from 0 and ranges such as 16-24,29.")
    ] = "all",
    site: Annotated[
        str, typer.Option(help="Place in a layer to read: residual, attention or mlp.")
    ] = "residual",
    epochs: Annotated[int, typer.Option(help="Passes over the data.", min=1)] = 20,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of AdamW.", min=0.0)] = 3e-4,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.", min=0.0)] = 1.0,
    max_tokens: Annotated[
        int,
        typer.Option(help="Training reads only the last tokens of an exchange, at most this many.", min=32),
    ] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave malformed rows out, and count them.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Train a linear probe on a backbone's activations and write an uncalibrated guard.

    After an interruption, run the same command again to continue. Unfinished work is kept in OUTPUT.work.
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
    loaded = Backbone.load(backbone, device=device, dtype=dtype)
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
    """Read `all` or a list such as `16-24,29` into layer numbers.

    Raises:
        ConfigError: the text is not a list of layers, or the backbone does not have such a layer.
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
