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
    """Fine-tune an exchange classifier. The backbone itself is not changed.

    Both labels have the same total weight.

    Args:
        backbone: backbone that the classifier is derived from.
        exchanges: labelled exchanges.
        config: settings of the classifier and its training.
        constitution: policy that the labels follow. Its name, version and hash go into the record. A guard
            refuses a classifier without them.
        checkpoint: file that keeps the state of the run. A later call with the same data and config resumes
            from it and ends with the same result.
        checkpoint_every: steps between two checkpoints.
        report: function that receives a line about each step: its number, its loss and the tokens so far.

    Raises:
        TrainingError: no exchange is usable, or all have the same label.
        ConfigError: the settings do not fit the backbone.
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
