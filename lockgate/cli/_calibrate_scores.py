"""`lockgate calibrate --scores` without a guard: a threshold for scores that any other program made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._calibration_report import (
    budget_document,
    highest_rows,
    print_budgets,
    print_highest,
    print_slices,
)
from lockgate.cli._common import names_of_options, print_json
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.calibration import Calibration
    from lockgate.tables import ScoresTable
    from lockgate.traffic import CalibrationPlan, Evidence, Recall, ScoreColumns, ScoreThreshold, Slice

_PANEL = "Scores of another program"


def _column(flag: str, words: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(flag, help=words, rich_help_panel=_PANEL, metavar="NAME")
    return found


ScoreColumnOption = Annotated[str | None, _column("--score-column", "Column with the score, a number.")]
PromptColumnOption = Annotated[
    str | None, _column("--prompt-column", "Column with the prompt's text. It is hashed and kept nowhere.")
]
GroupColumnOption = Annotated[
    str | None, _column("--group-column", "Instead: column with a hash of the prompt, or another key.")
]
IdColumnOption = Annotated[str | None, _column("--id-column", "Column with ids. Default: FILE:ROW.")]
LabelColumnOption = Annotated[
    str | None, _column("--label-column", "Column with 1 (harmful), 0 (harmless) or nothing.")
]
SourceColumnOption = Annotated[str | None, _column("--source-column", "Column with the traffic's source.")]
LanguageColumnOption = Annotated[str | None, _column("--language-column", "Column with the language.")]
LengthColumnOption = Annotated[str | None, _column("--length-column", "Column with the length, in any unit.")]
TurnsColumnOption = Annotated[str | None, _column("--turns-column", "Column with the number of messages.")]
LowerOption = Annotated[
    bool,
    typer.Option("--lower-is-harmful", help="Low scores are the harmful ones.", rich_help_panel=_PANEL),
]
LabelledOption = Annotated[
    bool,
    typer.Option(
        "--labelled",
        help="Rows that are labelled harmful set no threshold: they show what it finds. Default: an error.",
        rich_help_panel=_PANEL,
    ),
]

_OPTIONS = {
    "score": "--score-column",
    "prompt": "--prompt-column",
    "labelled": "--labelled",
    "exclusions": "--exclude",
    "scores": "--scores",
}


@dataclass(frozen=True, slots=True)
class ScoresOptions:
    """The options of the command that go without a guard. `columns` has the names by their meaning."""

    scores: Sequence[Path]
    output: Path | None
    budget: float
    exclude: Path | None
    training: Sequence[Path]
    tolerance: float | None
    columns: Mapping[str, str | None]
    lower_is_harmful: bool
    labelled: bool
    json: bool


def refuse_columns(columns: Mapping[str, str | None], lower_is_harmful: bool, labelled: bool) -> None:
    """Refuse the options for scores of another program beside a guard. Raises ConfigError."""
    given = [f"--{name}-column" for name, value in columns.items() if value is not None]
    given += ["--lower-is-harmful"] if lower_is_harmful else []
    given += ["--labelled"] if labelled else []
    if given:
        raise ConfigError(f"{given[0]}: it is for scores of another program; leave GUARD out")


def calibrate_scores(options: ScoresOptions, needs_guard: Mapping[str, object]) -> None:
    """Read the scores, choose the threshold, and print and write it.

    Args:
        options: the options.
        needs_guard: values of the options that need a guard, by their name.

    Raises:
        ConfigError: options do not go together, or no scores are given.
        CalibrationError, ExchangeError: the scores can't be calibrated.
    """
    given = [name for name, value in needs_guard.items() if value]
    if given or not options.scores:
        raise ConfigError(
            f"GUARD: missing{f', and {given[0]} needs it' if given else ''}; give a guard, or scores of "
            "another program (--scores FILE --score-column NAME --prompt-column NAME)"
        )
    check_output(options.output)
    with names_of_options(_OPTIONS):
        columns, table = _read(options)
        choose(
            table,
            _plan(options),
            files=options.scores,
            column="mixed_max" if columns is None else columns.score,
            sign=1.0 if columns is None else columns.sign,
            output=options.output,
            json=options.json,
        )


def choose(
    table: "ScoresTable",
    plan: "CalibrationPlan",
    *,
    files: Sequence[Path],
    column: str,
    output: Path | None,
    json: bool,
    sign: float = 1.0,
    **more: object,
) -> None:
    """Choose the threshold of scores that no guard gave, and print and write it.

    Args:
        table: the scores.
        plan: the calibration's settings.
        files: files that the threshold's file names as its inputs.
        column: name of the score.
        output: place of the threshold's file, if it is written.
        json: print one JSON document, which also holds `more`.
        sign: -1 if the scores were negated because low ones are harmful.

    Raises:
        CalibrationError: the scores can't be calibrated.
    """
    from lockgate.traffic import ScoreThreshold, gather_evidence, slices

    with gather_evidence(None, table, plan) as evidence:
        if not json:
            _print_evidence(evidence, sign)
        calibration = evidence.choose()
        recall = evidence.recall(calibration.cut)
        parts = slices(evidence.table, calibration)
    found = ScoreThreshold.of(
        calibration,
        files,
        column=column,
        lower_is_harmful=sign < 0,
        recall=None if recall is None else recall.to_dict(),
    )
    if output is not None:
        found.write(output)
    if json:
        _print_document(evidence, calibration, found, parts, output, more)
    else:
        _print(evidence, calibration, found, parts, recall, output)


def _plan(options: ScoresOptions) -> "CalibrationPlan":
    from lockgate.traffic import CalibrationPlan, read_exclusions

    return CalibrationPlan(
        budget=options.budget,
        exclusions=() if options.exclude is None else read_exclusions(options.exclude),
        training=tuple(options.training),
        tolerance=options.tolerance,
        labelled=options.labelled,
    )


def _read(options: ScoresOptions) -> "tuple[ScoreColumns | None, ScoresTable]":
    """Read the files: columns that are named, or tables that Lockgate wrote."""
    from lockgate.cli._scoring import read_scores
    from lockgate.traffic import ScoreColumns, read_score_columns

    names = options.columns
    if names["score"] is not None:
        known = {name: value for name, value in names.items() if value is not None}
        columns = ScoreColumns(**known, lower_is_harmful=options.lower_is_harmful)
        return columns, read_score_columns(options.scores, columns)
    if options.lower_is_harmful or any(names.values()):
        raise ConfigError("--score-column: missing; name the column with the scores")
    if any(path.suffix != ".parquet" for path in options.scores):
        raise ConfigError("--score-column: missing; only scores tables of `lockgate score` go without it")
    return None, read_scores(options.scores)


def check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.is_dir():
        raise ConfigError(f"--output: {output} is a folder; without GUARD it is a JSON file")
    if not output.parent.is_dir():
        raise ConfigError(f"--output: the folder {output.parent} does not exist; make it first")


def _print_evidence(evidence: "Evidence", sign: float) -> None:
    harmful = 0 if evidence.harmful is None else len(evidence.harmful)
    aside = f"; {harmful} labelled harmful are set aside" if harmful else ""
    typer.echo(f"{len(evidence.table)} exchanges are taken as benign traffic{aside}.")
    typer.echo(f"Overlap with training: {evidence.overlap}.")
    rows = evidence.budgets()
    found = [None if row.cut is None else evidence.recall(row.cut) for row in rows] if harmful else []
    print_budgets(rows, evidence.tolerance, sign, found)


def _print(
    evidence: "Evidence",
    calibration: "Calibration",
    found: "ScoreThreshold",
    parts: "Sequence[Slice]",
    recall: "Recall | None",
    output: Path | None,
) -> None:
    from lockgate.traffic import minimum_coverage

    print_slices(parts, calibration.budget, minimum_coverage(calibration))
    if calibration.length_deciles:
        typer.echo(f"Lengths by tenth: {', '.join(f'{edge:g}' for edge in calibration.length_deciles)}")
    typer.echo(
        f"budget {found.budget:.3%}: threshold {found.threshold:.6g} of {found.column} "
        f"({found.to_dict()['flag_if']}) on {found.n} distinct prompts, {found.flagged} of {found.k} allowed "
        f"flags, upper bound {found.bound:.4%} at {found.confidence:.0%} confidence "
        f"({calibration.duplicates_dropped} repeated prompts left out)"
    )
    if recall is not None:
        typer.echo(
            f"{recall.flagged} of {recall.n} harmful prompts are flagged, {recall.flagged / recall.n:.1%} "
            f"(95 % interval {recall.interval.lower:.1%} to {recall.interval.upper:.1%})"
        )
    typer.echo("The most harmful scores. Read these rows: two wrong ones can set a threshold.")
    print_highest(highest_rows(evidence.table, -1.0 if found.harmful == "lower" else 1.0))
    typer.echo("no file written: give --output" if output is None else f"threshold written to {output}")


def _print_document(
    evidence: "Evidence",
    calibration: "Calibration",
    found: "ScoreThreshold",
    parts: "Sequence[Slice]",
    output: Path | None,
    more: Mapping[str, object],
) -> None:
    from lockgate.traffic import minimum_coverage

    sign = -1.0 if found.harmful == "lower" else 1.0
    budgets = []
    for row in evidence.budgets():
        recall = None if row.cut is None else evidence.recall(row.cut)
        caught = None if recall is None else recall.to_dict()
        budgets.append({**budget_document(row, sign), "recall": caught})
    print_json(
        {
            "threshold": found.to_dict(),
            **more,
            "duplicates_dropped": calibration.duplicates_dropped,
            "budgets": budgets,
            "slices": [part.to_dict() for part in parts],
            "minimum_coverage": minimum_coverage(calibration),
            "without_answer": evidence.unanswered,
            "overlap_with_training": evidence.overlap,
            "highest": highest_rows(evidence.table, sign),
            "output": None if output is None else str(output),
        }
    )
