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

_HIGHEST = 30


def budget_document(row: "BudgetRow") -> dict[str, object]:
    """Return a line of the budget table for `--json`. `cut` is null if every judged exchange may flag."""
    return {**row._asdict(), "cut": row.cut if row.cut is not None and math.isfinite(row.cut) else None}


def print_traffic(table: "ScoresTable", unanswered: int, overlap: str) -> None:
    """Print the size of the traffic and its overlap with training."""
    typer.echo(
        f"{len(table)} exchanges are taken as benign traffic; {unanswered} without an answer are left out."
    )
    typer.echo(f"Overlap with training: {overlap}.")


def print_budgets(rows: Sequence["BudgetRow"], tolerance: float) -> None:
    """Print the table of budgets and thresholds."""
    print_table(
        ("budget", "flags allowed", "upper bound", "threshold", "prompts needed"),
        [
            (
                f"{row.budget:.2%}",
                "-" if row.k is None else row.k,
                "-" if row.bound is None else f"{row.bound:.4%}",
                _threshold_words(row, tolerance),
                row.required_n,
            )
            for row in rows
        ],
    )


def _threshold_words(row: "BudgetRow", tolerance: float) -> str:
    if row.cut is None:
        return "-"
    return f"{row.cut + tolerance:.4f}" if math.isfinite(row.cut) else "none needed"


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

    highest = _highest(table)
    if not json:
        _print_calibration(calibration, highest, output)
        return
    print_json(
        {
            "calibration": calibration.to_dict(),
            **more,
            "highest": highest,
            "output": None if output is None else str(output),
            "provenance": collect_provenance(["lockgate", *sys.argv[1:]], {}, files),
        }
    )


def _highest(table: "ScoresTable") -> list[dict[str, object]]:
    import numpy as np

    scores = table.floats("mixed_max")
    rows = np.argsort(-scores, kind="stable")[:_HIGHEST]
    rows = rows[np.isfinite(scores[rows])]
    part = table.select(rows)
    columns = zip(part.ids, part.texts("source"), scores[rows].tolist(), strict=True)
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
    print_table(
        ("id", "source", "score"), [(row["id"], row["source"], f"{row['score']:.4f}") for row in highest]
    )
    typer.echo("no guard written: give --output" if output is None else f"guard written to {output}")
