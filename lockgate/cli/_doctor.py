"""`lockgate doctor`: check the installation, and say how to get missing parts."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lockgate.cli._common import (
    EXIT_CHECK_FAILED,
    DeviceOption,
    DtypeOption,
    JsonFlag,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from lockgate.guards import GuardRecord


class Check(NamedTuple):
    """One line of the report. `remedy` is empty if all is well."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    guard: Annotated[
        Path | None, typer.Option(help="Also check this guard, and say whether it is calibrated.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Also load this model (a folder or `embedded`) and run its self-test."
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Also load and run the embedded guard with the network switched off."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check the installation, and say how to get missing parts. Exit code 1 if a needed part is missing."""
    checks = [_python(), *_packages(), _home(), _device(device, dtype), _weights(), _bundle()]
    if guard is not None:
        checks.append(_own_bundle(guard))
    if backbone is not None:
        checks += _backbone(backbone, device, dtype)
    if offline:
        checks.append(_offline(device, dtype))
    if json:
        print_json({"ok": all(check.ok for check in checks), "checks": [check._asdict() for check in checks]})
    else:
        rows = [["ok" if c.ok else "MISSING", c.name, c.found, c.remedy] for c in checks]
        print_table(["", "check", "found", "what to do"], rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(EXIT_CHECK_FAILED)


def _python() -> Check:
    return Check(
        "python", True, f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"
    )


def _packages() -> list[Check]:
    found = []
    for name in ("torch", "transformers", "tokenizers", "safetensors", "starlette", "uvicorn"):
        try:
            found.append(Check(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Check(name, False, "not installed", f"pip install {name}"))
    return found


def _home() -> Check:
    from lockgate.durable import home

    path = home()
    parent = next(p for p in (path, *path.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    return Check(
        "LOCKGATE_HOME", writable, str(path), "" if writable else "set LOCKGATE_HOME to a writable folder"
    )


def _device(device: str, dtype: str) -> Check:
    """Say where models would compute. Raises ConfigError for a device or precision that is not there."""
    from lockgate.backbones import choose_placement

    placed = choose_placement(device, dtype)
    return Check("device", True, f"{placed.device}, {placed.dtype}")


def _weights() -> Check:
    from lockgate.backbones import embedded_is_ready, embedded_path

    ready = embedded_is_ready()
    return Check(
        "embedded backbone",
        ready,
        str(embedded_path()) if ready else "not here",
        "" if ready else "lockgate fetch",
    )


def _bundle() -> Check:
    from lockgate.errors import LockgateError
    from lockgate.guards import bundle_folder, read_bundle

    try:
        record = read_bundle(bundle_folder("embedded")).record
    except LockgateError as error:
        return Check("embedded guard", False, str(error), "install lockgate again")
    return Check("embedded guard", True, _describe(record))


def _own_bundle(path: Path) -> Check:
    from lockgate.errors import LockgateError
    from lockgate.guards import read_bundle

    try:
        record = read_bundle(path).record
    except LockgateError as error:
        return Check(str(path), False, str(error), "restore the folder, or make the guard again")
    remedy = "" if record.calibration else f"lockgate calibrate {path} --input TRAFFIC --output {path}"
    return Check(str(path), True, _describe(record), remedy)


def _backbone(source: str, device: str, dtype: str) -> list[Check]:
    from lockgate.backbones import Backbone
    from lockgate.errors import ConfigError, LockgateError

    try:
        loaded = Backbone.load(source, device=device, dtype=dtype)
        tests = loaded.self_test()
    except ConfigError:
        raise
    except LockgateError as error:
        return [Check(source, False, str(error), "repair the model's folder, or take another model")]
    size = f"{loaded.n_layers} blocks of {loaded.hidden_size}, {loaded.context_length} tokens of context"
    remedy = "take the tokenizer and template that belong to the model"
    return [
        Check(source, True, f"{loaded.name}: {size}, {loaded.placement}"),
        *(Check(f"self-test: {test.name}", test.ok, test.found, "" if test.ok else remedy) for test in tests),
    ]


def _describe(record: "GuardRecord") -> str:
    stages = "one stage" if record.stages == 1 else "two stages"
    state = "calibrated" if record.calibration else "uncalibrated"
    why = "" if record.provisional is None else f": {record.provisional.reason}"
    drift = 0.0 if record.cascade is None else record.cascade.drift
    rises = f", its thresholds rise by {drift:.4f} logits as the answer doubles" if drift else ""
    return f"{record.name}, {stages}, {state}{why}{rises}"


def _offline(device: str, dtype: str) -> Check:
    import socket

    from lockgate.cli._scoring import load_guard
    from lockgate.errors import LockgateError
    from lockgate.exchanges import Exchange, Message

    os.environ["HF_HUB_OFFLINE"] = "1"
    original = socket.socket.connect

    def refuse(*_: object) -> None:
        raise OSError("the network is off for this check")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    try:
        guard = load_guard("embedded", None, device, dtype)
        greeting = Exchange((Message("user", "hello"), Message("assistant", "hello")))
        # Stage 2 judges every block here, so that both stages are tested.
        score = next(iter(guard.score_many([greeting], all_blocks=guard.stages.count > 1)))
        stages = f", {len(score.blocks)} verdicts given" if score.blocks else ""
        return Check(
            "works offline",
            True,
            f"guard loaded and scored {score.tokens} tokens without the network{stages}",
        )
    except (LockgateError, OSError) as error:
        return Check("works offline", False, str(error), "see the lines above")
    finally:
        socket.socket.connect = original  # type: ignore[method-assign]
