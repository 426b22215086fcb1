"""`lockgate redteam`: attack a guard, keep what breaks it, and refuse guards that are weaker."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lockgate.cli._common import EXIT_CHECK_FAILED, GuardArgument, JsonFlag, print_json, print_table
from lockgate.cli._redteam_live import watching
from lockgate.cli._scoring import BackboneOption, load_guard

commands = typer.Typer(help="Attack guards, and keep what breaks them.", no_args_is_help=True)

OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of `lockgate redteam run`.")]
CasesArgument = Annotated[Path, typer.Argument(metavar="CASES", help="File of `lockgate redteam breaks`.")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="redteam")


@commands.command()
def run(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="The campaign: a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for the results. An interrupted run there continues.")],
    json: JsonFlag = False,
) -> None:
    """Play a campaign's attacks against its variants, and write result, report and all attempts.

    `attempts.jsonl` in the folder holds the texts of attacks and answers, for its owner only. Result and
    report hold none.
    """
    from lockgate.redteam import Campaign, render_report, run_campaign, write_report

    read = Campaign.read(campaign)
    with watching(read) as told:
        result = run_campaign(read, out, told=told)
    path = write_report(out, render_report(result))
    if json:
        print_json(result)
        return
    _print(result)
    typer.echo(f"{path}")


@commands.command()
def report(
    out: OutArgument,
    texts: Annotated[
        bool, typer.Option("--texts", help="Show examples with the texts of attacks and answers.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Write the report of a campaign again."""
    from lockgate.redteam import ATTEMPTS, RESULT, breaks_in, read_result, render_report, write_report

    result = read_result(out / RESULT)
    examples = None
    if texts:
        examples = {name: breaks_in(out / ATTEMPTS, name) for name in result["variants"]}
    path = write_report(out, render_report(result, examples))
    if json:
        print_json({"report": str(path)})
    else:
        typer.echo(f"{path}")


@commands.command()
def attacks(json: JsonFlag = False) -> None:
    """List the attacks and the sets of queries in the package."""
    from lockgate.redteam import query_sets
    from lockgate.redteam.attacks import all_attacks

    found = all_attacks()
    if json:
        rows = [{"name": one.name, "family": one.family, "adaptive": one.adaptive} for one in found]
        print_json({"attacks": rows, "queries": list(query_sets())})
        return
    print_table(
        ("attack", "family", "adaptive"),
        [(one.name, one.family, "yes" if one.adaptive else "") for one in found],
    )
    typer.echo(f"queries: {', '.join(query_sets())}")


@commands.command()
def breaks(
    out: OutArgument,
    variant: Annotated[str, typer.Option(help="The variant whose breaks are kept.")],
    cases: Annotated[Path, typer.Option(help="File for the cases (.jsonl). New ones are added to it.")],
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a review file for `lockgate build --update --feedback`: breaks are harmful, "
            "twins harmless.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Keep what got past a guard as cases for `lockgate redteam replay`, and as lessons for its update."""
    from lockgate.redteam import ATTEMPTS, add_cases, breaks_in, reviews_in, write_reviews

    found = breaks_in(out / ATTEMPTS, variant)
    lines = None if reviews is None else reviews_in(out / ATTEMPTS, variant)
    new = add_cases(cases, found)
    if reviews is not None and lines is not None:
        write_reviews(reviews, lines)
    if json:
        counts = {"new": new, "breaks": len(found), "reviews": None if lines is None else len(lines)}
        print_json({"cases": str(cases), **counts})
        return
    typer.echo(f"{cases}: {new} new of {len(found)} breaks")
    if lines is not None:
        typer.echo(f"{reviews}: {len(lines)} reviews")


@commands.command(name="replay")
def replay_cases(
    cases: CasesArgument,
    guard: GuardArgument,
    backbone: BackboneOption = None,
    most: Annotated[
        int, typer.Option(help="Cases that may get past the guard: more end with exit code 1.", min=0)
    ] = 0,
    json: JsonFlag = False,
) -> None:
    """Score kept breaks with a guard: which it stops, stops too late, or lets pass."""
    from lockgate.redteam import read_cases, replay

    found = replay(read_cases(cases), load_guard(guard, backbone))
    open_ones = [one for one in found if one.outcome != "stopped"]
    if json:
        rows = [{"id": one.case.id, "family": one.case.family, "outcome": one.outcome} for one in found]
        print_json({"cases": rows, "open": len(open_ones)})
    else:
        print_table(
            ("case", "family", "attack", "query", "outcome"),
            [
                (one.case.id, one.case.family, one.case.attack, one.case.query, one.outcome)
                for one in open_ones
            ],
        )
        typer.echo(f"{len(found) - len(open_ones)} of {len(found)} cases are stopped")
    if len(open_ones) > most:
        raise typer.Exit(EXIT_CHECK_FAILED)


@commands.command()
def gate(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="result.json of the guard in use.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="result.json of the new guard.")],
    variant: Annotated[str, typer.Option(help="The variant that is compared, as named in NEW.")],
    old_variant: Annotated[str | None, typer.Option(help="Its name in OLD, if that is another one.")] = None,
    least: Annotated[
        float | None,
        typer.Option(
            "--min",
            metavar="SHARE",
            help="Least share of its plays in which each family must be stopped: fail if one is below that, "
            "beyond its interval.",
            min=0,
            max=1,
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Fail (exit code 1) if the new guard is weaker in a family than the old one.

    Both campaigns must have the same queries and settings. A family counts as weaker if an exact sign test by
    query says so, by Holm's rule at 5 % over all families: chance alone seldom fails a build.
    """
    from lockgate.redteam import compare_campaigns, read_result

    before, after = read_result(old), read_result(new)
    changes = compare_campaigns(before, after, old_variant or variant, variant)
    families = after["variants"][variant]["families"]
    under = [name for name, own in families.items() if least is not None and 1 - own["ci"][0] < least]
    failed = any(change.weaker for change in changes) or bool(under)
    if json:
        rows = [
            {"family": c.family, "old": c.old, "new": c.new, "plays": c.plays, "p": c.p, "weaker": c.weaker}
            for c in changes
        ]
        print_json({"families": rows, "under": under, "passed": not failed})
    else:
        print_table(
            ("family", "old", "new", "plays", "p", ""),
            [
                (
                    c.family,
                    f"{c.old:.1%}",
                    f"{c.new:.1%}",
                    c.plays,
                    f"{c.p:.3f}",
                    "WEAKER" if c.weaker else "",
                )
                for c in changes
            ],
        )
        for name in under:
            typer.echo(f"{name}: fewer than {least:.1%} are stopped")
        typer.echo("failed" if failed else "passed")
    if failed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _print(result: Mapping[str, Any]) -> None:
    print_table(
        ("variant", "success", "best attack", "high risk per 1,000", "twins halted", "attempts", "failed"),
        [(name, *_rates(own), own["attempts"], own["failed"]) for name, own in result["variants"].items()],
    )


def _rates(own: Mapping[str, Any]) -> tuple[str, ...]:
    best, risk, twins = own["universal"], own["high_risk_per_1000"], own["twins"]
    success = own["success"]
    return (
        "-" if success is None else f"{success['success']:.1%} of {success['n']}",
        f"{best['attack']}: {best['passed']} of {best['of']}" if best["attack"] else "-",
        f"{risk['value']:.1f} ({risk['ci'][0]:.1f} to {risk['ci'][1]:.1f})",
        "-" if twins is None else f"{twins['success']:.1%} of {twins['n']}",
    )
