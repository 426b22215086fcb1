"""`lockgate train classifier`: from labelled exchanges to an exchange classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._common import JsonFlag, print_json, print_skipped

if TYPE_CHECKING:
    from lockgate.training import ClassifierConfig


def classifier(
    inputs: Annotated[
        list[Path], typer.Option("--input", help="Labelled exchanges; may be given several times.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the classifier.")],
    constitution: Annotated[
        str, typer.Option(help="The policy of the labels: a file, or the name of one that is shipped.")
    ] = "general-harms",
    backbone: Annotated[
        str, typer.Option(help="`embedded`, or a local Hugging Face causal language model.")
    ] = "embedded",
    device: Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")] = "cpu",
    name: Annotated[str, typer.Option(help="What results call it.")] = "exchange",
    reads: Annotated[
        str, typer.Option(help="exchange; prompt for an input classifier, answer for an output classifier.")
    ] = "exchange",
    head: Annotated[
        str, typer.Option(help="verdict: the next token after a short question; value: a linear map.")
    ] = "verdict",
    words: Annotated[
        str, typer.Option(help="The two verdict words, harmful first, parted by a comma; blanks count.")
    ] = " yes, no",
    depth: Annotated[
        int | None, typer.Option(help="Blocks of the backbone to keep; by default all.", min=1)
    ] = None,
    layers: Annotated[int, typer.Option(help="Blocks that are adapted, from the top.", min=1)] = 10,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.", min=1)] = 16,
    cuts: Annotated[int, typer.Option(help="Verdicts per exchange in training.", min=1)] = 4,
    weighting: Annotated[str, typer.Option(help="How they are weighed: softmax or mean.")] = "softmax",
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 2e-4,
    max_tokens: Annotated[
        int, typer.Option(help="Longer exchanges keep their last tokens in training.", min=32)
    ] = 1024,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens to train on; by default one pass over the input.", min=1)
    ] = None,
    harmful_share: Annotated[
        float | None,
        typer.Option(help="Share of harmful exchanges among those drawn; by default as in the data."),
    ] = None,
    tokens_per_step: Annotated[int, typer.Option(help="Tokens of one update.", min=1)] = 2048,
    dtype: Annotated[
        str, typer.Option(help="Precision of the frozen weights: float32 or bfloat16.")
    ] = "float32",
    seed: Annotated[int, typer.Option()] = 0,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave malformed rows out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Fine-tune a language model to judge prompt and partial answer, or one of the two alone.

    Interrupted, the same command goes on where it stopped (its state lies in OUTPUT.state until it is done).
    """
    from lockgate.backbones import Backbone
    from lockgate.classifiers import check_classifier_target
    from lockgate.constitution import load_constitution
    from lockgate.exchanges import InvalidCounter, read_exchanges
    from lockgate.training import train_classifier

    settings = {
        "name": name, "reads": reads, "head": head, "words": _words(words), "depth": depth, "layers": layers,
        "rank": rank, "alpha": 2.0 * rank, "cuts": cuts, "weighting": weighting, "lr": learning_rate,
        "max_tokens": max_tokens, "tokens": tokens, "tokens_per_step": tokens_per_step, "dtype": dtype,
        "harmful_share": harmful_share,
        "seed": seed,
    }  # fmt: skip
    config = _config(settings)
    policy = load_constitution(constitution)
    check_classifier_target(output)
    invalid = InvalidCounter()
    rows = [
        row for path in inputs for row in read_exchanges(path, skip_invalid=skip_invalid, on_invalid=invalid)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    state = output.with_name(output.name + ".state")
    made = train_classifier(
        Backbone.load(backbone, device=device),
        rows,
        config,
        constitution=policy,
        checkpoint=state,
        report=lambda line: typer.echo(f"train: {line}", err=True),
    )
    made.save(output)
    state.unlink(missing_ok=True)
    training = made.record.training or {}
    if json:
        counts = {key: training.get(key) for key in ("exchanges", "tokens_seen", "steps")}
        print_json({"classifier": str(output), "sha256": made.sha256, **counts, "invalid": invalid.count})
    else:
        print_skipped(invalid.count, invalid.first)
        typer.echo(f"classifier in {output}, {training.get('tokens_seen')} tokens seen")


def _words(text: str) -> tuple[str, str]:
    from lockgate.errors import ConfigError

    harmful, comma, harmless = text.partition(",")
    if not comma:
        raise ConfigError("--words: expected two words parted by a comma, harmful first")
    return harmful, harmless


def _config(settings: dict[str, Any]) -> "ClassifierConfig":
    """A ClassifierConfig. Raises ConfigError where a choice is none of those known."""
    from lockgate.classifiers import HEADS, READS
    from lockgate.errors import ConfigError
    from lockgate.training import ClassifierConfig

    for field, known in (("reads", READS), ("head", HEADS)):
        if settings[field] not in known:
            raise ConfigError(f"--{field}: expected one of {', '.join(known)}")
    return ClassifierConfig(**settings)
