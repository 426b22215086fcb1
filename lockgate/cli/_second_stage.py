"""`lockgate calibrate --classifier`: a second stage for a guard, and thresholds for both."""

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


_REFUSED = {
    "--scores": "tables made before hold none of its verdicts; give --input",
    "--tolerance": "two stages take theirs from the spread of the mixed scores",
    "--save-scores": "what is read here is no table of what serving does; score the new guard instead",
}


def read_second_stage(
    classifier: Path | None, options: Mapping[str, Any], refused: Mapping[str, Any], output: Path | None
) -> "SecondStagePlan | None":
    """The second stage of a command line, or None.

    Args:
        options: by name those that belong to a second stage; refused: those that do not go with one.

    Raises:
        ConfigError: options that do not go together, or a value out of range.
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
        raise ConfigError(
            "--classifier needs --output: what both stages have read is kept there until it is done"
        )
    if ("--development" in given) == ("--weight" in given):
        raise ConfigError("give either --development (labelled exchanges that choose how to mix) or --weight")
    if "--lost" in given and "--development" not in given:
        raise ConfigError("--lost is counted on development exchanges; give them with --development")
    fields = {name.removeprefix("--"): value for name, value in given.items()}
    if "development" in fields:
        fields["development"] = tuple(fields["development"])
    return SecondStagePlan(classifier, **fields)


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
