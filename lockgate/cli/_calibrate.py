"""`lockgate calibrate`: re-threshold a guard on one's own traffic."""

import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._common import GuardArgument, JsonFlag, print_json, print_table
from lockgate.cli._overlap import describe_overlap, known_prompts, refuse_known_groups
from lockgate.cli._scoring import BackboneOption, WorkersOption, load_guard, read_scores, score_with_progress

if TYPE_CHECKING:
    from lockgate.calibration import BudgetRow, Calibration, Exclusion
    from lockgate.evaluation import ScoresTable
    from lockgate.exchanges import PromptPrints
    from lockgate.guards import Guard

_HIGHEST = 30

InputOption = Annotated[
    list[Path] | None, typer.Option("--input", help="Exchanges to score: .jsonl[.gz|.zst] or .parquet.")
]
ScoresOption = Annotated[
    list[Path] | None, typer.Option("--scores", help="Scores tables made before; nothing is scored then.")
]
BudgetOption = Annotated[float, typer.Option(help="Largest share of benign exchanges to flag.")]
OutputOption = Annotated[Path | None, typer.Option(help="Folder for the re-thresholded guard.")]
ExcludeOption = Annotated[
    Path | None, typer.Option(help='JSON lines {"id", "reason"}: rows left out of calibration.')
]
TrainingOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--training", help="Exchanges that the guard was trained on, if it does not know them by itself."
    ),
]
SaveScoresOption = Annotated[Path | None, typer.Option(help="Keep the scores table here (Parquet).")]
ToleranceOption = Annotated[float | None, typer.Option(help="Logit tolerance; by default the guard's own.")]


def register(app: typer.Typer) -> None:
    app.command()(calibrate)


def calibrate(
    guard: GuardArgument,
    inputs: InputOption = None,
    scores: ScoresOption = None,
    budget: BudgetOption = 0.0005,
    output: OutputOption = None,
    exclude: ExcludeOption = None,
    training: TrainingOption = None,
    save_scores: SaveScoresOption = None,
    tolerance: ToleranceOption = None,
    backbone: BackboneOption = None,
    workers: WorkersOption = 1,
    json: JsonFlag = False,
) -> None:
    """Set a guard's threshold on your own traffic and print budget against threshold.

    The traffic counts as benign: what you give is what the guard will let pass. Rows labelled harmful are
    refused, as are prompts that the guard was trained on, equal or near. Rows without a scored answer are
    left out, and one exchange a prompt counts.
    """
    from lockgate.evaluation import collect_provenance

    given = _one_kind(inputs, scores)
    needed = bool(inputs) or output is not None or tolerance is None
    loaded = load_guard(guard, backbone) if needed else None
    if loaded is not None and tolerance is None:
        tolerance = (loaded.cascade or loaded.thresholds).tolerance
    exclusions, known = _exclusions(exclude), known_prompts(loaded, training)
    listed = {row.id for row in exclusions}
    for path in inputs or []:
        _check_traffic(path, known, listed)
    table = _score(loaded, given, save_scores, workers) if loaded and inputs else read_scores(given)
    table, unanswered = _benign(table)
    if known is not None:
        refuse_known_groups(table, known, listed)
    overlap = describe_overlap(known, loaded is not None, by_text=bool(inputs))
    budgets = _budgets(table, listed)
    if not json:
        typer.echo(
            f"{len(table)} exchanges are taken as benign traffic; {unanswered} without an answer left out."
        )
        typer.echo(f"Overlap with training: {overlap}.")
        _print_budgets(budgets, tolerance or 0.0)
    calibration = _choose(table, budget, tolerance or 0.0, exclusions)
    highest = _highest(table)
    if loaded is not None and output is not None:
        loaded.with_calibration(calibration, claim=_claim(calibration, overlap)).save(output)
    if not json:
        _print_calibration(calibration, highest, output)
        return
    print_json(
        {
            "calibration": calibration.to_dict(),
            "budgets": [row._asdict() for row in budgets],
            "without_answer": unanswered,
            "overlap_with_training": overlap,
            "highest": highest,
            "output": None if output is None else str(output),
            "provenance": collect_provenance(["lockgate", *sys.argv[1:]], {}, given),
        }
    )


def _budgets(table: "ScoresTable", listed: Collection[str]) -> list["BudgetRow"]:
    from lockgate.calibration import budget_table

    counted = table.select([identity not in listed for identity in table.ids])
    scores = counted.floats("mixed_max")
    return budget_table(scores, groups=counted.groups, unjudged=_has_two_stages(counted))


def _choose(
    table: "ScoresTable", budget: float, tolerance: float, exclusions: Sequence["Exclusion"]
) -> "Calibration":
    from lockgate.calibration import choose_threshold

    return choose_threshold(
        table.floats("mixed_max"),
        table.groups,
        budget,
        tolerance,
        ids=table.ids,
        exclusions=exclusions,
        lengths=table.lengths,
        sources=[str(source) for source in table.texts("source")],
        languages=_languages(table),
        unjudged=_has_two_stages(table),
    )


def _has_two_stages(table: "ScoresTable") -> bool:
    """Whether rows may be without a mixed score, since a first stage let them pass."""
    return bool((table.floats("stage") == 2).any())


def _one_kind(inputs: list[Path] | None, scores: list[Path] | None) -> list[Path]:
    from lockgate.errors import ConfigError

    if bool(inputs) == bool(scores):
        raise ConfigError("give either --input (exchanges to score) or --scores (tables made before)")
    return inputs or scores or []


def _score(guard: "Guard", inputs: Sequence[Path], keep: Path | None, workers: int) -> "ScoresTable":
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder) / f"{number}.parquet" for number in range(len(inputs))]
        for path, target in zip(inputs, made, strict=True):
            score_with_progress(guard, path, target, workers)
        table = read_scores(made)
    if keep is not None:
        table.write(keep)
    return table


def _check_traffic(path: Path, known: "PromptPrints | None", listed: Collection[str]) -> None:
    # Scoring takes long: what would be refused after it is refused before it.
    from lockgate.calibration import refuse_training_prompts
    from lockgate.errors import CalibrationError
    from lockgate.exchanges import prompt_text, read_exchanges

    ids, prompts = [], []
    for number, exchange in enumerate(read_exchanges(path), 1):
        if exchange.label is not None and exchange.label >= 0.5:
            raise CalibrationError(
                f"{path}: exchange {number} is labelled harmful; calibration takes benign traffic only, "
                "leave such rows out"
            )
        if known is not None and not exchange.is_prompt_only:
            ids.append(exchange.id)
            prompts.append(prompt_text(exchange))
    if known is not None:
        refuse_training_prompts(known.find(prompts), ids, excluded=listed)


def _benign(table: "ScoresTable") -> tuple["ScoresTable", int]:
    import numpy as np

    from lockgate.errors import CalibrationError

    harmful = np.flatnonzero(table.labels >= 0.5)
    if len(harmful):
        raise CalibrationError(
            f"{len(harmful)} rows are labelled harmful, the first with id {table.ids[harmful[0]]}; "
            "calibration takes benign traffic only, leave such rows out"
        )
    if not table.has_groups:
        raise CalibrationError(
            "the scores table has no prompt_group column, so distinct prompts cannot be counted; score again"
        )
    answered = ~np.isnan(table.floats("max_answer"))
    return table.select(answered), int((~answered).sum())


def _languages(table: "ScoresTable") -> list[str] | None:
    return [value or "unknown" for value in table.texts("language")] if table.has("language") else None


def _claim(calibration: "Calibration", overlap: str) -> list[str]:
    """What the threshold has seen, for the model card."""
    shares = ", ".join(f"{name or 'unnamed'} ({n})" for name, n in calibration.sources.items())
    shortest, median, longest = (calibration.length_deciles[i] for i in (0, 5, 10))
    languages = ", ".join(f"{name} ({n})" for name, n in calibration.languages.items())
    return [
        f"traffic: {calibration.n} distinct prompts of the user's own, taken as benign; by source: {shares}",
        f"lengths: {shortest:.0f} to {longest:.0f} tokens, half of them over {median:.0f}",
        f"languages: {languages or 'not recorded'}",
        f"overlap with training: {overlap}",
    ]


def _exclusions(path: Path | None) -> list["Exclusion"]:
    import json

    from lockgate.calibration import Exclusion
    from lockgate.errors import CalibrationError

    if path is None:
        return []
    listed = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: cannot be read ({type(error).__name__})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            listed.append(Exclusion(str(row["id"]), str(row["reason"])))
        except (ValueError, KeyError, TypeError):
            raise CalibrationError(f'{path}:{number}: expected {{"id": ..., "reason": ...}}') from None
    return listed


def _highest(table: "ScoresTable") -> list[dict[str, object]]:
    import numpy as np

    scores = table.floats("mixed_max")
    rows = np.argsort(-scores, kind="stable")[:_HIGHEST]
    rows = rows[np.isfinite(scores[rows])]
    part = table.select(rows)
    columns = zip(part.ids, part.texts("source"), scores[rows].tolist(), strict=True)
    return [{"id": identity, "source": source, "score": score} for identity, source, score in columns]


def _print_budgets(rows: Sequence["BudgetRow"], tolerance: float) -> None:
    print_table(
        ("budget", "flags allowed", "upper bound", "threshold", "prompts needed"),
        [
            (
                f"{row.budget:.2%}",
                "-" if row.k is None else row.k,
                "-" if row.bound is None else f"{row.bound:.4%}",
                "-" if row.cut is None else f"{row.cut + tolerance:.4f}",
                row.required_n,
            )
            for row in rows
        ],
    )


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
            f"{len(calibration.excluded)} rows excluded; without that the threshold would be "
            f"{calibration.threshold_without_exclusions:.4f}"
        )
    typer.echo("The highest scores: read these rows, since two bad ones can set a threshold.")
    print_table(
        ("id", "source", "score"), [(row["id"], row["source"], f"{row['score']:.4f}") for row in highest]
    )
    typer.echo("no guard written: give --output" if output is None else f"guard written to {output}")
