"""A local guard model as a judge: Llama Guard, Qwen3Guard, ShieldGemma, Granite Guardian and their like."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lockgate.durable import hash_json
from lockgate.errors import JudgeError
from lockgate.exchanges import PromptPrints
from lockgate.judges._batches import run_batches
from lockgate.judges._file import GuardModelFile, Template
from lockgate.judges._folder import context_of, hash_folder, load_model
from lockgate.judges._judge import SAMPLE, JudgeReading, Talk
from lockgate.judges._layouts import LAYOUTS, Layout, word_ids
from lockgate.judges._text import Encoder, Turn, fill, render, turns_of


class GuardModelJudge:
    """A guard model from a local folder.

    Its logit is the difference of the log-sum-exps of the verdict words' logits at the verdict's place. A
    conversation that is too long loses its oldest turns. If the newest ones alone are too long, there is no
    verdict.

    Args:
        file: the settings.

    Raises:
        JudgeError: the folder can't be loaded, or its tokenizer can't tell the words apart.
    """

    training_prompts: PromptPrints | None = None

    def __init__(self, file: GuardModelFile) -> None:
        self.file = file
        self._content = hash_folder(Path(file.path))
        self._tokenizer, self._model, self._device = load_model("AutoModelForCausalLM", file)
        self._encoder = Encoder(self._tokenizer, file.path)
        self._limit = context_of(self._tokenizer, self._model.config, file.max_tokens)
        self._pad: int | None = self._tokenizer.pad_token_id
        self._layout = _layout_of(file)
        layout = self._layout
        self._harmful, self._harmless = word_ids(
            self._encoder, layout.lead, layout.harmful, layout.harmless, file.path
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of the folder, the settings that decide a verdict, and this version's layout."""
        return hash_json([self.file.deciding(), asdict(self._layout), self._content])

    def judge(self, talks: Sequence[Talk]) -> list[JudgeReading]:
        """See `Judge.judge`."""
        found: list[JudgeReading | None] = []
        rows: list[list[int]] = []
        for talk in talks:
            try:
                rows.append(self.tokens(talk))
                found.append(None)
            except JudgeError as error:
                found.append(JudgeReading(float("nan"), str(error)))
        logits, seconds = run_batches(
            rows,
            self._read,
            pad=self._pad,
            batch_tokens=self.file.batch_tokens,
            device=self._device,
            left=True,
        )
        given = iter(zip(logits, seconds, rows, strict=True))
        return [reading or _reading(*next(given)) for reading in found]

    def tokens(self, talk: Talk) -> list[int]:
        """Return the tokens that the model reads for a verdict on a conversation.

        Raises:
            JudgeError: the template refuses the conversation, or it is too long.
        """
        if isinstance(self.file.template, Template) or not self._tokenizer.chat_template:
            return self._fitting([[("user", fill(self._layout.question, talk))]])
        turns = turns_of(talk)
        if not turns:
            raise JudgeError("there is no text to judge")
        starts = [turn for turn in range(len(turns)) if turn == 0 or turns[turn][0] == "user"]
        return self._fitting([turns[start:] for start in starts])

    def _fitting(self, choices: Sequence[Sequence[Turn]]) -> list[int]:
        """Return the tokens of the first of some ever shorter conversations that the model can hold."""
        for turns in choices:
            ids = self._render(turns)
            if len(ids) <= self._limit:
                return ids
        raise JudgeError(f"the conversation is longer than the {self._limit} tokens that the judge can read")

    def _render(self, turns: Sequence[Turn]) -> list[int]:
        layout = self._layout
        if self._tokenizer.chat_template:
            return render(self._tokenizer, self._encoder, turns, layout.arguments, layout.lead)
        start = self._tokenizer.bos_token_id
        ids = [] if start is None else [int(start)]
        return ids + self._encoder.text(turns[0][1]) + self._encoder.template(layout.lead)

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        # Padding stands on the left, so that every verdict stands in the last place.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
        ).logits[:, -1]
        words = logits.float()
        found: Tensor = words[:, self._harmful].logsumexp(dim=1) - words[:, self._harmless].logsumexp(dim=1)
        return found

    def check(self) -> None:
        """See `Judge.check`."""
        reading = self.judge([SAMPLE])[0]
        if not reading.given:
            raise JudgeError(
                f"{self.file.path}: no verdict on a sample: {reading.error or 'the logit is not finite'}"
            )

    def close(self) -> None:
        """Do nothing, because memory goes with the object."""


def _layout_of(file: GuardModelFile) -> Layout:
    """Return the layout with the user's words, lead and arguments in place of its own."""
    if isinstance(file.template, Template):
        own = file.template
        return Layout(own.prompt, own.harmful, own.harmless, file.lead or "")
    known = LAYOUTS[file.template]
    arguments: Mapping[str, Any] = file.arguments or known.arguments
    return Layout(
        known.question,
        file.harmful or known.harmful,
        file.harmless or known.harmless,
        known.lead if file.lead is None else file.lead,
        arguments,
    )


def _reading(logit: float, seconds: float, row: Sequence[int]) -> JudgeReading:
    return JudgeReading(logit, None, seconds, len(row), 1)
