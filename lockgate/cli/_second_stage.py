"""`lockgate calibrate --classifier`: a second stage for a guard, and thresholds for both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lockgate.cli._common import print_table
from lockgate.cli._scoring import languages_of, state_folder, watch_files

if TYPE_CHECKING:
    from lockgate.calibration import CascadeCalibration, Exclusion
    from lockgate.classifiers import ExchangeClassifier
    from lockgate.evaluation import ScoresTable
    from lockgate.exchanges import PromptPrints
    from lockgate.guards import Guard, StagedScores

ClassifierOption = Annotated[
    Path | None,
    typer.Option(
        help="Exchange classifier to add as second stage (`lockgate train classifier`); it reads all files."
    ),
]
DevelopmentOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="With --classifier: exchanges of both labels, on other prompts; they choose how to mix."
    ),
]
EscalationOption = Annotated[
    float | None,
    typer.Option(help="With --classifier: largest share of the traffic that it is asked about (0.025)."),
]
WeightOption = Annotated[
    float | None,
    typer.Option(help="With --classifier: the probe's share of the mixed score, instead of --development."),
]
ESCALATION = 0.025


@dataclass(frozen=True, slots=True)
class SecondStage:
    """What the command line says of a second stage, checked as far as it can be without a model."""

    classifier: Path
    development: tuple[Path, ...]
    escalation: float
    weight: float | None


class StagedCalibration(NamedTuple):
    """A guard of two stages, and the traffic that its thresholds come from with the mixed scores."""

    guard: "Guard"
    found: "CascadeCalibration"
    table: "ScoresTable"
    unanswered: int


def read_second_stage(
    classifier: Path | None,
    development: Sequence[Path] | None,
    escalation: float | None,
    weight: float | None,
    *,
    scores: bool,
    output: Path | None,
    tolerance: float | None,
) -> SecondStage | None:
    """The second stage of a command line, or None. Raises ConfigError for options that do not go together."""
    from lockgate.errors import ConfigError

    if classifier is None:
        given = {"--development": development, "--escalation": escalation, "--weight": weight}
        for name, value in given.items():
            if value is not None and value != []:
                raise ConfigError(f"{name} belongs to a second stage; give its classifier with --classifier")
        return None
    if scores:
        raise ConfigError("--classifier needs --input: tables made before hold none of its verdicts")
    if output is None:
        raise ConfigError(
            "--classifier needs --output: what both stages have read is kept there until it is done"
        )
    if tolerance is not None:
        raise ConfigError(
            "--tolerance: two stages take theirs from the spread of the mixed scores; leave it out"
        )
    if bool(development) == (weight is not None):
        raise ConfigError(
            "give either --development (labelled exchanges that choose the mixing weight) or --weight"
        )
    if weight is not None and not 0 <= weight <= 1:
        raise ConfigError(
            f"--weight is {weight:g}; expected the probe's share of the mixed score, from 0 to 1"
        )
    share = ESCALATION if escalation is None else escalation
    if not 0 < share < 1:
        raise ConfigError(f"--escalation is {share:g}; expected a share of the traffic between 0 and 1")
    return SecondStage(classifier, tuple(development or ()), share, weight)


def check_development(stage: SecondStage, traffic: Sequence[Path], known: "PromptPrints | None") -> None:
    """Refuse what would be refused after the long scoring.

    Raises:
        CalibrationError: development exchanges without a label or an answer, of one label alone, on prompts
            of the traffic, or on prompts that the stages were trained on.
    """
    from lockgate.calibration import refuse_training_prompts
    from lockgate.errors import CalibrationError
    from lockgate.exchanges import prompt_group, prompt_text, read_exchanges

    rows = [row for path in stage.development for row in read_exchanges(path)]
    if not rows:
        return
    labels = [row.label for row in rows]
    if any(label is None for label in labels) or any(row.is_prompt_only for row in rows):
        raise CalibrationError("--development: expected a label and an answer in every exchange")
    if len({label is not None and label >= 0.5 for label in labels}) < 2:
        raise CalibrationError(
            "--development: all exchanges have one label; expected harmful and harmless ones"
        )
    groups = {prompt_group(row) for path in traffic for row in read_exchanges(path)}
    if shared := sum(prompt_group(row) in groups for row in rows):
        raise CalibrationError(
            f"--development: {shared} exchanges have a prompt of the traffic in --input; the weight would be "
            "chosen on the rows that carry the budget. Split them by prompt"
        )
    if known is not None:
        refuse_training_prompts(known.find([prompt_text(row) for row in rows]), [row.id for row in rows])


def calibrate_stages(
    guard: "Guard",
    stage: SecondStage,
    traffic: Sequence[Path],
    output: Path,
    *,
    budget: float,
    exclusions: Sequence["Exclusion"],
    known: "PromptPrints | None",
    workers: int,
) -> StagedCalibration:
    """Read everything with both stages and calibrate them.

    Raises:
        CalibrationError: as `calibrate_cascade` does.
    """
    import numpy as np

    from lockgate.calibration import WEIGHTS, calibrate_cascade
    from lockgate.classifiers import ExchangeClassifier

    classifier = ExchangeClassifier.load(stage.classifier, guard.backbone)
    state = state_folder(output)
    read = _read(guard, classifier, traffic, state, workers)
    tried = _read(guard, classifier, stage.development, state, workers) if stage.development else None
    benign = read.select(~np.isnan(read.table.floats("max_answer")))
    harmful = None if tried is None else tried.table.labels >= 0.5
    found = calibrate_cascade(
        benign.traces,
        benign.table.groups,
        budget=budget,
        escalation=stage.escalation,
        flag_on=guard.thresholds.flag_on,
        development_benign=() if tried is None or harmful is None else tried.select(~harmful).traces,
        development_harmful=() if tried is None or harmful is None else tried.select(harmful).traces,
        development_groups=() if tried is None else tried.table.groups,
        weights=WEIGHTS if stage.weight is None else (stage.weight,),
        training=known,
        ids=benign.table.ids,
        exclusions=exclusions,
        lengths=benign.table.lengths,
        sources=[str(source) for source in benign.table.texts("source")],
        languages=languages_of(benign.table),
    )
    ready = guard.with_cascade(classifier, found)
    if known is not None:
        ready = ready.with_training_prompts(known)
    table = benign.mixed_by(found.cascade, guard.thresholds.flag_on)
    return StagedCalibration(ready, found, table, len(read.table) - len(table))


def describe_stages(found: "CascadeCalibration") -> dict[str, object]:
    """The second stage's part of a calibration, for `--json`; null where there was nothing to count."""
    shares = {name: getattr(found, name) for name in ("lost", "caught", "caught_unscreened")}
    return {
        "escalation_budget": found.escalation_budget,
        "escalated": found.escalated,
        "escalate": found.cascade.escalate,
        "weight": found.cascade.weight,
        "weights": [
            {"weight": row.weight, "tpr": None if math.isnan(row.tpr) else row.tpr} for row in found.weights
        ],
        "selection_fpr": found.selection_fpr,
        **{name: None if math.isnan(value) else value for name, value in shares.items()},
    }


def print_stages(found: "CascadeCalibration") -> None:
    """How the stages were put together, in words."""
    cascade = found.cascade
    typer.echo(
        f"Stage 2 is asked above {cascade.escalate:.4f}, about {found.escalated:.2%} of the traffic; "
        f"the mixed score is {cascade.weight:.2f} probe and {1 - cascade.weight:.2f} classifier, each in "
        "units of its spread."
    )
    if math.isnan(found.caught):
        return
    lost = "" if math.isnan(found.lost) else f", of which the screen loses {found.lost:.1%}"
    typer.echo(
        f"Of the harmful development exchanges {found.caught:.1%} are flagged; without stage 1's screen it "
        f"would be {found.caught_unscreened:.1%}{lost}."
    )
    print_table(
        ("probe's share", f"caught at {found.selection_fpr:.0%} of the harmless ones"),
        [(f"{row.weight:.2f}", f"{row.tpr:.3f}") for row in found.weights],
    )


def _read(
    guard: "Guard", classifier: "ExchangeClassifier", sources: Sequence[Path], state: Path, workers: int
) -> "StagedScores":
    from lockgate.guards import score_stages

    with watch_files("both stages read") as report:
        return score_stages(guard, classifier, sources, state, workers=workers, report=report)
