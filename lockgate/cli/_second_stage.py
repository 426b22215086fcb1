"""`lockgate calibrate --classifier`: options and output for a guard of two stages."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import print_table

if TYPE_CHECKING:
    from lockgate.calibration import CascadeCalibration
    from lockgate.traffic import SecondStagePlan

ClassifierOption = Annotated[
    Path | None,
    typer.Option(help="Exchange classifier to add as the second stage, made by `lockgate train classifier`."),
]
DevelopmentOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="With --classifier: labelled exchanges. The command uses them to choose how the two scores are "
        "mixed. Their prompts must not be in the traffic. May be repeated."
    ),
]
EscalationOption = Annotated[
    float | None,
    typer.Option(
        help="With --classifier: largest share of the traffic that the classifier judges. Default: 0.025."
    ),
]
LostOption = Annotated[
    float | None,
    typer.Option(
        help="With --development: largest share of flags that may be lost so that the classifier is asked "
        "less often. Default: 0.02."
    ),
]
WeightOption = Annotated[
    float | None,
    typer.Option(help="With --classifier: the probe's weight in the mixed score. Replaces --development."),
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        help="With --classifier: number of answer tokens in a block. Each block gets one verdict. Default: 8."
    ),
]


_REFUSED = {
    "--scores": "scores tables hold no verdicts of the classifier; give --input",
    "--tolerance": "two stages take their tolerance from the spread of the mixed scores",
    "--save-scores": "these scores are not those of the new guard; run `lockgate score` with it instead",
}


def read_second_stage(
    classifier: Path | None, options: Mapping[str, Any], refused: Mapping[str, Any], output: Path | None
) -> "SecondStagePlan | None":
    """Return the second stage that the options describe, or None.

    Args:
        options: options of a second stage, by name.
        refused: options that a second stage excludes, by name.

    Raises:
        ConfigError: options exclude each other, or a value is out of range.
    """
    from lockgate.errors import ConfigError
    from lockgate.traffic import SecondStagePlan

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
        raise ConfigError("--classifier needs --output: unfinished work of both stages is kept beside it")
    if ("--development" in given) == ("--weight" in given):
        raise ConfigError("give either --development (labelled exchanges that choose the weight) or --weight")
    if "--lost" in given and "--development" not in given:
        raise ConfigError("--lost needs development exchanges; give them with --development")
    fields = {name.removeprefix("--"): value for name, value in given.items()}
    if "development" in fields:
        fields["development"] = tuple(fields["development"])
    return SecondStagePlan(classifier, **fields)


def describe_stages(found: "CascadeCalibration") -> dict[str, object]:
    """Return the second stage's part of a calibration for `--json`. A share of nothing is null."""
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
    """Print how the two stages decide together."""
    cascade = found.cascade
    typer.echo(
        f"Stage 2 is asked above {cascade.escalate:.4f}: about {found.escalated:.2%} of the traffic. "
        f"The mixed score is {cascade.weight:.2f} probe and {1 - cascade.weight:.2f} classifier, each in "
        "units of its spread."
    )
    if math.isnan(found.caught):
        return
    lost = "" if math.isnan(found.lost) else f". The screen loses {found.lost:.1%} of these"
    typer.echo(
        f"The guard flags {found.caught:.1%} of the harmful development exchanges. Without stage 1's screen "
        f"it would flag {found.caught_unscreened:.1%}{lost}."
    )
    print_table(
        ("probe's share", f"caught at {found.selection_fpr:.0%} of the harmless ones"),
        [(f"{row.weight:.2f}", f"{row.tpr:.3f}") for row in found.weights],
    )
