"""The exchange classifier: a fine-tuned language model that judges prompt and answer (CC++ section 3)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from lockgate.backbones import Backbone, RenderedChat, SessionPool, derive
from lockgate.classifiers._adapter import (
    adapter_config,
    hash_classifier,
    merge_adapter,
    read_adapter,
    read_adapter_config,
    write_adapter,
)
from lockgate.classifiers._record import ClassifierRecord, backbone_record, check_backbone
from lockgate.classifiers._sessions import ClassifierSession
from lockgate.classifiers._wrapper import Wrapper, make_wrapper, render_for
from lockgate.durable import atomic_folder, restore_folder
from lockgate.errors import ConfigError, GuardError
from lockgate.exchanges import Message, PromptPrints

VALUE_WEIGHT, VALUE_BIAS = "value.weight", "value.bias"
_RECORD_FILE = "classifier.yaml"
_PROMPTS_FILE = "training.safetensors"


class ExchangeClassifier:
    """A classifier bound to its backbone. It gives verdict logits of a conversation up to any cut.

    It reads with a derived backbone. The adapter is merged into private copies of the top layers. All other
    weights use the base's memory. The base is never changed.

    Attributes:
        backbone: the derived backbone that it reads with.
        base: the backbone that it was made from.
        record: the content of `classifier.yaml`.
        tensors: the adapter (and value head), float32, under PEFT's names.
        tokens_per_verdict: tokens that are read for a verdict and then forgotten; 0 with a value head.
        training_prompts: fingerprints of the prompts that it was trained on; None if they are not known.
        tokens_per_window: conversation tokens that one session can hold (see `ClassifierSession`).

    Raises:
        BackboneMismatch: the classifier was made for another backbone.
        ConfigError: the verdict words are not two different single tokens.
        GuardError: the tensors do not fit the record.
    """

    def __init__(
        self,
        base: Backbone,
        record: ClassifierRecord,
        tensors: Mapping[str, Tensor],
        training_prompts: PromptPrints | None = None,
    ) -> None:
        check_backbone(record, base)
        self.training_prompts = training_prompts
        self.base, self.record, self.tensors = base, record, dict(tensors)
        self.reads, self.head, self.name = record.reads, record.head, record.name
        self._wrapper: Wrapper | None = None
        self._value: tuple[Tensor, Tensor] | None = None
        if record.head == "verdict":
            self._wrapper = make_wrapper(base, record.question, record.words)
        else:
            self._value = self._take_value_head()
        self.suffix: tuple[int, ...] = self._wrapper.suffix if self._wrapper else ()
        self.tokens_per_verdict = len(self.suffix)
        self.backbone = derive(
            base,
            depth=record.adapter.depth,
            private=record.adapter.blocks,
            name=f"{record.name} on {base.name}",
        )
        lora = {key: value for key, value in self.tensors.items() if key not in (VALUE_WEIGHT, VALUE_BIAS)}
        merge_adapter(self.backbone, record.adapter, lora)
        self.tokens_per_window = base.context_length - self.tokens_per_verdict

    @classmethod
    def load(cls, path: str | Path, backbone: Backbone) -> "ExchangeClassifier":
        """Read a folder that `save` wrote.

        Raises:
            GuardError: the folder is incomplete or damaged.
            BackboneMismatch: the classifier was made for another backbone.
            ExchangeError: its fingerprints of training prompts are damaged.
        """
        folder = Path(path)
        restore_folder(folder)
        record, expected = _read_record(folder / _RECORD_FILE)
        config = read_adapter_config(folder)
        tensors = read_adapter(folder, value_head=record.head == "value")
        if hash_classifier(record.model_dump(mode="json"), config, tensors) != expected:
            raise GuardError(f"{folder}: the files do not belong together or are damaged; train again")
        prints = folder / _PROMPTS_FILE
        return cls(backbone, record, tensors, PromptPrints.load(prints) if prints.is_file() else None)

    def save(self, path: str | Path, *, prompts: bool = True) -> None:
        """Write the classifier to a folder, and replace an older classifier there as a whole.

        The folder contains a PEFT adapter that other tools can read, `classifier.yaml` and, with a value
        head, its weights.

        Args:
            prompts: whether to write the fingerprints of training prompts too. A guard leaves them out,
                because it keeps one file of fingerprints for both stages.

        Raises:
            GuardError: something that is not a classifier is at `path`.
        """
        target = Path(path)
        check_classifier_target(target)
        content = {**self.record.model_dump(mode="json"), "sha256": self.sha256}
        with atomic_folder(target) as part:
            write_adapter(part, self._config(), self.tensors)
            if prompts and self.training_prompts is not None:
                self.training_prompts.save(part / _PROMPTS_FILE)
            (part / _RECORD_FILE).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    @cached_property
    def sha256(self) -> str:
        """Hash of the record, the adapter's settings and all tensors. `save` and `load` keep it."""
        return hash_classifier(self.record.model_dump(mode="json"), self._config(), self.tensors)

    def render(self, messages: Sequence[Message]) -> RenderedChat:
        """Render the part of a conversation that this classifier reads (see `render_for`)."""
        return render_for(self.base, self.reads, messages)

    def pool(self, kv_tokens: int) -> SessionPool:
        """Make a pool for sessions of up to `kv_tokens` tokens in total, including suffixes."""
        return SessionPool(self.backbone, kv_tokens)

    def open(self, pool: SessionPool, chat: RenderedChat, capacity: int) -> ClassifierSession:
        """Open a session over the tokens before the answer in `chat`. The first verdict reads them.

        Args:
            chat: the result of `render`. Tokens from `answer_start` on are left out; give them to `extend` or
                `judge`.
            capacity: conversation tokens, prompt and answer, that the session can hold.

        Raises:
            PoolFull: there is no memory now.
            ContextOverflow: the prompt alone is longer than `capacity`.
        """
        prompt = chat.token_ids[: chat.answer_start]
        # A value head needs at least one token to read, even if there is no answer yet.
        prefix = max(0, min(chat.prefix_length, len(prompt) - 1))
        return ClassifierSession(self, pool, prompt, prefix, capacity)

    @torch.inference_mode()
    def verdicts(self, hidden: Tensor) -> list[float]:
        """Return the verdict logits of final hidden states `[rows, hidden]`. Positive means harmful."""
        return [float(value) for value in self.verdict_logits(hidden).tolist()]

    def verdict_logits(self, hidden: Tensor) -> Tensor:
        """Return the same logits as a float32 tensor `[rows]`. Gradients flow."""
        if self._value is not None:
            weight, bias = self._value
            return hidden.float() @ weight + bias
        if self._wrapper is None:
            raise ConfigError(f"classifier {self.name} has neither verdict words nor a value head")
        yes, no = self.backbone.token_logits(hidden, (self._wrapper.yes, self._wrapper.no)).unbind(1)
        return yes - no

    def flops(self, tokens: int, past: float, *, shared: bool = False) -> float:
        """Return the FLOPs of reading `tokens` tokens after `past` others. A multiply-add counts as two.

        Args:
            shared: whether another reader has run the layers below the adapter. They are then left out.
        """
        share = self.record.adapter.layers / self.record.adapter.depth if shared else 1.0
        return tokens * share * self.backbone.flops_per_token(past + tokens / 2)

    def _take_value_head(self) -> tuple[Tensor, Tensor]:
        size = (self.base.hidden_size,)
        weight, bias = self.tensors.get(VALUE_WEIGHT), self.tensors.get(VALUE_BIAS)
        if weight is None or bias is None or weight.shape != size or bias.shape != ():
            raise GuardError(f"classifier {self.name}: expected a value head of {size[0]} weights and a bias")
        return weight.float().to(self.base.device), bias.float().to(self.base.device)

    def _config(self) -> dict[str, Any]:
        return adapter_config(self.record.adapter, str(self.record.backbone.get("name", "")))


def check_classifier_target(path: Path) -> None:
    """Check that `save` may write to `path`.

    Raises:
        GuardError: something that is not a classifier is there.
    """
    free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not free and not (path / _RECORD_FILE).is_file():
        raise GuardError(f"{path}: exists and is no classifier; choose another folder")


def classifier_record(backbone: Backbone, fields: Mapping[str, Any]) -> ClassifierRecord:
    """Make a record for `backbone`.

    Args:
        fields: all other fields of `ClassifierRecord`.

    Raises:
        ConfigError: a setting is not usable. The message names the field.
    """
    try:
        return ClassifierRecord(backbone=backbone_record(backbone), **fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"classifier: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _read_record(path: Path) -> tuple[ClassifierRecord, str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GuardError(f"{path}: not readable; restore the file or train again") from error
    if not isinstance(content, dict) or not isinstance(content.get("sha256"), str):
        raise GuardError(f"{path}: expected a mapping that ends in sha256; the file is cut short or damaged")
    expected = content.pop("sha256")
    try:
        return ClassifierRecord.model_validate(content), expected
    except ValidationError as error:
        first = error.errors()[0]
        raise GuardError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
