"""`lockgate train classifier`: make an exchange classifier from labelled exchanges."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockgate.cli._classifier_rows import (
    OPTIONS,
    ForGuardOption,
    MaxBundleOption,
    MinedOption,
    RowChoice,
    ScreenAboveOption,
    ScreenKeepOption,
    ScreenOption,
    WorkersOption,
    bytes_beside,
    training_rows,
)
from lockgate.cli._common import (
    DeviceOption,
    DtypeOption,
    JsonFlag,
    names_of_options,
    print_json,
    print_skipped,
)

if TYPE_CHECKING:
    from lockgate.training import ClassifierConfig


def classifier(
    inputs: Annotated[
        list[Path],
        typer.Option("--input", help="Labelled exchanges: .jsonl[.gz|.zst] or .parquet. May be repeated."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the classifier.")],
    mined: MinedOption = None,
    for_guard: ForGuardOption = None,
    screen: ScreenOption = None,
    screen_keep: ScreenKeepOption = None,
    screen_above: ScreenAboveOption = None,
    constitution: Annotated[
        str, typer.Option(help="Policy of the labels: a constitution's file, or the name of a shipped one.")
    ] = "general-harms",
    backbone: Annotated[
        str,
        typer.Option(
            help="Model to read: `embedded`, or the folder of a Hugging Face causal language model."
        ),
    ] = "embedded",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    name: Annotated[str, typer.Option(help="Name of the classifier in results.")] = "exchange",
    reads: Annotated[
        str,
        typer.Option(
            help="Text to judge: exchange, or prompt (input classifier), or answer (output classifier)."
        ),
    ] = "exchange",
    head: Annotated[
        str,
        typer.Option(
            help="Source of the score. verdict: the next token after a short question. value: a linear map."
        ),
    ] = "verdict",
    words: Annotated[
        str,
        typer.Option(help="The two verdict words with a comma between them, harmful first. Blanks count."),
    ] = " yes, no",
    depth: Annotated[
        int | None,
        typer.Option(help="Layers of the backbone to keep, from the bottom. Default: all.", min=1),
    ] = None,
    layers: Annotated[int, typer.Option(help="Layers to adapt, from the top.", min=1)] = 10,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.", min=1)] = 16,
    cuts: Annotated[int, typer.Option(help="Verdicts on each exchange in training.", min=1)] = 4,
    weighting: Annotated[
        str, typer.Option(help="Weights of these verdicts in the loss: softmax or mean.")
    ] = "softmax",
    learning_rate: Annotated[float, typer.Option(help="Learning rate of AdamW.", min=0.0)] = 2e-4,
    max_tokens: Annotated[
        int,
        typer.Option(help="Training reads only the last tokens of an exchange, at most this many.", min=32),
    ] = 1024,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens to train on. Default: one pass over the input.", min=1)
    ] = None,
    harmful_share: Annotated[
        float | None,
        typer.Option(help="Share of harmful exchanges in training. Default: as in the data."),
    ] = None,
    tokens_per_step: Annotated[int, typer.Option(help="Tokens in one update.", min=1)] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    max_bundle_mb: MaxBundleOption = 40,
    workers: WorkersOption = 1,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave malformed rows out, and count them.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Fine-tune a language model to judge a prompt with its partial answer, or one of the two alone.

    A second stage judges only what stage 1 finds suspicious. --mined and --screen train it on such exchanges.

    After an interruption, run the same command again to continue. The state is kept in OUTPUT.state, and what
    a screen has scored in OUTPUT.screen.
    """
    from lockgate.backbones import Backbone
    from lockgate.classifiers import check_classifier_target
    from lockgate.constitution import load_constitution
    from lockgate.exchanges import InvalidCounter
    from lockgate.training import check_settings, train_classifier

    settings = {
        "name": name, "reads": reads, "head": head, "words": _words(words), "depth": depth, "layers": layers,
        "rank": rank, "alpha": 2.0 * rank, "cuts": cuts, "weighting": weighting, "lr": learning_rate,
        "max_tokens": max_tokens, "tokens": tokens, "tokens_per_step": tokens_per_step,
        "harmful_share": harmful_share,
        "seed": seed,
    }  # fmt: skip
    _config(settings)  # a wrong setting is an error before the model is loaded
    policy = load_constitution(constitution)
    check_classifier_target(output)
    invalid = InvalidCounter()
    with names_of_options(OPTIONS):
        choice = RowChoice(
            *(inputs, mined or (), for_guard, screen, screen_keep, screen_above, workers, skip_invalid)
        )
        loaded = Backbone.load(backbone, device=device, dtype=dtype)
        config = _config({**settings, "dtype": loaded.placement.dtype})
        most = int(max_bundle_mb * 1e6)
        check_settings(loaded, config, beside=bytes_beside(choice.bundle()), most_bytes=most)
        output.parent.mkdir(parents=True, exist_ok=True)
        state = output.with_name(output.name + ".state")
        scratch = output.with_name(output.name + ".screen")
        with training_rows(choice, loaded, config.reads, seed, scratch, invalid) as chosen:
            made = train_classifier(
                loaded,
                chosen.rows,
                config,
                constitution=policy,
                selection=chosen.selection,
                most_bytes=most,
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
        raise ConfigError("--words: expected two words with a comma between them, harmful first")
    return harmful, harmless


def _config(settings: dict[str, Any]) -> "ClassifierConfig":
    """Make the configuration. Raises ConfigError for an unknown choice."""
    from lockgate.classifiers import HEADS, READS
    from lockgate.errors import ConfigError
    from lockgate.training import ClassifierConfig

    for field, known in (("reads", READS), ("head", HEADS)):
        if settings[field] not in known:
            raise ConfigError(f"--{field}: expected one of {', '.join(known)}")
    return ClassifierConfig(**settings)
