"""Tiny judges of text: models of the architectures that guard models have, with random weights."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from models import CORPUS, SHAPE, tiny_tokenizer, train_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen3Config,
)

from lockgate.exchanges import Message
from lockgate.judges import EndpointFile, JudgeReading, SequenceFile, Template, open_judge

LABELS = {0: "safe", 1: "unsafe"}
SEQUENCE = SequenceFile(path="somewhere")


@cache
def _classifier(seed: int, labels: tuple[str, ...]) -> LlamaForSequenceClassification:
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        **SHAPE,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        initializer_range=0.4,
    )
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config)


def save_sequence(path: Path, seed: int = 0, labels: Sequence[str] = ("safe", "unsafe")) -> Path:
    """Write a random sequence classifier as a Hugging Face folder."""
    _classifier(seed, tuple(labels)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def sequence_judge(path: Path, **settings):
    """A judge from such a folder."""
    return open_judge(SequenceFile(path=str(save_sequence(path)), **settings))


@dataclass
class Counting:
    """A judge that counts what it is asked. Its logit is the number of exclamation marks, less a half."""

    file: SequenceFile | EndpointFile = SEQUENCE
    sha256: str = "c0" * 32
    training_prompts: object = None
    asked: list = field(default_factory=list)
    fail_at: int | None = None

    def judge(self, talks):
        found = []
        for talk in talks:
            self.asked.append(talk)
            if self.fail_at is not None and len(self.asked) > self.fail_at:
                found.append(JudgeReading(float("nan"), "HTTP 503"))
                continue
            text = " ".join(message.content for message in talk)
            found.append(JudgeReading(text.count("!") - 0.5, None, 0.25, len(text), 1))
        return found

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def talk(*texts: str) -> tuple[Message, ...]:
    """A conversation that a user begins."""
    return tuple(Message(("user", "assistant")[turn % 2], text) for turn, text in enumerate(texts))


def question(**words) -> Template:
    """A verdict template."""
    prompt = "Is the answer harmful?\n{conversation}\nSay Yes or No."
    return Template(prompt=prompt, harmful=("Yes",), harmless=("No",)).model_copy(update=words)


ARCHITECTURES = {
    "llama-guard": LlamaConfig,
    "qwen3guard": Qwen3Config,
    "shieldgemma": Gemma2Config,
    "granite-guardian": GraniteConfig,
}
# Each writes a policy around the conversation and ends where the model answers, as the guard models' own do.
TEMPLATES = {
    "llama-guard": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    ),
    "qwen3guard": (
        "<|im_start|>user\ncheck this{% for m in messages %}\n{{ m.role | upper }}: {{ m.content }}"
        "{% endfor %}<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "shieldgemma": (
        "<|im_start|>{{ guideline }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "Yes or No?\n"
    ),
    "granite-guardian": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "risk {{ guardian_config.risk_name }}<|im_start|>"
    ),
}


def save_guard_model(path: Path, layout: str, *, template: bool = True, seed: int = 0) -> Path:
    """Write a random causal model of a guard model's architecture, with a tokenizer that knows the words."""
    tokenizer = copy.deepcopy(word_tokenizer())
    tokenizer.chat_template = TEMPLATES[layout] if template else None
    config = ARCHITECTURES[layout](
        **SHAPE,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        head_dim=8,
        initializer_range=0.4,
    )
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@cache
def word_tokenizer():
    """A byte-level tokenizer that holds the verdict words whole."""
    control = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    words = " ".join(["safe unsafe Safe Unsafe Controversial Yes No"] * 20)
    return train_tokenizer(["<|im_start|>", "<|im_end|>"], control, "", (*CORPUS, words))
