"""An exchange classifier as a judge of text. Its backbone need not be the one that is served."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lockgate.backbones import Backbone
from lockgate.classifiers import ExchangeClassifier, judge
from lockgate.durable import hash_json
from lockgate.errors import JudgeError, LockgateError
from lockgate.exchanges import PromptPrints
from lockgate.judges._file import ClassifierFile, PolicyName
from lockgate.judges._judge import SAMPLE, JudgeReading, Talk


class ClassifierJudge:
    """An exchange classifier that reads conversations with its own backbone, tokenizer and template.

    Its policy is that of its training, and its training prompts are known if its folder has them.

    Args:
        file: the settings.

    Raises:
        BackboneError, BackboneMismatch, GuardError: the classifier or its backbone can't be loaded.
        JudgeError: the settings name another policy than the classifier, or it does not read exchanges.
    """

    def __init__(self, file: ClassifierFile) -> None:
        backbone = Backbone.load(file.backbone, device=file.device, dtype=file.dtype)
        self._classifier = ExchangeClassifier.load(Path(file.path), backbone)
        if self._classifier.reads != "exchange":
            raise JudgeError(
                f"{file.path}: the classifier reads {self._classifier.reads}s; a judge reads exchanges, "
                "prompt and answer together"
            )
        self.file = file.model_copy(update={"policy": _policy_of(file, self._classifier)})

    @property
    def training_prompts(self) -> PromptPrints | None:
        """Fingerprints of the prompts that the classifier was trained on."""
        return self._classifier.training_prompts

    @cached_property
    def sha256(self) -> str:
        """Hash of the classifier, of its backbone, and of the settings that decide a verdict."""
        hashes = self._classifier.base.identity.hashes
        return hash_json([self.file.deciding(), self._classifier.sha256, hashes])

    def judge(self, talks: Sequence[Talk]) -> list[JudgeReading]:
        """See `Judge.judge`."""
        return [self._judge(talk) for talk in talks]

    def _judge(self, talk: Talk) -> JudgeReading:
        classifier = self._classifier
        started = time.perf_counter()
        try:
            chat = classifier.render(talk)
            with classifier.pool(classifier.backbone.context_length) as pool:
                session = classifier.open(pool, chat, max(chat.answer_end, chat.answer_start))
                news = chat.token_ids[chat.answer_start : chat.answer_end]
                cost = session.cost(len(news))
                logit = judge(pool, [(session, news)])[0]
        except LockgateError as error:
            # The message may name roles of the conversation, but no text of it.
            return JudgeReading(float("nan"), type(error).__name__)
        return JudgeReading(logit, None, time.perf_counter() - started, cost)

    def check(self) -> None:
        """See `Judge.check`."""
        reading = self.judge([SAMPLE])[0]
        if not reading.given:
            raise JudgeError(f"{self.file.path}: no verdict on a sample ({reading.error or 'not finite'})")

    def close(self) -> None:
        """Do nothing, because memory goes with the object."""


def _policy_of(file: ClassifierFile, classifier: ExchangeClassifier) -> PolicyName | None:
    trained = (classifier.record.training or {}).get("constitution")
    if not isinstance(trained, dict):
        return file.policy
    found = PolicyName(name=str(trained.get("name")), version=str(trained.get("version")))
    given = found if file.policy is None else file.policy
    if (given.name, str(given.version)) != (found.name, found.version):
        raise JudgeError(
            f"{file.path}: policy: the classifier was trained for {found.name} (version {found.version}); "
            "leave the key out"
        )
    return found
