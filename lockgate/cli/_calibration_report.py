"""The output of `lockgate calibrate`: possible budgets, the threshold and the highest scores."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lockgate.cli._common import print_json, print_table

if TYPE_CHECKING:
    from lockgate.calibration import BudgetRow, Calibration
    from lockgate.tables import ScoresTable
    from lockgate.traffic import Recall, Slice

_HIGHEST = 30
_SLICES = 12


def budget_document(row: "BudgetRow", sign: float = 1.0) -> dict[str, object]:
    """Return a line of the budget table for `--json`. `cut` is null if every judged exchange may flag.

    Args:
        row: the line.
        sign: -1 if the scores were negated because low ones are harmful. Shown scores are as in the file.
    """
    known = row.cut is not None and math.isfinite(row.cut)
    return {**row._asdict(), "cut": sign * row.cut if known and row.cut is not None else None}


def print_traffic(table: "ScoresTable", unanswered: int, overlap: str) -> None:
    """Print the size of the traffic and its overlap with training."""
    typer.echo(
        f"{len(table)} exchanges are taken as benign traffic; {unanswered} without an answer are left out."
    )
    typer.echo(f"Overlap with training: {overlap}.")


def print_budgets(
    rows: Sequence["BudgetRow"],
    tolerance: float,
    sign: float = 1.0,
    found: Sequence["Recall | None"] = (),
) -> None:
    """Print the table of budgets and thresholds.

    Args:
        rows: the lines.
        tolerance: tolerance of scores.
        sign: as in `budget_document`.
        found: what each line's cut finds of the harmful rows, if there are any.
    """
    more = [("harmful found",)] + [("-" if one is None else f"{one.flagged} of {one.n}",) for one in found]
    print_table(
        (
            "budget",
            "flags allowed",
            "upper bound",
            "threshold",
            "prompts needed",
            *(more[0] if found else ()),
        ),
        [
            (
                f"{row.budget:.2%}",
                "-" if row.k is None else row.k,
                "-" if row.bound is None else f"{row.bound:.4%}",
                _threshold_words(row, tolerance, sign),
                row.required_n,
                *(more[number] if found else ()),
            )
            for number, row in enumerate(rows, 1)
        ],
    )


def _threshold_words(row: "BudgetRow", tolerance: float, sign: float) -> str:
    if row.cut is None:
        return "-"
    return f"{sign * (row.cut + tolerance):.4f}" if math.isfinite(row.cut) else "none needed"


def print_slices(found: Sequence["Slice"], budget: float, needed: int) -> None:
    """Print the parts of the traffic, those that stand out first, and what is too small for a claim."""
    over = sum(part.state == "over" for part in found)
    small = sum(part.state == "too small" for part in found)
    typer.echo(
        f"Parts of the traffic at this threshold: {over} of {len(found)} are flagged more than the budget "
        f"allows. A part needs at least {needed} distinct prompts, none of them flagged, before {budget:g} "
        f"can be shown for it alone; {small} of {len(found)} are too small for any claim."
    )
    rows: list[tuple[object, ...]] = []
    for by in dict.fromkeys(part.by for part in found):
        own = [part for part in found if part.by == by]
        if by in ("source", "language"):
            own.sort(key=lambda part: (-part.interval.lower, -part.n))
        rows += [_slice_row(part) for part in own[:_SLICES]]
        if len(own) > _SLICES:
            rows.append((by, f"{len(own) - _SLICES} more (--json lists them)", "", "", "", ""))
    print_table(("by", "part", "prompts", "flagged", "95 % interval", "budget"), rows)


def _slice_row(part: "Slice") -> tuple[object, ...]:
    interval = f"{part.interval.lower:.3%} to {part.interval.upper:.3%}"
    return part.by, part.value, part.n, part.flagged, interval, part.state


def report(
    table: "ScoresTable",
    calibration: "Calibration",
    *,
    output: Path | None,
    files: Sequence[Path],
    json: bool,
    **more: object,
) -> None:
    """Print the threshold and the highest scores, or with `json` one document that also holds `more`."""
    from lockgate.evaluation import collect_provenance
    from lockgate.traffic import minimum_coverage, slices

    highest = highest_rows(table)
    parts, needed = slices(table, calibration), minimum_coverage(calibration)
    if not json:
        print_slices(parts, calibration.budget, needed)
        _print_calibration(calibration, highest, output)
        return
    print_json(
        {
            "calibration": calibration.to_dict(),
            **more,
            "slices": [part.to_dict() for part in parts],
            "minimum_coverage": needed,
            "highest": highest,
            "output": None if output is None else str(output),
            "provenance": collect_provenance(["lockgate", *sys.argv[1:]], {}, files),
        }
    )


def highest_rows(table: "ScoresTable", sign: float = 1.0) -> list[dict[str, object]]:
    """Return the ids, sources and scores of the thirty highest rows. `sign` is as in `budget_document`."""
    import numpy as np

    scores = table.floats("mixed_max")
    rows = np.argsort(-scores, kind="stable")[:_HIGHEST]
    rows = rows[np.isfinite(scores[rows])]
    part = table.select(rows)
    columns = zip(part.ids, part.texts("source"), (sign * scores[rows]).tolist(), strict=True)
    return [{"id": identity, "source": source, "score": score} for identity, source, score in columns]


def _print_calibration(
    calibration: "Calibration", highest: Sequence[dict[str, object]], output: Path | None
) -> None:
    typer.echo(
        f"budget {calibration.budget:.3%}: threshold {calibration.threshold:.4f} on {calibration.n} distinct "
        f"prompts, {calibration.flagged} of {calibration.k} allowed flags, upper bound "
        f"{calibration.bound:.4%} at {calibration.confidence:.0%} confidence "
        f"({calibration.duplicates_dropped} repeated prompts left out)"
    )
    if calibration.threshold_without_exclusions is not None:
        typer.echo(
            f"{len(calibration.excluded)} rows excluded; with them the threshold would be "
            f"{calibration.threshold_without_exclusions:.4f}"
        )
    typer.echo("The highest scores. Read these rows: two wrong ones can set a threshold.")
    print_highest(highest)
    typer.echo("no guard written: give --output" if output is None else f"guard written to {output}")


def print_highest(rows: Sequence[dict[str, object]]) -> None:
    """Print what `highest_rows` found."""
    print_table(
        ("id", "source", "score"), [(row["id"], row["source"], f"{row['score']:.4f}") for row in rows]
    )
