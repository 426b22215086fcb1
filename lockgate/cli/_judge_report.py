"""A judge's own report as a table: what it costs, and what it gains at the budget."""

from typing import TYPE_CHECKING

import typer

from lockgate.cli._common import print_table

if TYPE_CHECKING:
    from lockgate.traffic import Arrangement, JudgeReport


def print_judge(found: "JudgeReport") -> None:
    """Print what the judge costs, how it goes with the probe, and what each arrangement finds."""
    known = f", SHA-256 {found.sha256[:12]}…" if found.sha256 else ""
    typer.echo(f"Judge {found.name} ({found.kind}{known}):")
    money = found.currency is not None
    head = ("arrangement", "asked about", "flags", "upper bound", "harmful found", "verdicts", "seconds")
    print_table(
        (*head, "tokens", *((found.currency,) if money else ())),
        [_row(row, money=money) for row in found.arrangements],
    )
    for gain in found.gains:
        between = f"from {gain.interval.lower:+.1%} to {gain.interval.upper:+.1%}"
        typer.echo(
            f"Behind the probe it finds {gain.share:+.1%} beyond the {gain.over} ({between}): "
            f"{gain.gained} more and {gain.lost} fewer of {gain.n} harmful prompts."
        )
    pearson, spearman = found.correlation.pearson, found.correlation.spearman
    if pearson is None or spearman is None:
        typer.echo(f"Its correlation with the probe is not known: {found.correlation.n} exchanges.")
        return
    typer.echo(
        f"It goes with the probe by a correlation of {pearson:.2f} (of ranks {spearman:.2f}"
        f"{_between(found)}), over {found.correlation.n} exchanges: {found.correlation.over}."
    )
    for name, own in found.voices.items():
        if own.spearman is not None:
            typer.echo(f"The {name} goes with the probe by a correlation of ranks of {own.spearman:.2f}.")


def _between(found: "JudgeReport") -> str:
    interval = found.correlation.interval
    return "" if interval is None else f", from {interval.lower:.2f} to {interval.upper:.2f}"


def _row(row: "Arrangement", *, money: bool) -> tuple[object, ...]:
    found = "-" if row.recall is None else f"{row.recall.flagged} of {row.recall.n}"
    tokens = row.cost.prompt_tokens + row.cost.completion_tokens
    cells = (row.name, f"{row.asked:.2%}", f"{row.flagged} of {row.n}", f"{row.bound:.4%}", found)
    price = "-" if row.money is None else f"{row.money:.4g}"
    return (*cells, row.cost.verdicts, f"{row.cost.seconds:.1f}", tokens, *((price,) if money else ()))
