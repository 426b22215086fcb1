"""Fine-tuning of an exchange classifier on labelled exchanges."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier
from lockgate.constitution import Constitution
from lockgate.exchanges import Exchange, PromptPrints
from lockgate.training._classifier_config import ClassifierConfig
from lockgate.training._classifier_data import select_examples
from lockgate.training._classifier_run import ClassifierRun


def train_classifier(
    backbone: Backbone,
    exchanges: Sequence[Exchange],
    config: ClassifierConfig,
    *,
    constitution: Constitution | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 20,
    report: Callable[[str], None] = lambda _: None,
) -> ExchangeClassifier:
    """Fine-tune a classifier on `backbone`, which is left as it is.

    Both classes weigh the same in sum. With `checkpoint`, the state is kept in that file every
    `checkpoint_every` steps, and a later call with the same data and config goes on from there to the same
    result.

    Args:
        constitution: the policy by which the exchanges are labelled. Its name, version and hash go into the
            record; a guard takes no classifier without them.
        report: told of each step: its number, its loss, the tokens so far.

    Raises:
        TrainingError: no usable exchange or one class only.
        ConfigError: settings that do not fit the backbone.
    """
    run = ClassifierRun(backbone, select_examples(exchanges, config.reads), config, constitution)
    first = run.restore(checkpoint) if checkpoint else 0
    for number in range(first, len(run.steps)):
        loss = run.step(number)
        report(f"step {number + 1}/{len(run.steps)} loss {loss:.4f} tokens {run.tokens_through(number)}")
        if checkpoint and ((number + 1) % checkpoint_every == 0 or number + 1 == len(run.steps)):
            run.save(checkpoint, number + 1)
    made = run.classifier()
    made.training_prompts = PromptPrints.of(exchanges)
    return made
