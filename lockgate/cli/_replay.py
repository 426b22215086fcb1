"""`lockgate replay`: what another guard or threshold would change in recorded traffic."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.traffic import Counts, Replay, ReplayPlan

_SHOWN = 20
_OPTIONS = {
    "log": "--log",
    "decisions": "--decisions",
    "against": "--against",
    "recorded_by": "--against",
    "thresholds": "--threshold",
    "workers": "--workers",
}
_KINDS = ("newly halted", "newly passed", "still halted", "still passed")


def register(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    guard: GuardArgument,
    log: Annotated[
        list[Path],
        typer.Option(
            help="Recorded traffic: exchanges (.jsonl[.gz|.zst] or .parquet), or the server's decision logs "
            "without any text (a database of SQLite, or lines of `lockgate log export`). May be repeated."
        ),
    ],
    kind: Annotated[
        Literal["auto", "traffic", "decisions"], typer.Option(help="What --log holds. auto: look into it.")
    ] = "auto",
    decisions: Annotated[
        list[Path] | None,
        typer.Option(
            help="With exchanges: decision logs that say what was decided about them. May be repeated."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="With exchanges: the guard that decided before. With decision logs: the guard that wrote "
            "them, if they do not say what gave their scores.",
            metavar="GUARD",
        ),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            help="Threshold to count with. May be repeated; the first one says what is listed as changed. "
            "Default: GUARD's own."
        ),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="File for the records that change (.jsonl), for you to read.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps the scores, without text, so that a later replay of the same exchanges "
            "scores nothing again. Default: they are kept until the replay is done."
        ),
    ] = None,
    backbone: BackboneOption = None,
    against_backbone: Annotated[
        str | None, typer.Option(help="Folder of the backbone of --against. Default: as --backbone.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    workers: WorkersOption = 1,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave malformed exchanges out, and count them.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Say which recorded exchanges another guard or threshold would halt or let pass.

    Exchanges are scored again. What was decided about them is in --decisions, or --against decides it;
    without either, every exchange counts as admitted. Decision logs hold scores and no text: they can be
    compared with other thresholds as long as GUARD gives the same scores.

    After an interruption, run the same command again to continue.
    """
    from lockgate.traffic import ReplayPlan, kind_of, replay_decisions, write_changes

    for option, paths in (("--log", log), ("--decisions", decisions or [])):
        if any(path.parts[0] in ("postgresql:", "postgres:") for path in paths if path.parts):
            raise ConfigError(
                f"{option}: takes files; `lockgate log export` writes one from a database of PostgreSQL"
            )
    if rows is not None and not rows.parent.is_dir():
        raise ConfigError(f"--rows: the folder {rows.parent} does not exist; make it first")
    with names_of_options(_OPTIONS):
        plan = ReplayPlan(
            tuple(threshold or ()), tuple(decisions or ()), skip_invalid=skip_invalid, workers=workers
        )
        if (kind_of(log) if kind == "auto" else kind) == "decisions":
            no_text = {"--state": state, "--against-backbone": against_backbone}
            _refuse({**no_text, "--skip-invalid": skip_invalid})
            found = replay_decisions(guard, log, plan, recorded_by=against)
        else:
            guards = [(guard, backbone)]
            guards += [] if against is None else [(against, against_backbone or backbone)]
            found = _replay_traffic(guards, log, plan, state, (device, dtype))
        if rows is not None:
            write_changes(found, rows)
    if json:
        print_json({**found.to_dict(), "rows": None if rows is None else str(rows)})
    else:
        _print(found, guard, rows)


def _refuse(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(f"{given[0]}: decision logs hold no text, so nothing is scored; leave it out")


def _replay_traffic(
    guards: Sequence[tuple[str, str | None]],
    files: Sequence[Path],
    plan: "ReplayPlan",
    state: Path | None,
    place: tuple[str, str],
) -> "Replay":
    """Score the exchanges with the guard, and with a second one if it decided before.

    Raises:
        LockgateError: as `Guard.load` and `lockgate.traffic.replay` do.
    """
    from dataclasses import replace

    from lockgate.traffic import replay as replay_exchanges

    if len(guards) > 1 and plan.decisions:
        raise ConfigError("give either --decisions or --against: both say what was decided before")
    loaded = [load_guard(name, backbone, *place) for name, backbone in guards]
    with _folder(guards, files, state) as folder, watch_files("replay") as watch:
        return replay_exchanges(
            loaded[0],
            files,
            replace(plan, scratch=folder),
            against=loaded[1] if len(loaded) > 1 else None,
            report=watch,
        )


@contextmanager
def _folder(
    guards: Sequence[tuple[str, str | None]], files: Sequence[Path], state: Path | None
) -> Iterator[Path]:
    """Yield the folder for scores: the one that is asked for, or one that is removed at the end."""
    from lockgate.durable import hash_json, home, scratch_folder

    if state is not None:
        yield state
        return
    names = [*(str(Path(name).absolute()) for name, _ in guards), *(str(path.absolute()) for path in files)]
    with scratch_folder(home() / "replay" / hash_json(names)[:16], "lockgate replay") as kept:
        yield kept / "scores"


def _print(found: "Replay", guard: str, rows: Path | None) -> None:
    before = {
        "the log": "compared with the decisions of the log",
        "another guard": "compared with the other guard",
        "nothing": "and all of them count as admitted",
    }[found.against]
    typer.echo(
        f"{found.n} exchanges under {guard} at threshold {found.threshold:.4f}, {before}. "
        f"{found.admitted} were admitted."
    )
    _print_counts("exchanges", [("all", found.counts)])
    typer.echo("By threshold. The newly halted ones are admitted exchanges that would have been refused:")
    _print_counts("threshold", [(f"{row.threshold:.4f}", row.counts) for row in found.thresholds])
    for name, parts in (("category", found.by_category), ("last stage", found.by_stage)):
        typer.echo(f"By {name}, at threshold {found.threshold:.4f}:")
        _print_counts(name, list(parts.items()))
    _print_notes(found)
    if found.changes:
        listed = found.to_dict()["changes"][:_SHOWN]
        names = ("change", "id", "category", "stage", "score", "file", "row")
        cells = [["-" if row[name] is None else row[name] for name in names] for row in listed]
        print_table(names, cells)
    if len(found.changes) > _SHOWN:
        typer.echo(f"and {len(found.changes) - _SHOWN} more (--rows FILE or --json lists them)")
    if rows is not None:
        typer.echo(f"{len(found.changes)} changed records written to {rows}")


def _print_counts(name: str, rows: "Sequence[tuple[str, Counts]]") -> None:
    print_table((name, *_KINDS), [(value, *counts) for value, counts in rows])


def _print_notes(found: "Replay") -> None:
    for reason, count in found.left_out.items():
        typer.echo(f"not compared: {count} {reason}")
    if found.unenforced:
        typer.echo(f"{found.unenforced} were halted in the record only: the client got all of the answer.")
    if found.cut_short:
        typer.echo(
            f"{found.cut_short} of the newly passed ones were cut short in the record. What would have "
            "followed is unknown."
        )
