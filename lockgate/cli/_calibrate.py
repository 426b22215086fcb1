"""`lockgate calibrate`: re-threshold a guard on one's own traffic."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._calibration_report import (
    budget_document,
    describe_traffic,
    holds_unjudged,
    list_budgets,
    print_budgets,
    print_traffic,
    report,
)
from lockgate.cli._common import GuardArgument, JsonFlag
from lockgate.cli._overlap import describe_overlap, known_prompts, refuse_known_groups
from lockgate.cli._scoring import (
    BackboneOption,
    WorkersOption,
    keep_readings,
    languages_of,
    load_guard,
    read_scores,
    watch_files,
)
from lockgate.cli._second_stage import (
    ClassifierOption,
    DevelopmentOption,
    EscalationOption,
    LostOption,
    SecondStage,
    StrideOption,
    WeightOption,
    calibrate_stages,
    check_development,
    describe_stages,
    load_classifier,
    print_stages,
    read_second_stage,
)
from lockgate.cli._traffic import benign_rows, check_places, check_traffic, read_exclusions

if TYPE_CHECKING:
    from lockgate.calibration import BudgetRow, Calibration, Exclusion
    from lockgate.exchanges import PromptPrints
    from lockgate.guards import Guard
    from lockgate.tables import ScoresTable

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
    classifier: ClassifierOption = None,
    development: DevelopmentOption = None,
    escalation: EscalationOption = None,
    lost: LostOption = None,
    weight: WeightOption = None,
    stride: StrideOption = None,
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

    With --classifier the guard gets a second stage; both stages then read all of the traffic once.
    Interrupted or refused, the same command goes on where it stopped: what was read lies in OUTPUT.state,
    without text, until it is done.
    """
    given = _one_kind(inputs, scores)
    options = {
        "--development": development, "--escalation": escalation, "--lost": lost, "--weight": weight,
        "--stride": stride,
    }  # fmt: skip
    refused = {"--scores": scores, "--tolerance": tolerance, "--save-scores": save_scores}
    stage = read_second_stage(classifier, options, refused, output)
    needed = bool(inputs) or output is not None or tolerance is None
    loaded = load_guard(guard, backbone) if needed else None
    known = known_prompts(loaded, training)
    overlap = describe_overlap(known, loaded is not None, by_text=bool(inputs))
    job = _Job(
        given, bool(inputs), budget, read_exclusions(exclude), known, overlap, save_scores, workers, json
    )
    if stage is not None and loaded is not None and output is not None:
        _two_stages(job, loaded, stage, output)
    else:
        _one_threshold(job, loaded, tolerance, output)


@dataclass(frozen=True, slots=True)
class _Job:
    """What a calibration is told, whatever it calibrates."""

    files: Sequence[Path]
    with_text: bool
    budget: float
    exclusions: Sequence["Exclusion"]
    known: "PromptPrints | None"
    overlap: str
    save_scores: Path | None
    workers: int
    json: bool

    @property
    def listed(self) -> set[str]:
        return {row.id for row in self.exclusions}

    def report(
        self,
        table: "ScoresTable",
        calibration: "Calibration",
        output: Path | None,
        budgets: Sequence["BudgetRow"],
        unanswered: int,
        **more: object,
    ) -> None:
        document = {
            "budgets": [budget_document(row) for row in budgets],
            "without_answer": unanswered,
            "overlap_with_training": self.overlap,
        }
        report(table, calibration, output=output, files=self.files, json=self.json, **more, **document)


def _one_threshold(job: _Job, guard: "Guard | None", tolerance: float | None, output: Path | None) -> None:
    """Another threshold for a guard as it is."""
    if guard is not None and tolerance is None:
        tolerance = guard.stages.tolerance
    check_places(output, job.save_scores)
    if guard is not None and job.with_text:
        check_traffic(job.files, job.known, job.listed, job.budget)
    if guard is None or not job.with_text:
        _find_threshold(job, guard, read_scores(job.files), tolerance or 0.0, output)
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        keep_readings(output or job.save_scores or Path(scratch) / "scores") as state,
    ):
        table = _score(guard, job.files, state, job.workers)
        if job.save_scores is not None:
            table.write(job.save_scores)
        _find_threshold(job, guard, table, tolerance or 0.0, output)


def _find_threshold(
    job: _Job, guard: "Guard | None", table: "ScoresTable", tolerance: float, output: Path | None
) -> None:
    table, unanswered = benign_rows(table)
    if job.known is not None:
        refuse_known_groups(table, job.known, job.listed)
    budgets = list_budgets(table, job.listed)
    if not job.json:
        print_traffic(table, unanswered, job.overlap)
        print_budgets(budgets, tolerance)
    calibration = _choose(table, job.budget, tolerance, job.exclusions)
    if guard is not None and output is not None:
        guard.with_calibration(calibration, claim=describe_traffic(calibration, job.overlap)).save(output)
    job.report(table, calibration, output, budgets, unanswered)


def _two_stages(job: _Job, guard: "Guard", stage: SecondStage, output: Path) -> None:
    """A second stage, and thresholds for both."""
    check_places(output, None)
    classifier, known, overlap = load_classifier(stage, guard, job.known, job.overlap)
    job = replace(job, known=known, overlap=overlap)
    check_traffic(job.files, known, job.listed, job.budget)
    check_development(stage, job.files, known)
    with keep_readings(output) as state:
        made = calibrate_stages(
            guard,
            classifier,
            stage,
            job.files,
            state,
            budget=job.budget,
            exclusions=job.exclusions,
            known=known,
            workers=job.workers,
        )
        calibration, budgets = made.found.calibration, list_budgets(made.table, job.listed)
        claim = [
            *describe_traffic(calibration, overlap),
            f"stage 2 is asked about {made.found.escalated:.2%} of this traffic",
        ]
        made.guard.with_calibration(calibration, claim=claim).save(output)
    if not job.json:
        print_traffic(made.table, made.unanswered, overlap)
        print_stages(made.found)
        print_budgets(budgets, calibration.tolerance)
    stages = describe_stages(made.found)
    job.report(made.table, calibration, output, budgets, made.unanswered, second_stage=stages)


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
        languages=languages_of(table),
        unjudged=holds_unjudged(table),
    )


def _one_kind(inputs: list[Path] | None, scores: list[Path] | None) -> list[Path]:
    from lockgate.errors import ConfigError

    if bool(inputs) == bool(scores):
        raise ConfigError("give either --input (exchanges to score) or --scores (tables made before)")
    return inputs or scores or []


def _score(guard: "Guard", inputs: Sequence[Path], state: Path, workers: int) -> "ScoresTable":
    from lockgate.traffic import score_once

    with watch_files("score") as report:
        return read_scores(
            [score_once(guard, path, state, workers=workers, report=report) for path in inputs]
        )
