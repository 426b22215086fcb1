"""`lockgate recalibrate` and `lockgate log budget`: a guard's own decision log as evidence."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._calibrate import BudgetOption, ExcludeOption, OutputOption, TrainingOption
from lockgate.cli._calibration_report import budget_document, print_budgets, print_traffic, report
from lockgate.cli._common import EXIT_CHECK_FAILED, JsonFlag, names_of_options, print_json
from lockgate.cli._scoring import BackboneOption, load_guard

if TYPE_CHECKING:
    from lockgate.calibration.sequential import RateTest
    from lockgate.traffic import LoggedTraffic

GuardArgument = Annotated[str, typer.Argument(help="The guard's folder, or `embedded`.")]
LogOption = Annotated[
    list[str],
    typer.Option(
        "--log",
        help="Decision log that the guard has written: a file of SQLite or postgresql://USER@HOST/DATABASE. "
        "May be repeated.",
    ),
]
ReviewsOption = Annotated[
    list[Path] | None,
    typer.Option(help="Review file. Exchanges that it calls harmful are no benign traffic. May be repeated."),
]
KeyOption = Annotated[
    Path | None, typer.Option(help="File with the private key of `lockgate log keygen`, for sealed texts.")
]
SinceOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only records from this time on, such as 2026-01-31.")
]
UntilOption = Annotated[str | None, typer.Option(metavar="TIME", help="Only records before this time.")]
_OPTIONS = {"exclusions": "--exclude", "log": "--log"}
# Parts of the guard's budget that a claim may be wanted for.
_PARTS = (1.0, 0.5, 0.2, 0.1)


def register(app: typer.Typer) -> None:
    from lockgate.cli._log import commands

    app.command()(recalibrate)
    commands.command()(budget)


def recalibrate(
    guard: GuardArgument,
    log: LogOption,
    reviews: ReviewsOption = None,
    budget: BudgetOption = 0.0005,
    output: OutputOption = None,
    exclude: ExcludeOption = None,
    training: TrainingOption = None,
    key: KeyOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    backbone: BackboneOption = None,
    json: JsonFlag = False,
) -> None:
    """Set a guard's threshold on what it has recorded in shadow mode. Nothing is scored again.

    The exchanges of the log count as benign traffic, as with `lockgate calibrate`, but for those that reviews
    call harmful. Only exchanges in shadow mode count, because an answer that may be stopped has no score of
    the whole. The log must keep their texts in some form, so that distinct prompts can be counted.
    """
    from lockgate.traffic import CalibrationPlan, gather_evidence, read_exclusions

    with names_of_options(_OPTIONS):
        logged, harmful = _read(guard, log, reviews or (), key, (since, until))
        listed = () if exclude is None else tuple(read_exclusions(exclude))
        table = logged.table()
        known = set(table.ids)
        found = [row for row in logged.confirmed(harmful) if row.id in known]
        plan = CalibrationPlan(budget=budget, exclusions=(*listed, *found), training=tuple(training or ()))
        with gather_evidence(load_guard(guard, backbone), table, plan) as evidence:
            budgets = evidence.budgets()
            if not json:
                _print_left_out(logged)
                print_traffic(evidence.table, evidence.unanswered, evidence.overlap)
                typer.echo(f"{len(found)} exchanges that reviews call harmful do not count.")
                print_budgets(budgets, evidence.tolerance)
            calibration = evidence.choose()
            if output is not None:
                evidence.apply(calibration).save(output)
    report(
        evidence.table,
        calibration,
        output=output,
        files=[Path(name) for name in log if "://" not in name],
        json=json,
        budgets=[budget_document(row) for row in budgets],
        left_out=dict(logged.left_out),
        reviewed_as_harmful=len(found),
        overlap_with_training=evidence.overlap,
    )


def budget(
    log: Annotated[
        list[str],
        typer.Argument(metavar="LOG...", help="Decision logs: files, or postgresql://USER@HOST/DATABASE."),
    ],
    guard: Annotated[str, typer.Option(help="The guard that has written them: its folder, or `embedded`.")],
    limit: Annotated[
        float | None,
        typer.Option("--budget", help="Largest rate of refusals. Default: the guard's own budget."),
    ] = None,
    reviews: ReviewsOption = None,
    key: KeyOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    json: JsonFlag = False,
) -> None:
    """Say whether the rate of refusals has left the budget. Ask at any time and as often as you like.

    Every flag counts as a false refusal unless reviews call its exchange harmful. So after an alarm review
    the flagged exchanges: many attacks look like many refusals. Exit code 1: the rate has left the budget.
    """
    with names_of_options(_OPTIONS):
        logged, harmful = _read(guard, log, reviews or (), key, (since, until))
        allowed = _budget_of(guard) if limit is None else limit
        found = logged.watch(allowed, harmful)
    confirmed = sum(row.halted for row in logged.rows if row.exchange in harmful)
    by_prompt = all(row.group is not None for row in logged.rows)
    needed = _needed(found)
    if json:
        print_json(_document(found, logged, confirmed, needed, by_prompt=by_prompt))
    else:
        _print_left_out(logged)
        _print_test(found, confirmed, needed, by_prompt=by_prompt)
    if found.left_at is not None:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _read(
    guard: str,
    logs: Sequence[str],
    reviews: Sequence[Path],
    key: Path | None,
    times: tuple[str | None, str | None],
) -> "tuple[LoggedTraffic, frozenset[str]]":
    """Read the logs, and the ids of the exchanges that reviewers found harmful."""
    from lockgate.cli._log import read_time
    from lockgate.cli._log_export import read_key
    from lockgate.feedback import read_reviewed
    from lockgate.traffic import read_logged

    harmful = read_reviewed(reviews).harmful
    secret = None if key is None else read_key(key)
    since, until = (read_time(time) for time in times)
    return read_logged(guard, logs, key=secret, since=since, until=until), harmful


def _budget_of(guard: str) -> float:
    from lockgate.errors import ConfigError
    from lockgate.guards import bundle_folder, read_bundle

    calibration = read_bundle(bundle_folder(guard)).record.calibration
    if calibration is None:
        raise ConfigError("--budget: the guard has none of its own, since it is not calibrated; give one")
    return float(calibration["budget"])


def _needed(found: "RateTest") -> list[tuple[float, int | None]]:
    from lockgate.calibration.sequential import n_to_claim

    budgets = [part * found.budget for part in _PARTS]
    return [(wanted, n_to_claim(wanted, found.flags, found.n, found.confidence)) for wanted in budgets]


def _document(
    found: "RateTest",
    logged: "LoggedTraffic",
    confirmed: int,
    needed: Sequence[tuple[float, int | None]],
    *,
    by_prompt: bool,
) -> dict[str, object]:
    return {
        "budget": found.budget,
        "confidence": found.confidence,
        "counted": "distinct prompts" if by_prompt else "exchanges",
        "n": found.n,
        "flags": found.flags,
        "reviewed_as_harmful": confirmed,
        "rate": {"lower": found.rate.lower, "upper": found.rate.upper},
        "evidence": found.evidence,
        "limit": -math.log1p(-found.confidence),
        "left_budget_at": found.left_at,
        "n_to_claim": [{"budget": wanted, "n": n} for wanted, n in needed],
        "left_out": dict(logged.left_out),
    }


def _print_left_out(logged: "LoggedTraffic") -> None:
    for reason, count in logged.left_out.items():
        typer.echo(f"{count} {reason}")


def _print_test(
    found: "RateTest", confirmed: int, needed: Sequence[tuple[float, int | None]], *, by_prompt: bool
) -> None:
    counted = "distinct prompts" if by_prompt else "exchanges (a prompt that comes again counts again)"
    typer.echo(
        f"{found.flags} of {found.n} {counted} were flagged and are not reviewed as harmful; {confirmed} are."
    )
    typer.echo(
        f"Rate of refusals: {found.rate.lower:.4%} to {found.rate.upper:.4%} at any look "
        f"({found.confidence:.0%} confidence). Budget: {found.budget:.4%}."
    )
    if found.left_at is None:
        typer.echo("The rate has not left the budget, as far as these exchanges can tell.")
    else:
        typer.echo(f"ALARM: the rate has left the budget. Number {found.left_at} was the first to show it.")
    for wanted, n in needed:
        told = "no number would do at this rate" if n is None else f"{n} distinct prompts"
        typer.echo(f"to claim {wanted:.4%}: {told}")
