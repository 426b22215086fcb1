"""A local sequence classifier as a judge: a toxicity classifier, a prompt guard, a policy classifier."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lockgate.durable import hash_json
from lockgate.errors import JudgeError
from lockgate.exchanges import PromptPrints
from lockgate.judges._batches import run_batches
from lockgate.judges._file import SequenceFile
from lockgate.judges._folder import context_of, hash_folder, load_model
from lockgate.judges._judge import SAMPLE, JudgeReading, Talk
from lockgate.judges._text import Encoder, answer_of, transcript

_HARMFUL = re.compile(
    r"harmful|unsafe|toxic|malicious|jailbreak|injection|hate|offensive|violat|dangerous|abus",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"\b(not|non|no|un)[-_ ]?(?!safe)|harmless|benign|^safe$", re.IGNORECASE)


class SequenceJudge:
    """A sequence classifier from a local folder.

    Its logit is that of the harmful labels against all others: the difference of their log-sum-exps, or the
    largest of them if labels do not exclude each other. A text that is longer than the model reads is read in
    windows, and the most harmful one counts.

    Args:
        file: the settings.
        content: hash of the folder, if the caller knows it already.

    Raises:
        JudgeError: the folder can't be loaded, or its labels do not say which mean harmful.
    """

    training_prompts: PromptPrints | None = None

    def __init__(self, file: SequenceFile, content: str | None = None) -> None:
        self.file = file
        self._content = hash_folder(Path(file.path)) if content is None else content
        tokenizer, self._model, self._device = load_model("AutoModelForSequenceClassification", file)
        config = self._model.config
        self._encoder = Encoder(tokenizer, file.path)
        self._limit = context_of(tokenizer, config, file.max_tokens)
        self._pad: int | None = tokenizer.pad_token_id
        if config.pad_token_id is None:
            config.pad_token_id = self._pad
        self._harmful = harmful_labels(config.id2label, file.harmful, file.path)
        self._several = getattr(config, "problem_type", None) == "multi_label_classification"
        self._n_labels = len(config.id2label)

    @cached_property
    def sha256(self) -> str:
        """Hash of the folder and of the settings that decide a verdict."""
        return hash_json([self.file.deciding(), self._content])

    def judge(self, talks: Sequence[Talk]) -> list[JudgeReading]:
        """See `Judge.judge`."""
        rows, owners = [], []
        for number, talk in enumerate(talks):
            text = answer_of(talk) if self.file.reads == "answer" else transcript(talk)
            for window in self._encoder.windows(text, self._limit):
                # A model of no end tokens can't read an empty text.
                rows.append(window or [self._pad or 0])
                owners.append(number)
        logits, seconds = run_batches(
            rows,
            self._read,
            pad=self._pad,
            batch_tokens=self.file.batch_tokens,
            device=self._device,
            left=False,
        )
        found = [JudgeReading(-math.inf) for _ in talks]
        for owner, row, logit, spent in zip(owners, rows, logits, seconds, strict=True):
            own = found[owner]
            found[owner] = JudgeReading(
                _worse(own.logit, logit), None, own.seconds + spent, own.prompt_tokens + len(row)
            )
        return found

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits = self._model(input_ids=ids, attention_mask=mask).logits.float()
        return self._harm(logits)

    def _harm(self, logits: Tensor) -> Tensor:
        """Return the logit of harm `[batch]` of the model's logits `[batch, labels]`."""
        if self._n_labels == 1:
            return logits[:, 0]
        harmful = logits[:, self._harmful]
        if self._several:
            return harmful.max(dim=1).values
        others = [label for label in range(self._n_labels) if label not in self._harmful]
        return harmful.logsumexp(dim=1) - logits[:, others].logsumexp(dim=1)

    def check(self) -> None:
        """See `Judge.check`."""
        if not self.judge([SAMPLE])[0].given:
            raise JudgeError(f"{self.file.path}: the model gives no finite logit on a sample text")

    def close(self) -> None:
        """Do nothing, because memory goes with the object."""


def _sounds_harmful(name: str) -> bool:
    return bool(_HARMFUL.search(name)) and not _HARMLESS.search(name)


def _worse(first: float, second: float) -> float:
    """Return the larger of two logits. NaN wins over any number: a window without a verdict is no pass."""
    return second if math.isnan(second) or second > first else first


def harmful_labels(id2label: Mapping[Any, str], given: Sequence[str], where: str) -> list[int]:
    """Return the numbers of the labels that mean harmful.

    Args:
        id2label: name of each label, from the model's configuration.
        given: names or numbers that the user gave; none takes the labels with such a name.
        where: place for errors.

    Raises:
        JudgeError: a label is unknown, none or all mean harmful, or the names do not say it.
    """
    names = {int(number): str(name) for number, name in id2label.items()}
    listed = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
    if given:
        known = {name: number for number, name in names.items()}
        known |= {str(number): number for number in names}
        if unknown := [label for label in given if label not in known]:
            raise JudgeError(f"{where}: harmful: the model has no label {unknown[0]}; it has {listed}")
        found = sorted({known[label] for label in given})
    elif len(names) == 1:
        found = [0]
    else:
        found = [number for number, name in sorted(names.items()) if _sounds_harmful(name)]
    if not found or (len(names) > 1 and len(found) == len(names)):
        raise JudgeError(
            f"{where}: harmful: it is unclear which labels mean harmful; name them in the judge's file, out "
            f"of {listed}"
        )
    return found
