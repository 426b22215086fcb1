"""`lockgate calibrate`: set a guard's threshold on your own traffic."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockgate.cli._calibrate_judge import JudgeOptions, calibrate_judge
from lockgate.cli._calibrate_scores import (
    GroupColumnOption,
    IdColumnOption,
    LabelColumnOption,
    LabelledOption,
    LanguageColumnOption,
    LengthColumnOption,
    LowerOption,
    PromptColumnOption,
    ScoreColumnOption,
    ScoresOptions,
    SourceColumnOption,
    TurnsColumnOption,
    calibrate_scores,
    refuse_columns,
)
from lockgate.cli._calibration_report import budget_document, print_budgets, print_traffic, report
from lockgate.cli._common import DeviceOption, DtypeOption, JsonFlag, names_of_options
from lockgate.cli._scoring import BackboneOption, WorkersOption, load_guard, read_scores, watch_files
from lockgate.cli._second_stage import (
    ClassifierOption,
    DevelopmentOption,
    DriftOption,
    EscalationOption,
    JudgeAloneOption,
    JudgeKeyOption,
    JudgeModelOption,
    JudgeOption,
    JudgeRuleOption,
    LostOption,
    StrideOption,
    TextOption,
    WeightOption,
    describe_stages,
    name_judge,
    print_stages,
    read_second_stage,
)
from lockgate.cli._transfer import TransferOptions
from lockgate.cli._transfer import transfer as run_transfer
from lockgate.errors import ConfigError

if TYPE_CHECKING:
    from lockgate.calibration import BudgetRow
    from lockgate.guards import Guard
    from lockgate.traffic import CalibrationPlan, Evidence, SecondStagePlan

OptionalGuard = Annotated[
    str | None,
    typer.Argument(
        metavar="[GUARD]",
        help="A guard's folder, or `embedded`. Leave it out to calibrate the scores of another program.",
    ),
]
InputOption = Annotated[
    list[Path] | None,
    typer.Option("--input", help="Exchanges to score: .jsonl[.gz|.zst] or .parquet. May be repeated."),
]
ScoresOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--scores",
        help="Scores tables to use instead of --input. Nothing is scored. Without GUARD: any .parquet or "
        ".csv file with a row for each exchange. May be repeated.",
    ),
]
BudgetOption = Annotated[
    float, typer.Option(help="Refusal budget: the largest share of benign exchanges that may be flagged.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the calibrated guard. Without it no guard is written. Without GUARD: a JSON file "
        "for the threshold."
    ),
]
ExcludeOption = Annotated[
    Path | None, typer.Option(help='Rows to leave out of calibration: JSON lines {"id", "reason"}.')
]
TrainingOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--training",
        help="Exchanges that the guard was trained on, if its bundle has no record of them. May be repeated.",
    ),
]
SaveScoresOption = Annotated[
    Path | None, typer.Option(help="Also write the scores table to this file (.parquet).")
]
TransferOption = Annotated[
    bool, typer.Option("--transfer", help="Measure what another precision or device does to the scores.")
]
RecalibrateOption = Annotated[
    bool, typer.Option("--recalibrate", help="With --transfer: set the threshold anew on this traffic.")
]
ToleranceOption = Annotated[float | None, typer.Option(help="Tolerance of logits. Default: the guard's.")]

_OPTIONS = {
    "traffic": "--input",
    "exclusions": "--exclude",
    "development": "--development",
    "escalation": "--escalation",
    "lost": "--lost",
    "weight": "--weight",
    "stride": "--stride",
    "drift": "--drift",
    "judge": "--judge",
    "judge_alone": "--judge-alone",
}


def register(app: typer.Typer) -> None:
    app.command()(calibrate)


def calibrate(
    guard: OptionalGuard = None,
    inputs: InputOption = None,
    scores: ScoresOption = None,
    budget: BudgetOption = 0.0005,
    output: OutputOption = None,
    classifier: ClassifierOption = None,
    text: TextOption = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_key_env: JudgeKeyOption = None,
    judge_rule: JudgeRuleOption = None,
    judge_alone: JudgeAloneOption = False,
    development: DevelopmentOption = None,
    escalation: EscalationOption = None,
    lost: LostOption = None,
    weight: WeightOption = None,
    stride: StrideOption = None,
    drift: DriftOption = None,
    exclude: ExcludeOption = None,
    training: TrainingOption = None,
    save_scores: SaveScoresOption = None,
    tolerance: ToleranceOption = None,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    transfer: TransferOption = False,
    recalibrate: RecalibrateOption = False,
    workers: WorkersOption = 1,
    score_column: ScoreColumnOption = None,
    prompt_column: PromptColumnOption = None,
    group_column: GroupColumnOption = None,
    id_column: IdColumnOption = None,
    label_column: LabelColumnOption = None,
    source_column: SourceColumnOption = None,
    language_column: LanguageColumnOption = None,
    length_column: LengthColumnOption = None,
    turns_column: TurnsColumnOption = None,
    lower_is_harmful: LowerOption = False,
    labelled: LabelledOption = False,
    json: JsonFlag = False,
) -> None:
    """Set a guard's threshold on your own traffic, and print a table of budgets and thresholds.

    All of the traffic counts as benign. The command refuses rows that are labelled harmful, and prompts that
    the guard was trained on, or that are nearly equal to such prompts. It leaves out rows without a scored
    answer. Each distinct prompt counts once.

    With --transfer the command scores the same exchanges twice: as when the threshold was set, and with
    --device and --dtype. It prints what changes. With --output it writes the guard for the new precision. The
    threshold stays if no decision changes; --recalibrate sets it anew.

    With --classifier or --text the guard gets a second stage. Both stages then read all of the traffic. With
    --judge the second stage is a judge of text, which reads only what the probe escalates.

    Without GUARD the command calibrates a judge by itself (--judge, --input), or scores that any other
    program made (--scores, --score-column and --prompt-column or --group-column). It then writes the
    threshold and its claim to a small JSON file.

    After an interruption or an error, run the same command again to continue. Until the calibration is
    complete, its scores are kept in OUTPUT.state, without text.
    """
    columns = {
        "score": score_column, "prompt": prompt_column, "group": group_column, "id": id_column,
        "label": label_column, "source": source_column, "language": language_column,
        "length": length_column, "turns": turns_column,
    }  # fmt: skip
    named = name_judge(judge, judge_model, judge_key_env, judge_rule)
    if guard is None:
        needs_guard: dict[str, object] = {
            "--classifier": classifier, "--text": text,
            "--escalation": escalation, "--lost": lost, "--weight": weight, "--stride": stride,
            "--drift": drift, "--transfer": transfer, "--backbone": backbone, "--recalibrate": recalibrate,
            "--judge-alone": judge_alone,
        }  # fmt: skip
        if named is not None:
            refuse_columns(columns, lower_is_harmful, labelled)
            calibrate_judge(
                JudgeOptions(
                    named, inputs or (), development or (), scores or (), output, save_scores, budget,
                    exclude, training or (), tolerance, json,
                ),
                needs_guard,
            )  # fmt: skip
            return
        needs_guard |= {"--input": inputs, "--development": development, "--save-scores": save_scores}
        calibrate_scores(
            ScoresOptions(
                scores or (), output, budget, exclude, training or (), tolerance, columns, lower_is_harmful,
                labelled, json,
            ),
            needs_guard,
        )  # fmt: skip
        return
    refuse_columns(columns, lower_is_harmful, labelled)
    if transfer or recalibrate:
        if not transfer or classifier or judge or tolerance is not None or save_scores:
            raise ConfigError(
                "--recalibrate goes with --transfer; --classifier, --judge, --tolerance and --save-scores do "
                "not"
            )
        plan = _plan(budget, exclude, training, None, None, workers, output)
        _check_places(output, None)
        place = (guard, backbone, device, dtype)
        run_transfer(TransferOptions(*place, inputs or (), scores or (), output, recalibrate, json), plan)
        return
    files = _one_kind(inputs, scores)
    options = {
        "--development": development, "--escalation": escalation, "--lost": lost, "--weight": weight,
        "--stride": stride, "--drift": drift, "--judge-alone": judge_alone,
    }  # fmt: skip
    refused = {"--scores": scores, "--tolerance": tolerance, "--save-scores": save_scores}
    with names_of_options(_OPTIONS):
        stage = read_second_stage(classifier, text, named, options, refused, output)
        needed = bool(inputs) or output is not None or tolerance is None
        loaded = load_guard(guard, backbone, device, dtype) if needed else None
        plan = _plan(budget, exclude, training, tolerance, stage, workers, output or save_scores)
        _check_places(output, save_scores)
        with _gather(loaded, files, bool(inputs), plan) as evidence:
            if inputs and save_scores is not None:
                evidence.scored.write(save_scores)
            budgets = evidence.budgets()
            if not json:
                _print_evidence(evidence, budgets)
            calibration = evidence.choose()
            if output is not None:
                evidence.apply(calibration).save(output)
    stages = {} if evidence.stages is None else {"second_stage": describe_stages(evidence.stages, evidence)}
    document: dict[str, object] = {
        **stages,
        "budgets": [budget_document(row) for row in budgets],
        "without_answer": evidence.unanswered,
        "overlap_with_training": evidence.overlap,
    }
    report(evidence.table, calibration, output=output, files=files, json=json, **document)


def _plan(
    budget: float,
    exclude: Path | None,
    training: Sequence[Path] | None,
    tolerance: float | None,
    stage: "SecondStagePlan | None",
    workers: int,
    written: Path | None,
) -> "CalibrationPlan":
    """Make the plan from the options.

    Args:
        written: file or folder that the command writes. Unfinished work is kept beside it.
    """
    from lockgate.traffic import CalibrationPlan, read_exclusions

    return CalibrationPlan(
        budget=budget,
        exclusions=() if exclude is None else read_exclusions(exclude),
        training=tuple(training or ()),
        tolerance=tolerance,
        second_stage=stage,
        workers=workers,
        scratch=None if written is None else written.with_name(written.name + ".state"),
    )


@contextmanager
def _gather(
    guard: "Guard | None", files: Sequence[Path], with_text: bool, plan: "CalibrationPlan"
) -> Iterator["Evidence"]:
    """Yield the evidence. Progress goes to standard error while exchanges are scored."""
    from lockgate.traffic import gather_evidence

    with ExitStack() as stack:
        if with_text:
            with watch_files(_reading(plan)) as watch:
                evidence = stack.enter_context(gather_evidence(guard, files, plan, report=watch))
        else:
            evidence = stack.enter_context(gather_evidence(guard, read_scores(files), plan))
        yield evidence


def _reading(plan: "CalibrationPlan") -> str:
    """Say what the progress is of."""
    if plan.second_stage is None:
        return "score"
    return "both stages read" if plan.second_stage.judge is None else "the probe reads"


def _print_evidence(evidence: "Evidence", budgets: Sequence["BudgetRow"]) -> None:
    print_traffic(evidence.table, evidence.unanswered, evidence.overlap)
    if evidence.stages is not None:
        print_stages(evidence.stages, evidence)
    print_budgets(budgets, evidence.tolerance)


def _one_kind(inputs: list[Path] | None, scores: list[Path] | None) -> list[Path]:
    if bool(inputs) == bool(scores):
        raise ConfigError("give either --input (exchanges to score) or --scores (existing scores tables)")
    return inputs or scores or []


def _check_places(output: Path | None, scores: Path | None) -> None:
    """Check that the outputs can be written. Raises GuardError or ConfigError."""
    from lockgate.guards import check_target

    if output is not None:
        check_target(output)
    if scores is not None and not scores.parent.is_dir():
        raise ConfigError(f"--save-scores: the folder {scores.parent} does not exist; make it first")
