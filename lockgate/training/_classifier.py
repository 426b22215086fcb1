"""Fine-tuning of an exchange classifier on labelled exchanges."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lockgate._extras import need
from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier, adapter_bytes, make_wrapper
from lockgate.constitution import Constitution
from lockgate.errors import ConfigError
from lockgate.exchanges import Exchange, PromptPrints
from lockgate.training._classifier_config import ClassifierConfig
from lockgate.training._classifier_data import select_examples
from lockgate.training._classifier_run import ClassifierRun, adapter_shape

# A guard is shipped and loaded as one folder. At 40 MB that is still quick.
MOST_BUNDLE_BYTES = 40_000_000


def train_classifier(
    backbone: Backbone,
    exchanges: Sequence[Exchange],
    config: ClassifierConfig,
    *,
    constitution: Constitution | None = None,
    selection: Mapping[str, Any] | None = None,
    most_bytes: int = MOST_BUNDLE_BYTES,
    checkpoint: Path | None = None,
    checkpoint_every: int = 20,
    report: Callable[[str], None] = lambda _: None,
) -> ExchangeClassifier:
    """Fine-tune an exchange classifier. The backbone itself is not changed.

    Both labels have the same total weight.

    Args:
        backbone: backbone that the classifier is derived from.
        exchanges: labelled exchanges.
        config: settings of the classifier and its training.
        constitution: policy that the labels follow. Its name, version and hash go into the record. A guard
            refuses a classifier without them.
        selection: how the exchanges were chosen, for the record: mined files, a screen.
        most_bytes: largest size of the adapter on disk.
        checkpoint: file that keeps the state of the run. A later call with the same data and config resumes
            from it and ends with the same result.
        checkpoint_every: steps between two checkpoints.
        report: function that receives a line about each step: its number, its loss and the tokens so far.

    Raises:
        TrainingError: no exchange is usable, or all have the same label.
        ConfigError: the settings do not fit the backbone, or the adapter would be too large.
    """
    check_settings(backbone, config, most_bytes=most_bytes)
    examples = select_examples(exchanges, config.reads)
    run = ClassifierRun(backbone, examples, config, constitution, selection)
    first = run.restore(checkpoint) if checkpoint else 0
    for number in range(first, len(run.steps)):
        loss = run.step(number)
        report(f"step {number + 1}/{len(run.steps)} loss {loss:.4f} tokens {run.tokens_through(number)}")
        if checkpoint and ((number + 1) % checkpoint_every == 0 or number + 1 == len(run.steps)):
            run.save(checkpoint, number + 1)
    made = run.classifier()
    made.training_prompts = PromptPrints.of(exchanges)
    return made


def check_settings(
    backbone: Backbone,
    config: ClassifierConfig,
    *,
    beside: int = 0,
    most_bytes: int = MOST_BUNDLE_BYTES,
) -> int:
    """Check, before long work, that these settings make a classifier that a guard's bundle can hold.

    Args:
        backbone: the backbone that it is derived from.
        config: settings of the classifier.
        beside: bytes of the other files of the bundle, as far as they are known.
        most_bytes: largest size of the bundle.

    Returns:
        The size of the classifier's weights on disk, in bytes.

    Raises:
        ConfigError: the settings do not fit the backbone, or the bundle would be too large.
        MissingExtra: PEFT is not installed.
    """
    need("peft", extra="train", feature="training a second stage")
    if config.head == "verdict":
        make_wrapper(backbone, config.question, config.words)
    shape = adapter_shape(backbone, config)
    size = adapter_bytes(backbone, shape) + (4 * (backbone.hidden_size + 1) if config.head == "value" else 0)
    if size + beside > most_bytes:
        fits = shape.rank * max(0, most_bytes - beside) // size
        other = f", and the rest of the bundle takes {beside / 1e6:.3g} MB" if beside else ""
        advice = f"rank {fits} fits these layers" if fits else "take fewer layers"
        raise ConfigError(
            f"rank {shape.rank} on {shape.layers} layers makes a classifier of {size / 1e6:.3g} MB{other}; a "
            f"guard's bundle may have {most_bytes / 1e6:g} MB. Take a lower rank or fewer layers ({advice}), "
            "or allow more"
        )
    return size
