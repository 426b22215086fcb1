"""`lockgate calibrate --classifier`: a second stage for a guard, and thresholds for both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lockgate.cli._common import print_table
from lockgate.cli._overlap import describe_overlap
from lockgate.cli._scoring import languages_of, watch_files

if TYPE_CHECKING:
    from lockgate.calibration import CascadeCalibration, Exclusion
    from lockgate.classifiers import ExchangeClassifier
    from lockgate.exchanges import PromptPrints
    from lockgate.guards import Guard
    from lockgate.tables import ScoresTable
    from lockgate.traffic import StagedScores

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
LostOption = Annotated[
    float | None,
    typer.Option(
        help="With --development: ask about as little as loses at most this share of the flags (0.02)."
    ),
]
WeightOption = Annotated[
    float | None,
    typer.Option(help="With --classifier: the probe's share of the mixed score, instead of --development."),
]
StrideOption = Annotated[
    int | None, typer.Option(help="With --classifier: answer tokens from one verdict to the next (8).")
]


_RANGES = {
    "--weight": (0.0, 1.0),
    "--escalation": (0.0001, 0.9999),
    "--lost": (0.0, 1.0),
    "--stride": (1, 1024),
}
_REFUSED = {
    "--scores": "tables made before hold none of its verdicts; give --input",
    "--tolerance": "two stages take theirs from the spread of the mixed scores",
    "--save-scores": "what is read here is no table of what serving does; score the new guard instead",
}


@dataclass(frozen=True, slots=True)
class SecondStage:
    """What the command line says of a second stage, checked as far as it can be without a model."""

    classifier: Path
    development: tuple[Path, ...]
    escalation: float
    lost: float
    weight: float | None
    stride: int


class StagedCalibration(NamedTuple):
    """A guard of two stages, and the traffic that its thresholds come from with the mixed scores."""

    guard: "Guard"
    found: "CascadeCalibration"
    table: "ScoresTable"
    unanswered: int


def read_second_stage(
    classifier: Path | None, options: Mapping[str, Any], refused: Mapping[str, Any], output: Path | None
) -> SecondStage | None:
    """The second stage of a command line, or None.

    Args:
        options: by name those that belong to a second stage; refused: those that do not go with one.

    Raises:
        ConfigError: options that do not go together, or a value out of range.
    """
    from lockgate.errors import ConfigError

    given = {name: value for name, value in options.items() if value is not None and value != []}
    if classifier is None:
        if given:
            raise ConfigError(
                f"{next(iter(given))} belongs to a second stage; give its classifier with --classifier"
            )
        return None
    for name, why in _REFUSED.items():
        if refused[name] is not None and refused[name] != []:
            raise ConfigError(f"{name} does not go with --classifier: {why}")
    if output is None:
        raise ConfigError(
            "--classifier needs --output: what both stages have read is kept there until it is done"
        )
    if ("--development" in given) == ("--weight" in given):
        raise ConfigError("give either --development (labelled exchanges that choose how to mix) or --weight")
    if "--lost" in given and "--development" not in given:
        raise ConfigError("--lost is counted on development exchanges; give them with --development")
    for name, (low, high) in _RANGES.items():
        if name in given and not low <= given[name] <= high:
            raise ConfigError(f"{name} is {given[name]:g}; expected a number from {low:g} to {high:g}")
    return SecondStage(
        classifier,
        tuple(given.get("--development", ())),
        given.get("--escalation", 0.025),
        given.get("--lost", 0.02),
        given.get("--weight"),
        given.get("--stride", 8),
    )


def load_classifier(
    stage: SecondStage, guard: "Guard", known: "PromptPrints | None", overlap: str
) -> tuple["ExchangeClassifier", "PromptPrints | None", str]:
    """The classifier, what both stages were trained on, and what the card says of it."""
    from lockgate.classifiers import ExchangeClassifier

    classifier = ExchangeClassifier.load(stage.classifier, guard.backbone)
    prints = classifier.training_prompts
    if prints is None:
        return classifier, known, f"{overlap}; the classifier does not say what it was trained on"
    if known is None:
        overlap = describe_overlap(prints, True, by_text=True)
        return classifier, prints, f"{overlap}; the first stage does not say what it was trained on"
    known |= prints
    return classifier, known, describe_overlap(known, True, by_text=True)


def check_development(stage: SecondStage, traffic: Sequence[Path], known: "PromptPrints | None") -> None:
    """Refuse what would be refused after the long scoring.

    Raises:
        CalibrationError: development exchanges without a label or an answer, of one label alone, on prompts
            of the traffic, or on prompts that the stages were trained on.
    """
    from lockgate.errors import CalibrationError
    from lockgate.exchanges import prompt_group, prompt_text, read_exchanges

    if not stage.development:
        return
    rows = [row for path in stage.development for row in read_exchanges(path)]
    if not rows:
        raise CalibrationError("--development: no exchange in it; expected harmful and harmless ones")
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
        met = [
            row.id
            for row, match in zip(rows, known.find([prompt_text(row) for row in rows]), strict=True)
            if match is not None
        ]
        if met:
            raise CalibrationError(
                f"--development: {len(met)} of {len(rows)} exchanges have prompts, equal or near, that the "
                f"stages were trained on, the first with id {met[0]}: the weight would go to what fits them "
                "best. Leave them out"
            )


def calibrate_stages(
    guard: "Guard",
    classifier: "ExchangeClassifier",
    stage: SecondStage,
    traffic: Sequence[Path],
    state: Path,
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

    from lockgate.calibration import calibrate_cascade, calibrate_sparingly

    read = _read(guard, classifier, stage, traffic, state, workers)
    tried = _read(guard, classifier, stage, stage.development, state, workers) if stage.development else None
    benign = read.select(~np.isnan(read.table.floats("max_answer")))
    settings: dict[str, Any] = {
        "budget": budget,
        "escalation": stage.escalation,
        "flag_on": guard.thresholds.flag_on,
        "stride": stage.stride,
        "training": known,
        "ids": benign.table.ids,
        "exclusions": exclusions,
        "lengths": benign.table.lengths,
        "sources": [str(source) for source in benign.table.texts("source")],
        "languages": languages_of(benign.table),
    }
    if tried is None:
        found = calibrate_cascade(
            benign.traces, benign.table.groups, weights=(stage.weight or 0.0,), **settings
        )
    else:
        harmful = tried.table.labels >= 0.5
        found = calibrate_sparingly(
            benign.traces,
            benign.table.groups,
            lost=stage.lost,
            development_benign=tried.select(~harmful).traces,
            development_harmful=tried.select(harmful).traces,
            development_groups=tried.table.groups,
            **settings,
        )
    ready = guard.with_cascade(classifier, found)
    if known is not None:
        ready = ready.with_training_prompts(known)
    mixed = benign.mixed_by(found.cascade, guard.thresholds.flag_on)
    table = benign.table.with_column("mixed_max", mixed)
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
    guard: "Guard",
    classifier: "ExchangeClassifier",
    stage: SecondStage,
    sources: Sequence[Path],
    state: Path,
    workers: int,
) -> "StagedScores":
    from lockgate.traffic import score_stages

    with watch_files("both stages read") as report:
        return score_stages(
            guard, classifier, sources, state, stride=stage.stride, workers=workers, report=report
        )
