"""`lockgate calibrate --classifier` and `--text`: options and output for a guard of two stages."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import print_table
from lockgate.cli._judge_report import print_judge

if TYPE_CHECKING:
    from lockgate.calibration import CascadeCalibration
    from lockgate.judges import JudgeAddress
    from lockgate.traffic import Evidence, SecondStagePlan

ClassifierOption = Annotated[
    Path | None,
    typer.Option(help="Exchange classifier to add as the second stage, made by `lockgate train classifier`."),
]
TextOption = Annotated[
    Path | None,
    typer.Option(
        help="Text baseline to add to the second stage, made by `lockgate train text`. It judges beside the "
        "classifier, or alone."
    ),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        help="Judge of text as the second stage, asked alone: a judge's file (YAML), the folder of a "
        "sequence classifier or guard model, or the address of an endpoint (with --judge-model). Without "
        "GUARD: the judge to calibrate by itself."
    ),
]
JudgeModelOption = Annotated[
    str | None,
    typer.Option(
        "--judge-model",
        help="With an address as --judge: the model's name at the endpoint. Guard models such as Llama Guard "
        "are known by it; another model is asked to answer Yes or No.",
    ),
]
JudgeKeyOption = Annotated[
    str | None,
    typer.Option(
        "--judge-key-env",
        metavar="VARIABLE",
        help="With an address as --judge: the environment variable that holds the endpoint's key.",
    ),
]
JudgeRuleOption = Annotated[
    str | None,
    typer.Option(
        "--judge-rule",
        help="With an address as --judge: the rule that the judge is asked about, in words. Default: the "
        "guard's policy; without GUARD, no harmful or unsafe content.",
    ),
]
JudgeAloneOption = Annotated[
    bool,
    typer.Option(
        "--judge-alone",
        help="With --judge: the judge also reads all of the traffic by itself, and the report compares.",
    ),
]
DevelopmentOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="With a second stage: labelled exchanges. The command uses them to choose how the "
        "scores are mixed. Their prompts must not be in the traffic. With --judge and without GUARD, their "
        "harmful ones show what the threshold finds. May be repeated."
    ),
]
EscalationOption = Annotated[
    float | None,
    typer.Option(help="With a second stage: largest share of the traffic that it judges. Default: 0.025."),
]
LostOption = Annotated[
    float | None,
    typer.Option(
        help="With --development: largest share of flags that may be lost so that the second stage is asked "
        "less often. Default: 0.02."
    ),
]
WeightOption = Annotated[
    float | None,
    typer.Option(
        help="With a second stage: the probe's weight in the mixed score. Replaces --development, if "
        "only one of them is given."
    ),
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        help="With a second stage: number of answer tokens in a block. Each block gets one verdict. "
        "Default: 8, or 32 with --judge, which reads the whole conversation again for each."
    ),
]
DriftOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOGITS|auto",
        help="With a second stage: logits by which the escalation threshold rises each time the "
        "answer doubles; `auto` makes short and long answers reach the second stage about equally often. "
        "Default: 0.",
    ),
]


_JUDGE_STRIDE = 32
_REFUSED = {
    "--scores": "scores tables hold no verdicts of the second stage; give --input",
    "--tolerance": "two stages take their tolerance from the spread of the mixed scores",
    "--save-scores": "these scores are not those of the new guard; run `lockgate score` with it instead",
}


def read_second_stage(
    classifier: Path | None,
    text: Path | None,
    judge: "JudgeAddress | str | None",
    options: Mapping[str, Any],
    refused: Mapping[str, Any],
    output: Path | None,
) -> "SecondStagePlan | None":
    """Return the second stage that the options describe, or None.

    Args:
        classifier, text: folders of the judges.
        judge: a judge of text, by its file, folder or address.
        options: options of a second stage, by name.
        refused: options that a second stage excludes, by name.

    Raises:
        ConfigError: options exclude each other, or a value is out of range.
    """
    from lockgate.errors import ConfigError
    from lockgate.traffic import SecondStagePlan

    given = {name: value for name, value in options.items() if _is_given(value)}
    named = "--classifier" if classifier is not None else "--text" if text is not None else "--judge"
    if classifier is None and text is None and judge is None:
        if given:
            raise ConfigError(
                f"{next(iter(given))} belongs to a second stage; give its classifier with "
                "--classifier, or a text baseline with --text, or a judge with --judge"
            )
        return None
    for name, why in _REFUSED.items():
        if refused[name] is not None and refused[name] != []:
            raise ConfigError(f"{name} does not go with {named}: {why}")
    if output is None:
        raise ConfigError(f"{named} needs --output: unfinished work of both stages is kept beside it")
    if ("--development" in given) == ("--weight" in given):
        raise ConfigError("give either --development (labelled exchanges that choose the weight) or --weight")
    if "--lost" in given and "--development" not in given:
        raise ConfigError("--lost needs development exchanges; give them with --development")
    if "--lost" in given and judge is not None:
        raise ConfigError("--lost does not go with --judge: it needs verdicts on all blocks")
    fields = {name.removeprefix("--").replace("-", "_"): value for name, value in given.items()}
    if judge is not None:
        fields.setdefault("stride", _JUDGE_STRIDE)
    if "drift" in fields:
        fields["drift"] = _read_drift(fields["drift"])
    if "development" in fields:
        fields["development"] = tuple(fields["development"])
    return SecondStagePlan(classifier, text=text, judge=judge, **fields)


def name_judge(
    source: str | None, model: str | None, key_env: str | None, rule: str | None
) -> "JudgeAddress | str | None":
    """Return the judge that the options name: an address with its model, or the file or folder as given.

    Raises:
        ConfigError: an option belongs to an address, and there is none.
        JudgeError: an address lacks its model, or is malformed.
    """
    from lockgate.errors import ConfigError, JudgeError
    from lockgate.judges import JudgeAddress, is_address

    if source is None or not is_address(source):
        given = {"--judge-model": model, "--judge-key-env": key_env, "--judge-rule": rule}
        if lone := [name for name, value in given.items() if value is not None]:
            raise ConfigError(
                f"{lone[0]} goes with an address as --judge (http://... or https://...); a judge's file has "
                "keys of its own for this"
            )
        return source
    if model is None:
        raise JudgeError(
            "--judge: an address alone does not say which model is asked; name it with --judge-model, or "
            "give a judge's file (YAML)"
        )
    named = JudgeAddress(source, model, key_env, rule)
    named.file()
    return named


def _is_given(value: object) -> bool:
    """Whether an option was used. A weight of 0 was."""
    return value is not None and value is not False and value != []


def _read_drift(text: str) -> float | None:
    """Return the drift, or None for `auto`. Raises ConfigError."""
    from lockgate.errors import ConfigError

    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError("--drift: expected a number of logits, or auto") from None


def describe_stages(found: "CascadeCalibration", evidence: "Evidence") -> dict[str, object]:
    """Return the second stage's part of a calibration for `--json`. A share of nothing is null."""
    record = None if evidence.guard is None else evidence.guard.record
    voices = [] if record is None or record.voices is None else record.voices
    shares = {name: getattr(found, name) for name in ("lost", "caught", "caught_unscreened")}
    return {
        "escalation_budget": found.escalation_budget,
        "escalated": found.escalated,
        "escalate": found.cascade.escalate,
        "drift": found.cascade.drift,
        "escalated_by_length": [row._asdict() for row in found.escalated_by_length],
        "weight": found.cascade.weight,
        "weights": [
            {"weight": row.weight, "tpr": None if math.isnan(row.tpr) else row.tpr} for row in found.weights
        ],
        "judges": [] if record is None else list(record.judges),
        "voices": [voice.model_dump(mode="json") for voice in voices],
        "shares": [
            {"text": row.share, "tpr": None if math.isnan(row.tpr) else row.tpr} for row in evidence.shares
        ],
        "selection_fpr": found.selection_fpr,
        "judge": None if evidence.judged is None else evidence.judged.to_dict(),
        "mixture": None if evidence.mixture is None else evidence.mixture.to_dict(),
        **{name: None if math.isnan(value) else value for name, value in shares.items()},
    }


def print_stages(found: "CascadeCalibration", evidence: "Evidence") -> None:
    """Print how the two stages decide together."""
    cascade = found.cascade
    judges = () if evidence.guard is None else evidence.guard.record.judges
    second = judges[0] if len(judges) == 1 else "stage 2"
    typer.echo(
        f"Stage 2 is asked above {cascade.escalate:.4f}: about {found.escalated:.2%} of the traffic. "
        f"The mixed score is {cascade.weight:.2f} probe and {1 - cascade.weight:.2f} {second}, each in "
        "units of its spread."
    )
    if cascade.drift:
        typer.echo(f"The probe's readings are lowered by {cascade.drift:.4f} logits as the answer doubles.")
    if found.escalated_by_length:
        print_table(
            ("answer tokens up to", "exchanges", "asked about"),
            [(str(row.tokens), str(row.n), f"{row.share:.2%}") for row in found.escalated_by_length],
        )
    if (told := evidence.judged or evidence.mixture) is not None:
        print_judge(told)
    if math.isnan(found.caught):
        return
    if evidence.judged is not None:
        _print_weights(found)
        return
    lost = "" if math.isnan(found.lost) else f". The screen loses {found.lost:.1%} of these"
    typer.echo(
        f"The guard flags {found.caught:.1%} of the harmful development exchanges. Without stage 1's screen "
        f"it would flag {found.caught_unscreened:.1%}{lost}."
    )
    _print_weights(found)
    if not evidence.shares:
        return
    names = {"classifier": "the classifier", "text": "the text baseline"}
    typer.echo(f"Stage 2 holds {' and '.join(names[judge] for judge in judges)}, mixed by these shares:")
    print_table(
        ("text's share", f"caught at {found.selection_fpr:.0%} of the harmless ones"),
        [(f"{row.share:.1f}", f"{row.tpr:.3f}") for row in evidence.shares],
    )


def _print_weights(found: "CascadeCalibration") -> None:
    print_table(
        ("probe's share", f"caught at {found.selection_fpr:.0%} of the harmless ones"),
        [(f"{row.weight:.2f}", f"{row.tpr:.3f}") for row in found.weights],
    )
