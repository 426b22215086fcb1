"""`lockgate memory`: calibrate how a guard's scores add up over the exchanges of a conversation."""

from pathlib import Path
from typing import Annotated

import typer

from lockgate.cli._common import GuardArgument, JsonFlag, names_of_options, print_json
from lockgate.cli._scoring import BackboneOption, WorkersOption, load_guard, watch_files

_OPTIONS = {"budget": "--budget", "evidence": "--evidence", "forget": "--forget", "workers": "--workers"}


def register(app: typer.Typer) -> None:
    app.command()(memory)


def memory(
    guard: GuardArgument,
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--input",
            help="Benign conversations: .jsonl[.gz|.zst] or .parquet. May be repeated.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="File for the memory, which a config file of the server names.")
    ],
    budget: Annotated[
        float, typer.Option(help="Largest share of benign conversations in which the memory may flag.")
    ] = 0.0005,
    evidence: Annotated[float, typer.Option(help="Share of benign exchanges that count as evidence.")] = 0.01,
    forget: Annotated[
        float, typer.Option(help="What a calm exchange takes off, as a share of what one at the cut adds.")
    ] = 0.1,
    backbone: BackboneOption = None,
    workers: WorkersOption = 1,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave malformed rows out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Let the exchanges of a conversation add up, so that many small steps are seen too.

    Each exchange is still judged by itself. With a memory, one that comes close to the threshold lowers it
    for the next ones of its conversation. The command chooses how far, on benign conversations: the memory
    flags an exchange in at most the budget's share of them.

    After an interruption, run the same command again to continue. Unfinished work is kept in OUTPUT.state.
    """
    from lockgate.traffic import MemoryPlan, calibrate_memory

    with names_of_options(_OPTIONS):
        plan = MemoryPlan(budget, evidence, forget, skip_invalid, workers)
        with watch_files("score conversations") as watch:
            found = calibrate_memory(load_guard(guard, backbone), inputs, output, plan, report=watch)
    if json:
        print_json({"output": str(output), **found.model_dump(mode="json")})
        return
    n, k, bound = (found.calibration[name] for name in ("n", "k", "bound"))
    typer.echo(
        f"{output}: {n} conversations with {found.exchanges} exchanges; the memory flags in {k} of "
        f"them, which shows at most {bound:.4%} of such conversations"
    )
